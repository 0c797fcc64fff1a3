"""docs/benchmarks.md: all of it from what was measured."""

from . import cells
from .cells import Cell
from .results import Results
from .rivals import Limit
from .rows import Row, markdown_table, plain_table, shown
from .servers import CANNED, PEERS
from .tool import Effort

HEADER = ["name", "what", "against", "ratio", "reach", "reached", "share of the limit", "peer's share", "runs"]
LIMIT_HEADER = ["client", "calls under way", "calls/s", "p50 us"]

PREFACE = """\
# Benchmarks

Written by `loadtest/compare --write-docs`; no figure here is typed. The sides of a line take turns on the same machine,
clients included (A B A B), and the medians of their runs are compared. Figures move with the machine, and ratios much less: run the
command on yours. [Performance](performance.md) explains where the time goes.
"""

AGAINST = """\
`composed limit` is 1 / (1/echo + 1/engine): engine and transport share the cores, so that the time which an item takes of each adds
up. The echo is a bare tonic service on the messages of the same API, which gives each item back at once. The bare engine runs its
best batch on two threads, with nothing around it. Servers of the lines without peers run in the process of the load.

For the lines against peers, this server and one peer are up, and nothing else. `share of the limit` is what part this server has of
the rate that the same client gets out of a bare server which gives every call the same answer, made before (`tidemill-load canned`),
and `peer's share` what part the peer has: 1 divided by the latter is the largest ratio that any server could have on this machine.
"""

TABLE = """\
All servers run the same model files on the CPU with onnxruntime, on one machine, each with the settings that it was fastest with
(loadtest/peers). Besides this server only the one that is measured is up. Processor time and memory are of all processes of a server;
pages that processes share count once for each. `{canned}` runs no model: it is the limit of the client, over HTTP of both HTTP protocols.
"""

EQUAL = """\
Independent callers send half of what the slower of the two did at most, to the one and then to the other, and latency counts from each
item's scheduled moment. Tidemill is called as the peer is: over gRPC ModelInfer, or over HTTP.
"""


def summary(results: Results) -> str:
    """For the terminal."""
    rows, table = results.rows, results.cells
    parts = []
    if rows:
        parts.append(plain_table([*HEADER, "why"], [[*_texts(row), row.reason] for row in rows]))
    if table:
        texts = [[*cells.saturated_texts(cell, table), cell.reason] for cell in table]
        parts.append(plain_table([*cells.SATURATED_HEADER, "why"], texts))
    if equal := _equal(table):
        parts.append(plain_table(cells.EQUAL_HEADER, equal))
    return "\n\n".join(parts)


def page(results: Results, effort: Effort, facts: dict[str, str], typed: str) -> str:
    """The whole text. `typed` is the command that measured it."""
    rows, table, limits = results.rows, results.cells, results.limits
    machine = [[key, value] for key, value in (facts | _versions(rows, table)).items()]
    parts = [PREFACE, "## Machine and versions\n", markdown_table(["what", "which"], machine), f"\nCommand: `{typed}`\n"]
    parts += ["## Against limits and peers\n", AGAINST, markdown_table(HEADER, [_texts(row) for row in rows])]
    reasons = [(row.line.name, row.reason) for row in rows] + [(limit.client.what(), limit.reason) for limit in limits]
    parts += _missing(reasons)
    if found := [_limit_texts(limit) for limit in limits if limit.figures]:
        parts += ["\nThe limit of each client, Silero:\n", markdown_table(LIMIT_HEADER, found)]
    if table:
        parts += ["\n## Servers and models\n", TABLE.format(canned=CANNED), _lengths(effort), ""]
        parts += [markdown_table(cells.SATURATED_HEADER, [cells.saturated_texts(cell, table) for cell in table])]
        parts += _missing([(", ".join(cell.key), cell.reason) for cell in table])
    if equal := _equal(table):
        parts += ["\n### At the same load\n", EQUAL, markdown_table(cells.EQUAL_HEADER, equal)]
    parts.append("\n## Figures and commands\n")
    parts += [_details(row) for row in rows if row.figures or row.commands]
    for title, commands in (
        ("The limit of each client", [command for limit in limits for command in limit.commands]),
        ("Servers and models", [command for cell in table for command in cell.commands]),
    ):
        if commands:
            parts += [f"### {title}\n", _block(list(dict.fromkeys(commands)))]
    return "\n".join(parts).rstrip() + "\n"


def _lengths(effort: Effort) -> str:
    return (
        f"Medians of {effort.table_runs} runs in turns, {effort.table_seconds:g} s each ({effort.table_heavy_seconds:g} s for MiniLM and "
        f"Magika), and one run of {effort.equal_seconds:g} s at the same load: less than for the lines above, to have all models and servers."
    )


def _versions(rows: list[Row], table: list[Cell]) -> dict[str, str]:
    """Of the peers, as they gave them."""
    said = {cell.server: cell.version for cell in table if cell.version}
    said |= {row.figures["peer"]: row.figures["peer_version"] for row in rows if "peer_version" in row.figures}
    return {title: said[name] for name, title in sorted(PEERS.items(), key=lambda peer: peer[1]) if name in said}


def _missing(reasons: list[tuple[str, str]]) -> list[str]:
    lines = [f"- `{name}`: {reason}" for name, reason in reasons if reason]
    return ["\nNot measured, or not all of it:\n", *lines] if lines else []


def _equal(table: list[Cell]) -> list[list[str]]:
    return [texts for cell in table if (texts := cells.equal_texts(cell))]


def _texts(row: Row) -> list[str]:
    reached = "-" if row.ratio is None else "yes" if row.reached else "NO"
    shares = [f"{row.figures[key]:.2f}" if key in row.figures else "" for key in ("limit_share", "peer_limit_share")]
    return [row.line.name, row.line.what, row.line.against, row.ratio_text(), row.line.bound(), reached, *shares, str(row.runs)]


def _limit_texts(limit: Limit) -> list[str]:
    way = "HTTP" if limit.client.way == "http" else f"perf_analyzer {limit.client.way}"
    return [way, str(limit.client.concurrency), shown(limit.figures["per_s"]), shown(limit.figures["p50_us"])]


def _details(row: Row) -> str:
    figures = ", ".join(f"{key} {shown(value)}" for key, value in row.figures.items())
    return "\n".join([f"### {row.line.name}\n", *([f"{figures}\n"] if figures else []), _block(row.commands)])


def _block(commands: list[str]) -> str:
    return "\n".join(["```", *commands, "```", ""]) if commands else ""
