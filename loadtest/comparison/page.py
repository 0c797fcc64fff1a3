"""docs/benchmarks.md: all of it from what was measured."""

from . import cells
from .cells import Cell
from .rows import Row, markdown_table, plain_table, shown

HEADER = ["name", "what", "against", "ratio", "reach", "reached", "runs"]

PREFACE = """\
# Benchmarks

Written by `loadtest/compare --out DIR --write-docs`; no figure here is typed. The sides of a line take turns on the same machine,
clients included (A B A B), and the medians of their runs are compared. Figures move with the machine, and ratios much less: run the
command on yours. [Performance](performance.md) explains where the time goes.
"""

LIMITS = """\
`composed limit` is 1 / (1/echo + 1/engine): engine and transport share the cores, so that the time which an item takes of each adds
up. The echo is a bare tonic service on the messages of the same API, which gives each item back at once. The bare engine runs its
best batch on two threads, with nothing around it. Servers of the lines without peers run in the process of the load.
"""

PEERS = """\
All servers run the same model files on the CPU with onnxruntime, on one machine, one of them loaded at a time, each with the settings
that it was fastest with (loadtest/peers). Processor time and memory are of all processes of a server; pages that processes share count
once for each. The load is closed, then open: at the equal load, independent callers send half of what the slowest server of that model
did, and latency counts from each item's scheduled moment.
"""


def summary(rows: list[Row], table: list[Cell]) -> str:
    """For the terminal."""
    parts = []
    if rows:
        parts.append(plain_table([*HEADER, "why"], [[*_texts(row), row.reason] for row in rows]))
    if table:
        parts.append(plain_table(cells.HEADER, [cell.texts() for cell in table]))
    return "\n\n".join(parts)


def page(rows: list[Row], table: list[Cell], facts: dict[str, str], versions: dict[str, str], commands: list[str], typed: str) -> str:
    """The whole text. `typed` is the command that measured it, `commands` those that it ran for the second table."""
    machine = [[key, value] for key, value in facts.items()] + [[name, version] for name, version in sorted(versions.items())]
    parts = [PREFACE, "## Machine and versions\n", markdown_table(["what", "which"], machine)]
    parts += [f"\nCommand: `{typed}`\n", "## Against limits and peers\n", LIMITS, markdown_table(HEADER, [_texts(row) for row in rows])]
    if missing := [row for row in rows if row.reason]:
        parts += ["\nNot measured:\n", *(f"- `{row.line.name}`: {row.reason}" for row in missing)]
    if table:
        parts += ["\n## Servers and models\n", PEERS, markdown_table(cells.HEADER, [cell.texts() for cell in table])]
    parts.append("\n## Figures and commands\n")
    parts += [_details(row) for row in rows if row.figures or row.commands]
    if commands:
        parts += ["### Servers and models\n", _block(commands)]
    return "\n".join(parts).rstrip() + "\n"


def _texts(row: Row) -> list[str]:
    reached = "-" if row.ratio is None else "yes" if row.reached else "NO"
    return [row.line.name, row.line.what, row.line.against, row.ratio_text(), row.line.bound(), reached, str(row.runs)]


def _details(row: Row) -> str:
    figures = ", ".join(f"{key} {shown(value)}" for key, value in row.figures.items())
    return "\n".join([f"### {row.line.name}\n", *([f"{figures}\n"] if figures else []), _block(row.commands)])


def _block(commands: list[str]) -> str:
    return "\n".join(["```", *commands, "```", ""]) if commands else ""
