"""One build of this server beside another, on the model inside the binary: what users of the older one gain."""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping

from . import loads, processes, servers, tool
from .loads import MODELS, OFFICIAL, Arm
from .processes import Failed, Interrupted
from .rows import median, plain_table, ratio, shown
from .servers import Server
from .tool import Bench, said_version, say
from .turns import turns

ENGINES = ("rten", "onnxruntime")
# Items in flight: a feed has a few of them under way at a time.
IN_FLIGHT = {"full": 512, "lone": 1}
SEARCH = tool.ROOT / "loadtest/scenarios/search-realtime.toml"
# Of the scenario, which begins with few streams.
SEARCH_SETTINGS = ("search.from=8", "search.to=512")
SEARCH_PATIENCE_S = 900
COSTS_PATIENCE_S = 30

DESCRIPTION = """\
Starts two builds of the server with the model inside the binary, one after the other, and gives both the same loads in turns:

  costs  microseconds an item in a call of 1, 2, 4 ... items, as the server measures its engine when it starts
  full   items a second of 128 streams that are never without items under way
  lone   microseconds from sending to the answer, of one item at a time
  live   streams at the pace of speech whose answers come within 50 ms, 99 of 100

Both servers and the client share the machine's cores. Keep it idle otherwise.
Build first: cargo build --release --workspace, and the other version in a checkout of its own."""


@dataclasses.dataclass(frozen=True)
class Build:
    """A server binary, and the name that the table gives it."""

    name: str
    binary: pathlib.Path

    def command(self, engine: str, cache: str) -> list[str]:
        addresses = [f"--{port}-addr=127.0.0.1:0" for port in ("grpc", "http", "admin")]
        library = ["--onnxruntime", str(tool.onnxruntime())] if engine == "onnxruntime" else []
        settings = [f"engine.default={engine}", "models.example=false", "log.format=json"]
        words = [word for each in settings for word in ("--set", each)]
        # Costs that an earlier start has kept are those of another moment.
        return ["env", f"XDG_CACHE_HOME={cache}", str(self.binary), "serve", *addresses, *library, *words]


@dataclasses.dataclass(frozen=True)
class Bearing:
    """Streams that a server bears, found by a search."""

    streams: float


def costs(bench: Bench, server: Server) -> dict[int, float]:
    """Microseconds an item takes, by the size of the call."""
    command = [str(bench.server), "models", OFFICIAL, "--addr", str(server.grpc), "--json"]
    text = processes.run(command, patience_s=COSTS_PATIENCE_S)
    try:
        measured = json.loads(text)["model"]["batch_costs"]
        return {cost["batch_size"]: cost["duration_ns"] / 1e3 / cost["batch_size"] for cost in measured}
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"{server.name} says no costs of {OFFICIAL}: {error!r}") from error


def bearing(text: str) -> Bearing:
    """Reads a result of `tidemill-load run` with a search: the streams of the last step that it found to hold."""
    try:
        result = json.loads(text)
        factor = result["search"]["factor"]
        [streams, *_] = [step["streams"] for step in result["steps"] if step["factor"] == factor]
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"the search found no number of streams: {error!r}") from error
    return Bearing(streams)


def _search(bench: Bench, server: Server) -> Bearing:
    settings = [word for each in SEARCH_SETTINGS for word in ("--set", each)]
    command = [str(bench.load_tool), "run", str(SEARCH), "--addr", str(server.grpc), *settings, "--json", "-"]
    return bearing(server.load(command, patience_s=SEARCH_PATIENCE_S))


def _load(bench: Bench, server: Server, what: str, seconds: float) -> loads.Found:
    return loads.load(bench, Arm(server, "feed"), MODELS[OFFICIAL], in_flight=IN_FLIGHT[what], seconds=seconds, commands=[])


Table = list[list[str]]


def compared(what: str, unit: str, found: Mapping[str, list[float] | Failed], *, lower_is_better: bool) -> list[str]:
    """A row: the medians of both builds, and how many times as good as the first the second is."""
    sides = list(found.values())
    cells, middles = [], []
    for runs in sides:
        if isinstance(runs, Failed):
            cells.append(str(runs))
            continue
        middles.append(median(runs))
        spread = f" ({shown(min(runs))} to {shown(max(runs))})" if len(runs) > 1 else ""
        cells.append(f"{shown(middles[-1])}{spread}")
    if len(middles) < len(sides):
        gain = "-"
    else:
        old, new = middles
        gain = f"{ratio(old, new) if lower_is_better else ratio(new, old):.2f}"
    return [what, unit, *cells, gain]


def measure(bench: Bench, engine: str, builds: Iterable[Build], arguments: argparse.Namespace) -> Table:
    """All rows of one engine."""
    started = contextlib.ExitStack()
    with started:
        # Both are up, one at work: what rests costs the other nothing.
        found = {build.name: _start(started, build, engine) for build in builds}
        rows: Table = []
        if "costs" in arguments.parts:
            sides = turns(1, {name: _asked(costs, bench, server) for name, server in found.items()})
            rows.extend(_cost_rows(engine, sides))
        if "full" in arguments.parts:
            sides = turns(arguments.rounds, {name: _asked(_load, bench, server, "full", arguments.seconds) for name, server in found.items()})
            rows.append(compared(f"{engine}, full", "items/s", _figures(sides, "items_per_s"), lower_is_better=False))
            rows.append(compared(f"{engine}, full", "us of a core an item", _figures(sides, "cpu_us_per_item"), lower_is_better=True))
        if "lone" in arguments.parts:
            sides = turns(arguments.rounds, {name: _asked(_load, bench, server, "lone", arguments.seconds) for name, server in found.items()})
            rows.append(compared(f"{engine}, lone", "ms, median", _figures(sides, "p50_ms"), lower_is_better=True))
        if "live" in arguments.parts:
            sides = turns(1, {name: _asked(_search, bench, server) for name, server in found.items()})
            rows.append(compared(f"{engine}, live", "streams", _figures(sides, "streams"), lower_is_better=False))
    return rows


def _asked(question: Callable, *arguments: object) -> Callable:
    return lambda: question(*arguments)


def _start(stack: contextlib.ExitStack, build: Build, engine: str) -> Server:
    say(f"{build.name} on {engine}, load {os.getloadavg()[0]:.2f}")
    cache = stack.enter_context(tempfile.TemporaryDirectory())
    return stack.enter_context(servers.of_command(build.name, said_version(build.binary), build.command(engine, cache)))


def _figures(sides: Mapping[str, list | Failed], figure: str) -> dict[str, list[float] | Failed]:
    return {
        name: runs if isinstance(runs, Failed) else [getattr(run, figure) for run in runs] for name, runs in sides.items()
    }


def _cost_rows(engine: str, sides: Mapping[str, list[dict[int, float]] | Failed]) -> Table:
    sizes = sorted({size for runs in sides.values() if not isinstance(runs, Failed) for size in runs[0]})
    rows = []
    for size in sizes:
        of_size = {
            name: runs if isinstance(runs, Failed) else [run[size] for run in runs if size in run] for name, runs in sides.items()
        }
        rows.append(compared(f"{engine}, call of {size}", "us an item", of_size, lower_is_better=True))
    return rows


def main() -> int:
    arguments = _arguments()
    processes.guard()
    bench = Bench(tool.FULL, arguments.binaries.resolve(), tool.SCRATCH)
    bench.scratch.mkdir(parents=True, exist_ok=True)
    try:
        builds = [Build("old", arguments.old.resolve()), Build("new", bench.server)]
        rows = [row for engine in arguments.engines for row in measure(bench, engine, builds, arguments)]
        print(plain_table(["what", "unit", "old", "new", "times as good"], rows))
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        say(str(interrupted))
        return interrupted.status
    finally:
        processes.stop_all()
    return 0


PARTS = ("costs", "full", "lone", "live")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="loadtest/versions", allow_abbrev=False, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("old", type=pathlib.Path, metavar="OLD", help="the other version's server binary")
    option("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART", help=f"only these: {', '.join(PARTS)}")
    option("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, metavar="ENGINE", help=f"of {', '.join(ENGINES)}; both by default")
    option("--rounds", type=int, default=5, help="runs of each build, of which the median counts (5)")
    option("--seconds", type=float, default=3.0, help="of each run (3)")
    option("--binaries", type=pathlib.Path, default=tool.ROOT / "target/release", metavar="DIR", help="folder of this version's binaries (target/release)")
    return parser.parse_args()
