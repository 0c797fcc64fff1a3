"""The command line, and the order in which everything is measured."""

import argparse
import itertools
import pathlib
import shlex
import sys
import time

from . import cells, limits, machine, page, plan, processes, rivals, servers, tool
from .plan import Plan, Visit
from .processes import Failed, Interrupted
from .results import Results, Stamp
from .rows import plain_table
from .servers import OURS, Kept
from .tool import Bench, say


def main() -> int:
    arguments = _arguments()
    processes.guard()
    effort = tool.QUICK if arguments.quick else tool.FULL
    bench = Bench(effort, (arguments.binaries or tool.ROOT / "target/release").resolve(), tool.SCRATCH)
    built = not (arguments.no_build or arguments.binaries)
    try:
        return _run(bench, arguments, built=built)
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    except Interrupted as interrupted:
        return interrupted.status
    finally:
        processes.stop_all()


def _run(bench: Bench, arguments: argparse.Namespace, *, built: bool) -> int:
    started = time.monotonic()
    out: pathlib.Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    bench.scratch.mkdir(parents=True, exist_ok=True)
    if built:
        tool.build()
    programs = machine.binaries(bench)
    facts = machine.facts(bench, programs, built=built)

    def write(results: Results) -> None:
        facts["date"] = " to ".join(dict.fromkeys(results.dates()))
        facts["time taken"] = f"{before}{(time.monotonic() - started) / 60:.1f} min"
        results.write(out, page.page(results, bench.effort, facts, _typed(arguments)))

    stamp = Stamp(" ".join(programs.values()), bench.effort.name, facts["date"])
    results = Results(stamp, limits.LINES, rivals.duels(bench.effort.levels), write)
    reused = results.read(out) if arguments.add else 0
    before = f"{reused} figures of an earlier run, then " if reused else ""
    wanted = plan.plan(bench.effort, arguments.only, results)
    estimate_s = wanted.estimate_s(bench.effort)
    say(f"{before}{len(wanted.lines)} lines and {len(wanted.visits)} servers with a model: about {estimate_s / 60:.0f} min")
    clock = Clock()
    status = 0
    try:
        _measure(bench, wanted, results, clock)
    except Interrupted as interrupted:
        say(f"{interrupted}: what has been measured so far is written; --add goes on from there")
        facts["interrupted"] = "yes: only what was measured until then"
        status = interrupted.status
    write(results)
    if arguments.write_docs and not status:
        (tool.ROOT / "docs/benchmarks.md").write_text((out / "benchmarks.md").read_text())
    print(page.summary(results))
    say(clock.table())
    return status


class Clock:
    """How long each part takes, and was expected to take."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, float, float]] = []

    def start(self, name: str, estimate_s: float) -> None:
        self._parts.append((name, estimate_s, time.monotonic()))

    def table(self) -> str:
        """Including what ran last, up to now."""
        ends = [begin for _, _, begin in self._parts[1:]] + [time.monotonic()]
        parts = [(name, estimate_s, end - begin) for (name, estimate_s, begin), end in zip(self._parts, ends)]
        parts.append(("all", sum(estimate_s for _, estimate_s, _ in parts), sum(taken_s for _, _, taken_s in parts)))
        rows = [[name, f"{estimate_s:.0f}", f"{taken_s:.0f}"] for name, estimate_s, taken_s in parts]
        return plain_table(["part", "estimate s", "taken s"], rows)


def _measure(bench: Bench, wanted: Plan, results: Results, clock: Clock) -> None:
    for name in wanted.lines:
        clock.start(name, limits.estimate_s(name, bench.effort))
        say(name)
        rows = limits.measure(bench, name, limits.lines_of(name))
        results.add(*rows)
        for row in rows:
            say(f"  {row.line.name}: {row.ratio_text()} {row.reason} (wanted {row.line.bound()})")
    if wanted.visits:
        clock.start("installing", 0)
        tool.make_models(bench)
    broken = _install(wanted.peers())
    for model, visits in itertools.groupby(wanted.visits, key=lambda visit: visit.model):
        with servers.kept(bench, OURS, model) as ours:
            for visit in visits:
                clock.start(visit.name(), visit.estimate_s(bench.effort))
                say(visit.name())
                if visit.server == OURS:
                    _visit(bench, visit, results, ours, ours)
                    continue
                with broken.get(visit.server) or servers.kept(bench, visit.server, model) as theirs:
                    _visit(bench, visit, results, ours, theirs)


def _visit(bench: Bench, visit: Visit, results: Results, ours: Kept, theirs: Kept) -> None:
    """Each figure is written as it comes; if one fails, it says why."""
    for client in visit.clients:
        results.add(rivals.limit(bench, theirs, client))
    for duel in visit.duels:
        results.add(rivals.measure(bench, ours, theirs, duel))
    for key in visit.cells:
        results.add(cells.measure(bench, key, ours, theirs))


def _install(names: list[str]) -> dict[str, Kept]:
    """Stands in for peers that cannot be installed."""
    broken = {}
    for name in names:
        try:
            servers.install(name)
        except Failed as failed:
            say(f"  {failed}")
            broken[name] = servers.broken(failed)
    return broken


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest/compare", allow_abbrev=False, description=(
        "Measures this server against the limits of the machine and against other servers, prints it as tables, and writes summary.json, "
        "peers.json, limits.json and benchmarks.md as it goes. What cannot be measured is a row with the reason. All of it takes about "
        "an hour; it says at the start how long the requested part will take. Keep the machine idle otherwise."
    ))
    names, out = plan.names(), tool.SCRATCH / "results"
    option = parser.add_argument
    option("--out", type=pathlib.Path, metavar="DIR", default=out, help=f"folder for the results ({out.relative_to(tool.ROOT)})")
    option("--add", action="store_true", help="keep what DIR has for the same programs and effort, and measure what is missing")
    option("--quick", action="store_true", help="one short run of each side: shows that everything works, but measures little")
    option("--only", nargs="+", default=[], metavar="NAME", choices=names, help=f"only these: {', '.join(names)}")
    option("--write-docs", action="store_true", help="write docs/benchmarks.md too, unless interrupted")
    option("--no-build", action="store_true", help="use the binaries as they are")
    option("--binaries", type=pathlib.Path, metavar="DIR", help="use those in this folder, and build none (target/release)")
    return parser.parse_args()


def _typed(arguments: argparse.Namespace) -> str:
    """The command, without what differs from machine to machine."""
    flags = [flag for flag, given in (("--quick", arguments.quick), ("--add", arguments.add)) if given]
    return shlex.join(["loadtest/compare", "--out", "DIR", *flags, *(["--only", *arguments.only] if arguments.only else [])])
