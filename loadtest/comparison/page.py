"""docs/benchmarks.md, made entirely from what was measured."""

from . import cells
from .cells import Cell
from .peer_record import Record
from .results import Results
from .rivals import Limit
from .rows import Row, markdown_table, plain_table, shown
from .servers import CANNED, PEERS, title
from .tool import Effort

HEADER = ["name", "what", "against", "ratio", "target", "reached", "share of the limit", "peer's share", "cores", "peer's cores", "runs"]
SETTINGS_HEADER = [
    *("server", "model", "workers", "threads", "max batch", "delay us", "search"),
    *("items/s then", "cores then"),
]
LIMIT_HEADER = ["client", "model", "calls under way", "calls/s", "p50 us"]

PREFACE = """\
# Benchmarks

Written by `loadtest/compare --write-docs`; no figure here is typed by hand. The two sides of a line take turns on the same machine,
clients included (A B A B), and the medians of their runs are compared. Figures vary with the machine, ratios much less: run the command
on yours. [Performance](performance.md) explains where the time goes.
"""

AGAINST = """\
`composed limit` is 1 / (1/echo + 1/engine): engine and transport share the cores, so the time that an item takes of each adds up. The
echo is a bare tonic service with the messages of the same API, which returns each item at once. The bare engine runs its best batch on
two threads, with nothing around it. In the lines without peers, the server runs in the same process as the load, and its Silero is the
one inside the binary, rewritten from the official file.

In the lines against peers, this server and one peer are up, and nothing else. `share of the limit` is this server's share of the rate
that the same client gets out of a bare server which gives every call the same answer, made in advance (`tidemill-load canned`), and
`peer's share` is the peer's: 1 divided by the latter is the largest ratio that any server could have on this machine. `cores` is how
many this server kept busy on average, and `peer's cores` how many the peer did; with perf_analyzer, for as long as that program ran,
its start and its pauses included. The client had what was left of the machine. What each model is, and what was tuned for a peer and
what was not, is explained [below](#servers-and-models).
"""

TABLE = """\
All servers run the same model files on the CPU with onnxruntime, on one machine. `silero-vad` is the official file of Silero VAD,
`silero-vad-rewritten` the same model as it is inside this server (`tidemill models export silero-vad FILE`). With these two the server
keeps the state of each sequence: an item has 2,304 bytes, and its result 4. With the two `-stateless` ones, for servers that keep none,
the state comes and goes with each item: 3,328 bytes, and 1,028 in its result; every request brings a state of zeros. This server does
the same work as the one it is compared with: it gets the same tensors, and returns the same.

Besides this server only the one being measured is up. Processor time and memory are those of all processes of a server; pages that
processes share count once for each. `cores` is processor time divided by time. `{canned}` runs no model: it is the limit of the client,
for both HTTP protocols over HTTP, and for both Silero files.
"""

SETTINGS = """\
`loadtest/peers/search` tries each peer with each model on the machine at hand, saturated as in the table above, and records all figures
in `loadtest/peers/tuned.json`. It varies the number of processes that run calls, the threads of a call, the largest batch and the
delay; the last two columns are what the chosen settings achieved there. Where there is no search for this machine, a peer runs with the
default of its `serve`, which nobody has compared with other settings here, and may be faster than shown.

Not tuned, for any peer: processes and threads that speak HTTP or gRPC, other engines and builds of onnxruntime, graph optimisations,
and bodies other than raw bytes. Settings were searched for the saturated load, and are used for one caller too. Triton has its Python
backend, because the package that holds it has no onnxruntime backend: each of its figures includes the way to a Python process and
back. This server runs with its defaults.
"""

EQUAL = """\
Independent callers send half of what the slower of the two did at most, first to one and then to the other, and latency counts from
each item's scheduled moment. Tidemill is called as the peer is: over gRPC ModelInfer, or over HTTP.
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


def page(results: Results, effort: Effort, facts: dict[str, str], typed: str, record: Record | None = None) -> str:
    """The whole text. `typed` is the command that measured it, `record` the record of the peers' settings if not the usual one."""
    rows, table, limits = results.rows, results.cells, results.limits
    machine = [[key, value] for key, value in (facts | _versions(rows, table)).items()]
    parts = [PREFACE, "## Machine and versions\n", markdown_table(["what", "which"], machine), f"\nCommand: `{typed}`\n"]
    parts += ["## Against limits and peers\n", AGAINST, markdown_table(HEADER, [_texts(row) for row in rows])]
    reasons = [(row.line.name, row.reason) for row in rows] + [(limit.client.what(), limit.reason) for limit in limits]
    parts += _missing(reasons)
    if found := [_limit_texts(limit) for limit in limits if limit.figures]:
        parts += ["\nThe limit of each client, with Silero of either file:\n", markdown_table(LIMIT_HEADER, found)]
    if table:
        parts += ["\n## Servers and models\n", TABLE.format(canned=CANNED), _lengths(effort), ""]
        parts += [markdown_table(cells.SATURATED_HEADER, [cells.saturated_texts(cell, table) for cell in table])]
        parts += _missing([(", ".join(cell.key), cell.reason) for cell in table])
    if equal := _equal(table):
        parts += ["\n### At the same load\n", EQUAL, markdown_table(cells.EQUAL_HEADER, equal)]
    if settings := _settings(rows, table, record or Record.read()):
        parts += ["\n### Settings of the peers\n", SETTINGS, markdown_table(SETTINGS_HEADER, settings)]
    parts.append("\n## Figures and commands\n")
    parts += [_details(row) for row in rows if row.figures or row.commands]
    for title, commands in (
        ("The limit of each client", [command for limit in limits for command in limit.commands]),
        ("Servers and models", [command for cell in table for command in cell.commands]),
    ):
        if commands:
            parts += [f"### {title}\n", _block(list(dict.fromkeys(commands)))]
    return "\n".join(parts).rstrip() + "\n"


def _settings(rows: list[Row], table: list[Cell], record: Record) -> list[list[str]]:
    """The settings of each peer with each model that has a figure."""
    pairs = [(cell.server, cell.model) for cell in table if cell.server in PEERS and cell.saturated]
    pairs += [(row.figures["peer"], row.figures["model"]) for row in rows if {"peer", "model"} <= row.figures.keys()]
    texts = []
    for peer, model in sorted(dict.fromkeys(pairs), key=lambda pair: (list(PEERS).index(pair[0]), pair[1])):
        search = record.search(peer, model)
        found = next((each for each in search.tried if each.batching == search.chosen), None) if search else None
        batching = record.batching(peer, model)
        chosen = [str(value) for value in (batching.workers, batching.threads, batching.max_batch, batching.delay_us)]
        searched = [f"{len(search.tried)} tried, {search.date}"] if search else ["not searched: the default"]
        figures = [shown(float(found.rate)), f"{found.cores:.2f}"] if found else ["", ""]
        texts.append([title(peer), model, *chosen, *searched, *figures])
    return texts


def _lengths(effort: Effort) -> str:
    return (
        f"Medians of {effort.table_runs} runs in turns, {effort.table_seconds:g} s each ({effort.table_heavy_seconds:g} s for MiniLM and "
        f"Magika), and one run of {effort.equal_seconds:g} s at the same load: less than for the lines above, so as to cover all models and "
        "servers."
    )


def _versions(rows: list[Row], table: list[Cell]) -> dict[str, str]:
    """The peers' versions, as they stated them."""
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
    cores = [f"{row.figures[key]:.2f}" if key in row.figures and row.line.unit != "cores" else "" for key in ("cores", "peer_cores")]
    return [row.line.name, row.line.what, row.line.against, row.ratio_text(), row.line.bound(), reached, *shares, *cores, str(row.runs)]


def _limit_texts(limit: Limit) -> list[str]:
    way = "HTTP" if limit.client.way == "http" else f"perf_analyzer {limit.client.way}"
    return [way, limit.client.model, str(limit.client.concurrency), shown(limit.figures["per_s"]), shown(limit.figures["p50_us"])]


def _details(row: Row) -> str:
    figures = ", ".join(f"{key} {title(value) if key == 'peer' else shown(value)}" for key, value in row.figures.items())
    return "\n".join([f"### {row.line.name}\n", *([f"{figures}\n"] if figures else []), _block(row.commands)])


def _block(commands: list[str]) -> str:
    return "\n".join(["```", *commands, "```", ""]) if commands else ""
