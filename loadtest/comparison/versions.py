"""One build of this server against another, on the model inside the binary: what users of the older one gain."""

import argparse
import contextlib
import dataclasses
import functools
import json
import operator
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Container, Iterator
from typing import TypeVar

from . import loads, processes, servers, tool
from .loads import MODELS, OFFICIAL, Arm
from .processes import Failed, Interrupted
from .rows import median, plain_table, ratio, shown
from .servers import Server
from .tool import Bench, said_version, say
from .turns import turns

T = TypeVar("T")

ENGINES = ("rten", "onnxruntime")
PARTS = ("costs", "full", "lone", "live")
# Items in flight: a feed has a few of them under way at a time.
IN_FLIGHT = {"full": 512, "lone": 1}
SEARCH = tool.ROOT / "loadtest/scenarios/search-realtime.toml"
# For the scenario, which begins with few streams.
SEARCH_SETTINGS = ("search.from=8", "search.to=512")
SEARCH_PATIENCE_S = 900
COSTS_PATIENCE_S = 30

DESCRIPTION = """\
Starts two builds of the server with the model inside the binary, and puts the same loads on both in turns:

  costs  microseconds per item in a call with 1, 2, 4 ... items, as measured by a server that starts with nothing else running
  full   items per second of 128 streams that always have items under way
  lone   microseconds from sending to the answer, for one item at a time
  live   streams at the pace of speech whose answers come within 50 ms, 99 of 100

Both servers and the client share the machine's cores. Keep it idle otherwise.
Build first: cargo build --release --workspace, and the other version in its own checkout."""


@dataclasses.dataclass(frozen=True)
class Build:
    """A server binary, and its name in the table."""

    name: str
    binary: pathlib.Path

    def command(self, engine: str, cache: str) -> list[str]:
        addresses = [f"--{port}-addr=127.0.0.1:0" for port in ("grpc", "http", "admin")]
        library = ["--onnxruntime", str(tool.onnxruntime())] if engine == "onnxruntime" else []
        settings = [f"engine.default={engine}", "models.example=false", "log.format=json"]
        words = [word for each in settings for word in ("--set", each)]
        # Costs kept by an earlier start would be those of another moment.
        return ["env", f"XDG_CACHE_HOME={cache}", str(self.binary), "serve", *addresses, *library, *words]


def costs(bench: Bench, server: Server) -> dict[int, float]:
    """Microseconds per item, by the size of the call."""
    command = [str(bench.server), "models", OFFICIAL, "--addr", str(server.grpc), "--json"]
    text = processes.run(command, patience_s=COSTS_PATIENCE_S)
    try:
        measured = json.loads(text)["model"]["batch_costs"]
        return {cost["batch_size"]: cost["duration_ns"] / 1e3 / cost["batch_size"] for cost in measured}
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"{server.name} says no costs of {OFFICIAL}: {error!r}") from error


def bearing(text: str) -> float:
    """Reads a result of `tidemill-load run` with a search: the streams of the last step that held."""
    try:
        result = json.loads(text)
        factor = result["search"]["factor"]
        [streams, *_] = [step["streams"] for step in result["steps"] if step["factor"] == factor]
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"the search found no number of streams: {error!r}") from error
    return streams


def _search(bench: Bench, server: Server) -> float:
    settings = [word for each in SEARCH_SETTINGS for word in ("--set", each)]
    command = [str(bench.load_tool), "run", str(SEARCH), "--addr", str(server.grpc), *settings, "--json", "-"]
    return bearing(server.load(command, patience_s=SEARCH_PATIENCE_S))


def _load(bench: Bench, server: Server, what: str, seconds: float) -> loads.Found:
    return loads.load(bench, Arm(server, "feed"), MODELS[OFFICIAL], in_flight=IN_FLIGHT[what], seconds=seconds, commands=[])


Runs = list[float] | Failed


def compared(what: str, unit: str, old: Runs, new: Runs, *, lower_is_better: bool) -> list[str]:
    """A row: the medians of both builds, and how many times as good the new one is as the old one."""
    gain = "-"
    if not isinstance(old, Failed) and not isinstance(new, Failed):
        ends = (median(old), median(new)) if lower_is_better else (median(new), median(old))
        gain = f"{ratio(*ends):.2f}"
    return [what, unit, _cell(old), _cell(new), gain]


def _cell(runs: Runs) -> str:
    if isinstance(runs, Failed):
        return str(runs)
    spread = f" ({shown(min(runs))} to {shown(max(runs))})" if len(runs) > 1 else ""
    return f"{shown(median(runs))}{spread}"


def _picked(runs: list[T] | Failed, pick: Callable[[T], float]) -> Runs:
    return runs if isinstance(runs, Failed) else [pick(run) for run in runs]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Two builds on one engine."""

    bench: Bench
    engine: str
    builds: tuple[Build, Build]
    rounds: int
    seconds: float

    def rows(self, parts: Container[str]) -> list[list[str]]:
        rows = self._costs() if "costs" in parts else []
        with contextlib.ExitStack() as started:
            # Both are up, but only one is at work: the idle one costs the other nothing.
            running = {build.name: started.enter_context(self._started(build)) for build in self.builds}

            def asked(rounds: int, question: Callable[[Server], T]) -> list[list[T] | Failed]:
                return list(turns(rounds, {name: functools.partial(question, server) for name, server in running.items()}).values())

            if "full" in parts:
                runs = asked(self.rounds, functools.partial(self._load, "full"))
                rows.append(self._row("full", "items/s", runs, lambda run: run.items_per_s, lower_is_better=False))
                rows.append(self._row("full", "us of a core an item", runs, lambda run: run.cpu_us_per_item))
            if "lone" in parts:
                runs = asked(self.rounds, functools.partial(self._load, "lone"))
                rows.append(self._row("lone", "ms, median", runs, lambda run: run.p50_ms))
            if "live" in parts:
                found = asked(1, functools.partial(_search, self.bench))
                rows.append(self._row("live", "streams", found, lambda streams: streams, lower_is_better=False))
        return rows

    def _costs(self) -> list[list[str]]:
        def measured(build: Build) -> dict[int, float]:
            with self._started(build) as server:
                return costs(self.bench, server)

        sides = list(turns(self.rounds, {build.name: functools.partial(measured, build) for build in self.builds}).values())
        for runs in sides:
            if isinstance(runs, Failed):
                raise runs
        sizes = set.intersection(*(set(run) for runs in sides for run in runs))
        return [self._row(f"call of {size}", "us an item", sides, operator.itemgetter(size)) for size in sorted(sizes)]

    def _row(self, what: str, unit: str, sides: list[list[T] | Failed], pick: Callable[[T], float], *, lower_is_better: bool = True) -> list[str]:
        old, new = (_picked(runs, pick) for runs in sides)
        return compared(f"{self.engine}, {what}", unit, old, new, lower_is_better=lower_is_better)

    def _load(self, what: str, server: Server) -> loads.Found:
        arm, model = Arm(server, "feed"), MODELS[OFFICIAL]
        return loads.load(self.bench, arm, model, in_flight=IN_FLIGHT[what], seconds=self.seconds, commands=[])

    @contextlib.contextmanager
    def _started(self, build: Build) -> Iterator[Server]:
        say(f"{build.name} on {self.engine}, load {os.getloadavg()[0]:.2f}")
        with tempfile.TemporaryDirectory() as cache:
            command = build.command(self.engine, cache)
            with servers.of_command(build.name, said_version(build.binary), command) as server:
                yield server


def main() -> int:
    arguments = _arguments()
    processes.guard()
    bench = Bench(tool.FULL, arguments.binaries.resolve(), tool.SCRATCH)
    bench.scratch.mkdir(parents=True, exist_ok=True)
    try:
        builds = (Build("old", arguments.old.resolve()), Build("new", bench.server))
        measured = (Measurement(bench, engine, builds, arguments.rounds, arguments.seconds) for engine in arguments.engines)
        rows = [row for each in measured for row in each.rows(arguments.parts)]
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="loadtest/versions", allow_abbrev=False, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("old", type=pathlib.Path, metavar="OLD", help="the other version's server binary")
    option("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART", help=f"only these: {', '.join(PARTS)}")
    option("--engines", nargs="+", default=list(ENGINES), choices=ENGINES, metavar="ENGINE", help=f"of {', '.join(ENGINES)}; both by default")
    option("--rounds", type=int, default=5, help="runs of each build; their median counts; a search is made only once (5)")
    option("--seconds", type=float, default=3.0, help="length of each run (3)")
    option("--binaries", type=pathlib.Path, default=tool.ROOT / "target/release", metavar="DIR", help="folder of this version's binaries (target/release)")
    return parser.parse_args()
