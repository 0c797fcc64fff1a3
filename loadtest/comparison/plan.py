"""What to measure, in which order, and about how long it takes. Starts and measures nothing."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TypeVar

from . import cells, limits, rivals
from .loads import MODELS, WARM_UP_S
from .results import Key, Results
from .rivals import Client, Duel
from .servers import CANNED, OURS, PEERS
from .tool import Effort

T = TypeVar("T")

# The name of the second table, and the prefix for one model of it.
TABLE = "table"

# Starting a server until it is ready, and ending it.
START_AND_STOP_S = {OURS: 2, CANNED: 2, "triton": 7, "mlserver": 7, "mosec": 4, "litserve": 3, "bentoml": 4, "rayserve": 15}
# Starting a load, and waiting for its last answers.
LOAD_EXTRA_S = 0.3
PERF_WINDOWS, PERF_EXTRA_S = 3, 0.7


@dataclasses.dataclass(frozen=True)
class Visit:
    """One start of a server with a model, with only this project's server up next to it, and everything that is asked of it."""

    model: str
    server: str
    clients: tuple[Client, ...]
    duels: tuple[Duel, ...]
    cells: tuple[tuple[str, str, str], ...]

    def name(self) -> str:
        return f"{self.server} with {self.model}"

    def estimate_s(self, effort: Effort) -> float:
        table_s = effort.table_heavy_seconds if MODELS[self.model].is_heavy else effort.table_seconds
        sides = 1 if self.server in (OURS, CANNED) else 2
        cell_s = sides * effort.table_runs * _load_s(table_s) + (sides - 1) * 2 * _load_s(effort.equal_seconds)
        lines_s = effort.runs * sum(_client_s(client, effort) for client in self.clients)
        lines_s += effort.runs * 2 * sum(_client_s(duel.client, effort) for duel in self.duels)
        return START_AND_STOP_S[self.server] + lines_s + len(self.cells) * cell_s


@dataclasses.dataclass(frozen=True)
class Plan:
    # Keys of `limits.MEASURES`.
    lines: tuple[str, ...]
    visits: tuple[Visit, ...]

    def estimate_s(self, effort: Effort) -> float:
        return sum(limits.estimate_s(name, effort) for name in self.lines) + sum(visit.estimate_s(effort) for visit in self.visits)

    def peers(self) -> list[str]:
        return [name for name in PEERS if any(visit.server == name for visit in self.visits)]


def names() -> list[str]:
    """What can be asked for: lines without peers, peers, and the second table as a whole or for one model."""
    return [*limits.MEASURES, *dict.fromkeys(map(group, rivals.duels((1,)))), TABLE, *(f"{TABLE}-{model}" for model in MODELS)]


def group(duel: Duel) -> str:
    """The name of all lines against one peer."""
    return "perf-triton" if duel.peer == "triton" else f"peer-{duel.peer}"


def plan(effort: Effort, only: list[str], results: Results) -> Plan:
    """All of it, or `only` what is named, but nothing that the results already have."""

    def missing(keys: Iterable[Key]) -> bool:
        return not all(map(results.has, keys))

    lines = [name for name in limits.MEASURES if (not only or name in only) and missing(line.name for line in limits.lines_of(name))]
    duels = [duel for duel in rivals.duels(effort.levels) if not only or group(duel) in only]
    tables = [model for model in MODELS if TABLE in only or f"{TABLE}-{model}" in only] if only else list(effort.table_models)
    visits = []
    for model in dict.fromkeys([*(duel.client.model for duel in duels), *tables]):
        of_model = [duel for duel in duels if duel.client.model == model]
        limits_of_model = dict.fromkeys(duel.client.limit for duel in duels if duel.client.limit.model == model)
        for server in (OURS, CANNED, *PEERS):
            visit = Visit(
                model,
                server,
                _left(results, limits_of_model, lambda client: client) if server == CANNED else (),
                _left(results, (duel for duel in of_model if duel.peer == server), lambda duel: duel.line.name),
                _left(results, cells.keys(model, server), lambda key: key) if model in tables else (),
            )
            if visit.clients or visit.duels or visit.cells:
                visits.append(visit)
    return Plan(tuple(lines), tuple(visits))


def _left(results: Results, wanted: Iterable[T], key: Callable[[T], Key]) -> tuple[T, ...]:
    return tuple(each for each in wanted if not results.has(key(each)))


def _load_s(seconds: float) -> float:
    return WARM_UP_S + seconds + LOAD_EXTRA_S


def _client_s(client: Client, effort: Effort) -> float:
    if client.way == "http":
        return _load_s(effort.load_seconds)
    return PERF_WINDOWS * effort.perf_window_ms / 1e3 + PERF_EXTRA_S
