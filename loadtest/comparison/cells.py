"""The second table: what each server does with each model, saturated, and all of them at one equal load."""

import dataclasses

from .loads import MODELS, PROTOCOLS, Arm, Found, load, middle
from .processes import Failed
from .servers import Server
from .tool import Bench, say

# Of the slowest server's saturation.
EQUAL_SHARE = 0.5
OURS = ("feed", "infer", "http_infer")
# What a peer is spoken to by: the first of its ports that it has.
THEIRS = {"triton": "infer", "mlserver": "infer"}

HEADER = [
    *("model", "server", "protocol", "items/s", "p50 ms", "p99 ms", "CPU us/item", "RSS MiB"),
    *("equal load, items/s", "p50 ms at it", "p99 ms at it", "CPU us/item at it", "errors"),
]


@dataclasses.dataclass
class Cell:
    """A server and a protocol on one model."""

    model: str
    server: str
    protocol: str
    version: str = ""
    saturated: Found | None = None
    equal_rate_hz: float | None = None
    equal: Found | None = None
    reason: str = ""

    def json(self) -> dict:
        return dataclasses.asdict(self)

    def texts(self) -> list[str]:
        saturated, equal = self.saturated, self.equal
        first = [self.model, self.server, PROTOCOLS.get(self.protocol, self.protocol)]
        if saturated is None:
            return [*first, self.reason or "-", *[""] * (len(HEADER) - 4)]
        texts = [*first, _items(saturated.items_per_s), *_latency(saturated), f"{saturated.resident_mib:,.0f}"]
        errors = saturated.errors
        if equal is None or self.equal_rate_hz is None:
            return [*texts, self.reason or "-", "", "", "", str(errors)]
        return [*texts, _items(self.equal_rate_hz), *_latency(equal), str(errors + equal.errors)]


def _items(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.1f}"


def _latency(found: Found) -> list[str]:
    return [f"{found.p50_ms:.2f}", f"{found.p99_ms:.2f}", f"{found.cpu_us_per_item:,.0f}"]


def measure(
    bench: Bench, model: str, ours: Server | None, theirs: dict[str, Server | Failed], commands: list[str]
) -> list[Cell]:
    """All servers take turns at being saturated; then each is given half of what the slowest of them did."""
    cells: list[Cell] = []
    arms: list[tuple[Cell, Arm]] = []
    for protocol in OURS:
        cells.append(Cell(model, "tidemill", protocol))
        if ours is None:
            cells[-1].reason = "this server did not start"
        else:
            arms.append((cells[-1], Arm(ours, protocol)))
    for name, server in theirs.items():
        cells.append(Cell(model, name, THEIRS.get(name, "http_post")))
        if isinstance(server, Failed):
            cells[-1].reason = str(server)
        else:
            arms.append((cells[-1], Arm(server, cells[-1].protocol)))
    for cell, arm in arms:
        cell.version = arm.server.version
        if arm.server.command not in commands:
            commands.append(arm.server.command)

    def loaded(cell: Cell, arm: Arm, rate_hz: float | None, seconds: float) -> Found | None:
        """One load; a cell that failed once is not tried again."""
        if cell.reason:
            return None
        try:
            in_flight = MODELS[model].in_flight
            return load(bench, arm, MODELS[model], in_flight=in_flight, rate_hz=rate_hz, seconds=seconds, commands=commands)
        except Failed as failed:
            cell.reason = str(failed)
            say(f"  {arm.name}, {model}: {failed}")
            return None

    runs: list[list[Found]] = [[] for _ in arms]
    for _ in range(bench.effort.table_runs):
        for (cell, arm), measured in zip(arms, runs, strict=True):
            if run := loaded(cell, arm, None, bench.effort.load_seconds):
                measured.append(run)
    for (cell, _), measured in zip(arms, runs, strict=True):
        if measured:
            cell.saturated = middle(measured)
    saturated = [cell.saturated.items_per_s for cell in cells if cell.saturated]
    if not saturated:
        return cells
    rate_hz = EQUAL_SHARE * min(saturated)
    for cell, arm in arms:
        if cell.saturated:
            cell.equal_rate_hz, cell.equal = rate_hz, loaded(cell, arm, rate_hz, bench.effort.equal_seconds)
    return cells
