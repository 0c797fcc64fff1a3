"""The lines against peers: one model on this server and on a peer, loaded in turns by the same load generator."""

import contextlib
import dataclasses

from . import perf, servers
from .loads import MODELS, Arm, Found, load, middle
from .processes import Failed
from .rows import Line, Row, median, ratio
from .servers import Server
from .tool import Bench, say

MODEL = "silero-vad"
HTTP_PEERS = ("mosec", "litserve", "bentoml", "rayserve")


@dataclasses.dataclass(frozen=True)
class Duel:
    """One line: how, and at which concurrency."""

    line: Line
    peer: str
    # Of `perf_analyzer`; or None for HTTP, by the tool of this repository.
    streaming: bool | None
    concurrency: int


def duels(levels: tuple[int, ...]) -> list[Duel]:
    """All lines against peers at these concurrencies."""

    def perf_line(name: str, title: str, reach: float, peer: str, streaming: bool, level: int) -> Duel:
        way = "streaming" if streaming else "unary"
        what = f"Silero infer/s, perf_analyzer {way}, concurrency {level}"
        return Duel(Line(f"{name}-{way}-{level}", what, title, reach), peer, streaming, level)

    found = [
        perf_line("perf-triton", "Triton, Python backend", 5, "triton", streaming, level)
        for streaming in (False, True)
        for level in levels
    ]
    found += [perf_line("peer-mlserver", "MLServer", 8, "mlserver", False, level) for level in levels]
    found += [
        Duel(Line(f"peer-{peer}-{level}", f"Silero items/s, HTTP, {level} callers", f"{TITLES[peer]}, HTTP", 8), peer, None, level)
        for peer in HTTP_PEERS
        for level in levels
    ]
    return found


TITLES = {
    "triton": "Triton",
    "mlserver": "MLServer",
    "mosec": "Mosec",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "rayserve": "Ray Serve",
}


def measure(bench: Bench, ours: Server | None, theirs: dict[str, Server | Failed], wanted: list[Duel]) -> list[Row]:
    """The rows of these duels, on servers that run. A row that fails says why, and the others go on."""
    rows = []
    for duel in wanted:
        say(f"  {duel.line.name}")
        rival = theirs.get(duel.peer, Failed(f"{duel.peer} was not started"))
        commands: list[str] = []
        try:
            if isinstance(rival, Failed):
                raise rival
            if ours is None:
                raise Failed("this server did not start")
            figures = _http(bench, ours, rival, duel, commands) if duel.streaming is None else _perf(bench, ours, rival, duel, commands)
            figures |= {"version": ours.version, "peer": rival.name, "peer_version": rival.version}
            commands[:0] = [ours.command, rival.command]
            rows.append(duel.line.measured(ratio(figures["per_s"], figures["peer_per_s"]), bench.effort.runs, figures, commands))
        except Failed as failed:
            rows.append(duel.line.missing(str(failed), commands))
    return rows


def _perf(bench: Bench, ours: Server, rival: Server, duel: Duel, commands: list[str]) -> dict:
    runs: dict[str, list[perf.Perf]] = {"": [], "peer_": []}
    for _ in range(bench.effort.runs):
        for prefix, server in (("", ours), ("peer_", rival)):
            if server.grpc is None:
                raise Failed(f"{server.name} has no gRPC port")
            try:
                run = perf.run(bench, server.grpc, MODEL, duel.concurrency, streaming=bool(duel.streaming), commands=commands)
            except Failed as failed:
                raise Failed(f"against {server.name}: {failed}") from failed
            runs[prefix].append(run)
    figures = {}
    for prefix, measured in runs.items():
        figures[f"{prefix}per_s"] = median([run.infer_per_s for run in measured])
        figures[f"{prefix}p50_us"] = median([run.p50_us for run in measured])
    return figures


def _http(bench: Bench, ours: Server, rival: Server, duel: Duel, commands: list[str]) -> dict:
    arms = {"": Arm(ours, "http_infer"), "peer_": Arm(rival, "http_post")}
    runs: dict[str, list[Found]] = {prefix: [] for prefix in arms}
    seconds = bench.effort.load_seconds
    for _ in range(bench.effort.runs):
        for prefix, arm in arms.items():
            runs[prefix].append(load(bench, arm, MODELS[MODEL], in_flight=duel.concurrency, seconds=seconds, commands=commands))
    figures = {}
    for prefix, measured in runs.items():
        found = middle(measured)
        figures[f"{prefix}per_s"] = found.items_per_s
        figures[f"{prefix}p50_us"] = found.p50_ms * 1e3
        figures[f"{prefix}p99_us"] = found.p99_ms * 1e3
        figures[f"{prefix}cpu_us_per_item"] = found.cpu_us_per_item
        figures[f"{prefix}errors"] = found.errors
    return figures


def start_all(
    bench: Bench, stack: contextlib.ExitStack, names: list[str], model: str, broken: dict[str, Failed]
) -> dict[str, Server | Failed]:
    """Starts peers one after the other; one that does not start is its reason."""
    started: dict[str, Server | Failed] = {}
    for name in names:
        if name in broken:
            started[name] = broken[name]
            continue
        try:
            say(f"starting {name} with {model}")
            started[name] = stack.enter_context(servers.peer(bench, name, model))
        except Failed as failed:
            say(f"  {failed}")
            started[name] = failed
    return started
