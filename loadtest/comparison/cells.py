"""The table of models: what each server does with each of them, saturated, and compared with this one at the same load."""

import dataclasses
from collections.abc import Callable

from .loads import MODELS, PROTOCOLS, STATELESS, Arm, Found, load
from .processes import Failed
from .rows import Figures, ratio
from .servers import CANNED, KEEP_STATE, OURS, PEERS, Kept, title
from .tool import Bench, say
from .turns import middle, turns

# Share of what the slower of two servers does at most.
EQUAL_SHARE = 0.5
# Servers that speak this protocol; plain HTTP servers are not among them.
GRPC = ("triton", "mlserver")
PROTOCOLS_OF = {OURS: ("feed", "infer", "http_infer"), CANNED: ("infer", "http_post")} | {name: ("infer",) for name in GRPC}
# The names of this server when it is compared with another, and of its limit.
BESIDE = {"infer": "infer", "http_post": "http_infer"}
LIMIT = {"infer": "infer", "http_post": "http_post", "http_infer": "http_post"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A server and a protocol on one model. What is `ours` was measured in the same turns."""

    model: str
    server: str
    protocol: str
    version: str = ""
    saturated: Found | None = None
    ours: Found | None = None
    equal_rate_hz: float | None = None
    equal: Found | None = None
    ours_equal: Found | None = None
    commands: tuple[str, ...] = ()
    reason: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        return self.model, self.server, self.protocol

    def json(self) -> Figures:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, cell: Figures) -> "Cell":
        found = {key: Found(**cell[key]) for key in ("saturated", "ours", "equal", "ours_equal") if cell[key]}
        fields = {field.name: cell[field.name] for field in dataclasses.fields(cls)}
        return cls(**fields | found | {"commands": tuple(cell["commands"])})


def keys(model: str, server: str) -> list[tuple[str, str, str]]:
    """The cells of a server. Each does the same work as this server next to it: state is kept on both sides, or sent on both."""
    protocols = PROTOCOLS_OF.get(server, ("http_post",))
    keeps_state, sends_state = MODELS[model].keeps_state, model.endswith(STATELESS)
    if keeps_state and server in PEERS and server not in KEEP_STATE or sends_state and server in KEEP_STATE:
        return []
    # Canned answers have the same length, whichever file would have made them.
    if server == CANNED and MODELS[model].like:
        return []
    # Calls over HTTP are not a sequence; a feed is one.
    left_out = ("http_infer", "http_post") if keeps_state else ("feed",) if sends_state else ()
    return [(model, server, protocol) for protocol in protocols if protocol not in left_out]


def measure(bench: Bench, key: tuple[str, str, str], ours: Kept, theirs: Kept) -> Cell:
    """The cell of a server. A peer takes turns with this one; this one and the limit are loaded alone."""
    model, name, protocol = key
    say(f"  {model}, {PROTOCOLS[protocol]}")
    commands: list[str] = []
    versions: dict[str, str] = {}

    def loaded(kept: Kept, protocol: str, seconds: float, rate_hz: float | None = None) -> Callable[[], Found]:
        def run() -> Found:
            server = kept.server()
            versions[server.name] = server.version
            if server.command not in commands:
                commands.append(server.command)
            in_flight = MODELS[model].in_flight
            arm = Arm(server, protocol)
            return load(bench, arm, MODELS[model], in_flight=in_flight, rate_hz=rate_hz, seconds=seconds, commands=commands)

        return run

    def measured(rounds: int, seconds: float, rate_hz: float | None = None) -> tuple[dict[str, Found], list[str]]:
        arms = {name: loaded(theirs, protocol, seconds, rate_hz)}
        if name not in (OURS, CANNED):
            arms = {OURS: loaded(ours, BESIDE[protocol], seconds, rate_hz)} | arms
        found = turns(rounds, arms)
        reasons = [f"{arm}: {runs}" for arm, runs in found.items() if isinstance(runs, Failed)]
        return {arm: middle(runs) for arm, runs in found.items() if not isinstance(runs, Failed)}, reasons

    found, reasons = measured(bench.effort.table_runs, table_seconds(bench, model))
    cell = Cell(model, name, protocol, saturated=found.get(name), ours=found.get(OURS) if name != OURS else None)
    if cell.saturated and cell.ours:
        rate_hz = EQUAL_SHARE * min(cell.saturated.items_per_s, cell.ours.items_per_s)
        equal, reasons = measured(1, bench.effort.equal_seconds, rate_hz)
        cell = dataclasses.replace(cell, equal_rate_hz=rate_hz, equal=equal.get(name), ours_equal=equal.get(OURS))
    return dataclasses.replace(cell, version=versions.get(name, ""), commands=tuple(commands), reason="; ".join(reasons))


def table_seconds(bench: Bench, model: str) -> float:
    return bench.effort.table_heavy_seconds if MODELS[model].is_heavy else bench.effort.table_seconds


SATURATED_HEADER = [
    *("model", "server", "protocol", "items/s", "Tidemill, items/s", "ratio", "share of the limit"),
    *("cores", "Tidemill's cores", "p50 ms", "p99 ms", "CPU us/item", "RSS MiB", "errors"),
]
EQUAL_HEADER = [
    *("model", "server", "protocol", "load, items/s", "p50 ms", "p99 ms", "CPU us/item", "errors"),
    *("Tidemill: p50 ms", "p99 ms", "CPU us/item", "errors"),
]


def saturated_texts(cell: Cell, cells: list[Cell]) -> list[str]:
    """A line of the table of saturated servers; `cells` have the limit."""
    found, ours = cell.saturated, cell.ours
    if found is None:
        return [*_first(cell), "-", _items(ours.items_per_s) if ours else "", *[""] * 9]
    beside = [_items(ours.items_per_s), f"{ratio(ours.items_per_s, found.items_per_s):.2f}"] if ours else ["", ""]
    share = limit_share(cell, cells)
    cores = [f"{found.cores:.2f}", f"{ours.cores:.2f}" if ours else ""]
    rest = [*cores, *_latency(found), f"{found.resident_mib:,.0f}", str(found.errors)]
    return [*_first(cell), _items(found.items_per_s), *beside, "" if share is None else f"{share:.2f}", *rest]


def equal_texts(cell: Cell) -> list[str] | None:
    """A line of the table of equal loads, if the cell has one."""
    if cell.equal_rate_hz is None:
        return None
    sides = [[*_latency(side), str(side.errors)] if side else ["-", "", "", ""] for side in (cell.equal, cell.ours_equal)]
    return [*_first(cell), _items(cell.equal_rate_hz), *sides[0], *sides[1]]


def limit_share(cell: Cell, cells: list[Cell]) -> float | None:
    """What share it is of what canned answers give the same client, if that is known."""
    key = (MODELS[cell.model].limit, CANNED, LIMIT.get(cell.protocol, ""))
    limit = next((each.saturated for each in cells if each.key == key and each.saturated), None)
    if limit is None or cell.saturated is None or cell.server == CANNED:
        return None
    return ratio(cell.saturated.items_per_s, limit.items_per_s)


def _first(cell: Cell) -> list[str]:
    return [cell.model, title(cell.server), PROTOCOLS[cell.protocol]]


def _items(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"


def _latency(found: Found) -> list[str]:
    return [f"{found.p50_ms:.2f}", f"{found.p99_ms:.2f}", f"{found.cpu_us_per_item:,.0f}"]
