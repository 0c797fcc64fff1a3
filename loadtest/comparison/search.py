"""Which settings make each peer fastest with each model on this machine: tried under the load of the table, and recorded.

Settings are varied one after another, starting from the best so far: workers and threads together, then the largest batch, then the
delay, and then workers and threads again if one of those has changed. A peer is restarted for each setting.
"""

import argparse
import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Iterator

from . import cells, loads, machine, processes, servers, tool
from .loads import MODELS, Arm
from .peer_record import DEFAULTS, PATH, Batching, Record, Search, Tried
from .processes import Failed, Interrupted
from .rows import median, plain_table
from .servers import PEERS
from .tool import Bench, say
from .turns import turns

BATCHES = (1, 4, 16, 64)
# In us. Mosec counts in milliseconds, and 0 means its default of 10; LitServe would poll without a pause, on a whole core; what BentoML
# calls a latency is not a delay.
DELAYS = {"mosec": (1_000, 3_000), "litserve": (1_000, 3_000), "bentoml": (60_000_000,)}
DELAYS_OF_OTHERS = (0, 1_000, 3_000)
# Settings within this share of the fastest are ranked by the processor time that they take.
ALIKE = 0.02
# A setting whose first run is slower than the best so far by this share is not run again. Among 358 settings that ran three times, the
# first run was never slower than the median by more than 29 %.
BEHIND = 0.3


def splits(peer: str, cores: int) -> list[tuple[int, int]]:
    """The workers, and threads of a call, that are tried: the cores split in every way, by powers of two, and twice as many workers.

    MLServer can do without workers, and makes its calls in the process that serves.
    """
    steps = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    counts = list(dict.fromkeys([*steps, cores]))
    pairs = [(workers, threads) for workers in counts for threads in counts if workers * threads <= cores]
    alone = [(0, threads) for threads in counts] if peer == "mlserver" else []
    return [*alone, *pairs, (2 * cores, 1)]


def best(tried: Iterable[Tried]) -> Tried | None:
    """The fastest without errors; of those that are practically equal, the one that takes the least processor time for its items."""
    sound = [each for each in tried if each.rate > 0 and not each.errors]
    if not sound:
        return None
    fastest = max(each.rate for each in sound)
    alike = [each for each in sound if each.rate >= fastest * (1 - ALIKE)]
    return min(alike, key=lambda each: each.cores / each.rate)


def search(peer: str, cores: int, measure: Callable[[Batching, float], Tried]) -> tuple[Batching, tuple[Tried, ...]]:
    """The best, and everything that was tried, each once. `measure` also gets the best rate so far."""
    tried: dict[Batching, Tried] = {}

    def leader() -> Tried:
        return best(tried.values()) or Tried(DEFAULTS[peer])

    def stand() -> Batching:
        return leader().batching

    def look(settings: Iterator[Batching]) -> None:
        for batching in settings:
            if batching not in tried:
                tried[batching] = measure(batching, leader().rate)

    def vary_split() -> None:
        at = stand()
        look(dataclasses.replace(at, workers=workers, threads=threads) for workers, threads in splits(peer, cores))

    look(iter([DEFAULTS[peer]]))
    vary_split()
    before = stand()
    look(dataclasses.replace(before, max_batch=size) for size in BATCHES)
    at = stand()
    # Without batches there is nothing to wait for.
    if at.max_batch > 1:
        look(dataclasses.replace(at, delay_us=delay_us) for delay_us in DELAYS.get(peer, DELAYS_OF_OTHERS))
    if stand() != before:
        vary_split()
    return stand(), tuple(tried.values())


def models_of(peer: str) -> list[str]:
    """The models that the comparison runs on it."""
    return [model for model in MODELS if cells.keys(model, peer)]


def load_of(model: str, rounds: int, seconds: float) -> str:
    """In words, for the record."""
    runs = f"{rounds} runs of {seconds:g} s after {loads.WARM_UP_S:g} s to warm up"
    return f"{MODELS[model].in_flight} items under way, {runs}, or one where that was slower than the best by {BEHIND:.0%}"


def tried(
    bench: Bench, peer: str, model: str, batching: Batching, rounds: int, seconds: float, to_beat: float = 0.0
) -> tuple[Tried, str]:
    """One setting, and the version that the peer reports. It runs only once if that shows it to be far from the rate to beat."""
    [(_, _, protocol)] = cells.keys(model, peer)
    version = ""

    def run() -> loads.Found:
        nonlocal version
        version = server.version
        in_flight = MODELS[model].in_flight
        return loads.load(bench, Arm(server, protocol), MODELS[model], in_flight=in_flight, seconds=seconds, commands=[])

    try:
        with servers.peer(bench, peer, model, batching) as server:
            runs = turns(1, {peer: run})[peer]
            if not isinstance(runs, Failed) and runs[0].items_per_s >= to_beat * (1 - BEHIND):
                more = turns(rounds - 1, {peer: run})[peer]
                runs = more if isinstance(more, Failed) else [*runs, *more]
    except Failed as failed:
        runs = failed
    if isinstance(runs, Failed):
        return Tried(batching, reason=str(runs)), version
    rates = tuple(round(each.items_per_s, 1) for each in runs)
    cores, p99_ms = (round(median([getattr(each, name) for each in runs]), 3) for name in ("cores", "p99_ms"))
    return Tried(batching, rates, cores, p99_ms, sum(each.errors for each in runs)), version


def main() -> int:
    arguments = _arguments()
    processes.guard()
    bench = Bench(tool.FULL, (arguments.binaries or tool.ROOT / "target/release").resolve(), tool.SCRATCH)
    bench.scratch.mkdir(parents=True, exist_ok=True)
    try:
        return _run(bench, arguments)
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        say(f"{interrupted}: the searches that were finished are recorded")
        return interrupted.status
    finally:
        processes.stop_all()


def _run(bench: Bench, arguments: argparse.Namespace) -> int:
    if not (arguments.no_build or arguments.binaries):
        tool.build()
    tool.make_models(bench)
    record = Record.read(arguments.record)
    if not record.is_of_this_machine():
        say(f"{arguments.record} is from another machine ({record.machine}): a new record begins")
        record = Record.fresh()
    unfinished = 0
    for peer in arguments.peers:
        try:
            servers.install(peer)
        except Failed as failed:
            say(f"{peer} cannot be installed: {failed}")
            unfinished += 1
            continue
        for model in arguments.models or models_of(peer):
            if model not in models_of(peer) or record.search(peer, model) and not arguments.again:
                continue
            unfinished += not _search_one(bench, arguments, record, peer, model)
    return 1 if unfinished else 0


def _search_one(bench: Bench, arguments: argparse.Namespace, record: Record, peer: str, model: str) -> bool:
    """Whether anything ran; if so, it is recorded."""
    say(f"{peer} with {model}, load {os.getloadavg()[0]:.2f}")
    versions = []

    def measure(batching: Batching, to_beat: float) -> Tried:
        found, version = tried(bench, peer, model, batching, arguments.rounds, arguments.seconds, to_beat)
        versions.append(version)
        say(f"  {' '.join(batching.options())}: {found.reason or f'{found.rate:,.0f} items/s on {found.cores:.2f} cores'}")
        return found

    chosen, all_tried = search(peer, os.cpu_count() or 1, measure)
    rows = [[*map(str, dataclasses.astuple(each.batching)), f"{each.rate:,.1f}", f"{each.cores:.2f}", each.reason] for each in all_tried]
    print(plain_table(["max_batch", "delay_us", "workers", "threads", "items/s", "cores", "why not"], rows))
    if best(all_tried) is None:
        say(f"{peer} with {model}: nothing ran without errors, and nothing is recorded")
        return False
    print(f"{peer} with {model}: {' '.join(chosen.options())}", flush=True)
    load = load_of(model, arguments.rounds, arguments.seconds)
    record.searches[peer, model] = Search(chosen, next(filter(None, versions), ""), machine.now(), load, all_tried)
    record.write(arguments.record)
    return True


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest/peers/search", allow_abbrev=False, description=(
        "Tries settings of the peers with each model, under the same load as in the comparison, and records the best and all figures in "
        f"{PATH.relative_to(tool.ROOT)}, from which `serve` takes its settings. Existing records are kept. Each peer takes one to four "
        "minutes per model; keep the machine idle otherwise."
    ))
    option = parser.add_argument
    option("peers", nargs="*", type=_peer, default=list(PEERS), metavar="PEER", help=f"of {', '.join(PEERS)}; all of them by default")
    option("--models", nargs="+", default=[], choices=list(MODELS), metavar="MODEL", help=f"only these: {', '.join(MODELS)}")
    option("--rounds", type=int, default=3, help="runs of each setting that may be the best; their median counts (3)")
    option("--seconds", type=float, default=1.5, help="length of each run (1.5)")
    option("--again", action="store_true", help="also search what is recorded already")
    option("--no-build", action="store_true", help="use the binaries as they are")
    option("--binaries", type=pathlib.Path, metavar="DIR", help="use those in this folder, and build none (target/release)")
    option("--record", type=pathlib.Path, default=PATH, metavar="FILE", help="another file for the record")
    return parser.parse_args()


def _peer(name: str) -> str:
    if name not in PEERS:
        raise argparse.ArgumentTypeError(f"there is no peer {name!r}; there are {', '.join(PEERS)}")
    return name
