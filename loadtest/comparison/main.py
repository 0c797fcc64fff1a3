"""The command line, and the order in which everything is measured."""

import argparse
import contextlib
import json
import pathlib
import shlex
import sys
import time

from . import cells, limits, machine, page, processes, rivals, servers, tool
from .cells import Cell
from .loads import MODELS
from .processes import Failed
from .rivals import Duel
from .rows import Row
from .servers import Server
from .tool import Bench, say

# What names the second table, or one model of it.
TABLE = "table"


def main() -> int:
    arguments = _arguments()
    processes.guard()
    started = time.monotonic()
    effort = tool.QUICK if arguments.quick else tool.FULL
    out: pathlib.Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tool.SCRATCH.mkdir(parents=True, exist_ok=True)
    bench = Bench(effort, arguments.binaries.resolve(), tool.SCRATCH)
    try:
        if not arguments.no_build:
            tool.build()
    except Failed as failed:
        print(f"error: {failed}", file=sys.stderr)
        return 1
    facts = machine.facts(bench, built=not arguments.no_build)
    commands: list[str] = []
    rows: list[Row] = []
    table: list[Cell] = []
    status = 0

    def write() -> None:
        facts["time taken"] = f"{(time.monotonic() - started) / 60:.1f} min"
        _write(out, rows, table, page.page(rows, table, facts, _versions(rows, table), commands, _typed(arguments)))

    try:
        _limits(bench, arguments.only, rows)
        write()
        _peers(bench, arguments.only, rows, table, commands)
    except KeyboardInterrupt:
        say("interrupted; what was measured until now is written")
        status = 130
    finally:
        processes.stop_all()
    write()
    if arguments.write_docs:
        (tool.ROOT / "docs/benchmarks.md").write_text((out / "benchmarks.md").read_text())
    print(page.summary(rows, table))
    return status


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="loadtest/compare", allow_abbrev=False, description=(
        "Measures this server against the limits of the machine and against other servers, prints one table, and writes summary.json, "
        "peers.json and benchmarks.md. What cannot be measured is a row with the reason. About 35 minutes, or 5 with --quick; keep the "
        "machine idle otherwise."
    ))
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="folder for the results")
    parser.add_argument("--quick", action="store_true", help="one short run of each side: shows that all works, and measures little")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", choices=_names(), help=f"only these: {', '.join(_names())}")
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md too")
    parser.add_argument("--no-build", action="store_true", help="take the binaries as they are")
    parser.add_argument("--binaries", type=pathlib.Path, default=tool.ROOT / "target/release", metavar="DIR", help="where they lie")
    return parser.parse_args()


def _names() -> list[str]:
    """What can be asked for: lines without peers, peers, and the second table as a whole or for one model."""
    peers = [_group(duel) for duel in rivals.duels((1,))]
    return [*limits.MEASURES, *dict.fromkeys(peers), TABLE, *(f"{TABLE}-{model}" for model in MODELS)]


def _group(duel: Duel) -> str:
    """The name of all lines against one peer."""
    return "perf-triton" if duel.peer == "triton" else f"peer-{duel.peer}"


def _limits(bench: Bench, only: list[str], rows: list[Row]) -> None:
    """Adds to `rows`, so that what was measured before an interruption is not lost."""
    for name in limits.MEASURES:
        if only and name not in only:
            continue
        say(name)
        lines = limits.lines_of(name)
        rows += limits.measure(bench, name, lines)
        for row in rows[-len(lines) :]:
            say(f"  {row.line.name}: {row.ratio_text()} {row.reason} (wanted {row.line.bound()})")


def _peers(bench: Bench, only: list[str], rows: list[Row], table: list[Cell], commands: list[str]) -> None:
    """Each server is started once for each model; while it runs, all that is asked of it is measured."""
    wanted = [duel for duel in rivals.duels(bench.effort.levels) if not only or _group(duel) in only]
    tables = [model for model in MODELS if _is_wanted(bench, model, only)]
    if not wanted and not tables:
        return
    names = list(servers.PEERS) if tables else [name for name in servers.PEERS if any(duel.peer == name for duel in wanted)]
    broken = _install(names)
    for model in dict.fromkeys([*([rivals.MODEL] if wanted else []), *tables]):
        with contextlib.ExitStack() as stack:
            ours = _start_ours(bench, stack, model)
            theirs = rivals.start_all(bench, stack, names, model, broken)
            if model in tables:
                say(f"all servers with {model}")
                table += cells.measure(bench, model, ours, theirs, commands)
            if model == rivals.MODEL:
                rows += rivals.measure(bench, ours, theirs, wanted)


def _is_wanted(bench: Bench, model: str, only: list[str]) -> bool:
    if only:
        return TABLE in only or f"{TABLE}-{model}" in only
    return model in bench.effort.table_models


def _install(names: list[str]) -> dict[str, Failed]:
    broken = {}
    for name in names:
        try:
            servers.install(name)
        except Failed as failed:
            say(f"  {failed}")
            broken[name] = failed
    return broken


def _start_ours(bench: Bench, stack: contextlib.ExitStack, model: str) -> Server | None:
    try:
        return stack.enter_context(servers.tidemill(bench, model))
    except Failed as failed:
        say(f"  {failed}")
        return None


def _typed(arguments: argparse.Namespace) -> str:
    """The command without what differs from machine to machine."""
    quick = ["--quick"] if arguments.quick else []
    return shlex.join(["loadtest/compare", "--out", "DIR", *quick, *(["--only", *arguments.only] if arguments.only else [])])


def _versions(rows: list[Row], table: list[Cell]) -> dict[str, str]:
    """Of the peers, as they gave them."""
    said = {cell.server: cell.version for cell in table if cell.version}
    said |= {row.figures["peer"]: row.figures["peer_version"] for row in rows if "peer" in row.figures}
    return {title: said[name] for name, title in rivals.TITLES.items() if name in said}


def _write(out: pathlib.Path, rows: list[Row], table: list[Cell], text: str) -> None:
    (out / "summary.json").write_text(json.dumps([row.json() for row in rows], indent=1) + "\n")
    (out / "peers.json").write_text(json.dumps([cell.json() for cell in table], indent=1) + "\n")
    (out / "benchmarks.md").write_text(text)
