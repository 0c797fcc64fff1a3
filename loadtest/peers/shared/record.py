"""The settings with which each peer runs each model, and the record of the search that found them (`loadtest/peers/search`).

A record applies to the machine that it was made on: another has other best settings. Knows nothing about how anything is measured,
and needs only Python.
"""

import dataclasses
import json
import os
import pathlib
import platform
import re
from typing import Any

PATH = pathlib.Path(__file__).resolve().parents[1] / "tuned.json"


@dataclasses.dataclass(frozen=True)
class Batching:
    """The settings that differ from model to model."""

    # Items in one call.
    max_batch: int
    # How long the first item of a batch waits for others.
    delay_us: int
    # Processes, instances or replicas that run calls.
    workers: int = 1
    # For one call.
    threads: int = 1

    def options(self) -> list[str]:
        """As options of `serve`."""
        return [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(self).items()]


# The settings of a peer if no search was recorded; a search begins with them. For MLServer `workers` are the processes besides the one
# that serves; without any, calls are made in that one.
DEFAULTS = {
    "triton": Batching(max_batch=64, delay_us=0),
    "mlserver": Batching(max_batch=64, delay_us=1_000, workers=0),
    "mosec": Batching(max_batch=16, delay_us=1_000),
    "litserve": Batching(max_batch=16, delay_us=1_000),
    # The longest time that an answer may take at all: BentoML adapts everything else on its own.
    "bentoml": Batching(max_batch=16, delay_us=60_000_000),
    "rayserve": Batching(max_batch=16, delay_us=1_000),
}


@dataclasses.dataclass(frozen=True)
class Tried:
    """The result of one setting; if there are no runs, `reason` says why."""

    batching: Batching
    # For each run.
    items_per_s: tuple[float, ...] = ()
    # Medians of the runs.
    cores: float = 0.0
    p99_ms: float = 0.0
    # All of them.
    errors: int = 0
    reason: str = ""

    @property
    def rate(self) -> float:
        """The median, 0 without runs."""
        ordered = sorted(self.items_per_s)
        return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2 if ordered else 0.0

    def json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, tried: dict[str, Any]) -> "Tried":
        return cls(**tried | {"batching": Batching(**tried["batching"]), "items_per_s": tuple(tried["items_per_s"])})


@dataclasses.dataclass(frozen=True)
class Search:
    """Everything that was tried for a peer with a model, and how the peer was loaded."""

    chosen: Batching
    version: str
    date: str
    load: str
    tried: tuple[Tried, ...]

    def json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, search: dict[str, Any]) -> "Search":
        tried = tuple(map(Tried.from_json, search["tried"]))
        return cls(**search | {"chosen": Batching(**search["chosen"]), "tried": tried})


def machine() -> dict[str, Any]:
    """What a record must have in common with the machine on which it is used."""
    found = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
    return {"processor": found[1].strip() if found else platform.machine(), "cores": os.cpu_count()}


class Record:
    """All searches of one machine, by peer and model."""

    def __init__(self, of: dict[str, Any], searches: dict[tuple[str, str], Search]) -> None:
        self.machine = of
        self.searches = searches

    @classmethod
    def read(cls, path: pathlib.Path = PATH) -> "Record":
        """What is recorded; an empty record for this machine if there is no file."""
        if not path.is_file():
            return cls.fresh()
        try:
            written = json.loads(path.read_text())
            searches = {(peer, model): search for peer, models in written["peers"].items() for model, search in models.items()}
            return cls(written["machine"], {key: Search.from_json(search) for key, search in searches.items()})
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SystemExit(f"{path} is not what loadtest/peers/search writes ({error!r}): restore it, or delete it") from error

    @classmethod
    def fresh(cls) -> "Record":
        """An empty record for this machine."""
        return cls(machine(), {})

    def write(self, path: pathlib.Path = PATH) -> None:
        """Writes the whole file, or nothing."""
        peers: dict[str, dict[str, Any]] = {}
        for (peer, model), search in self.searches.items():
            peers.setdefault(peer, {})[model] = search.json()
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps({"machine": self.machine, "peers": peers}, indent=1) + "\n")
        os.replace(part, path)

    def is_of_this_machine(self) -> bool:
        return self.machine == machine()

    def search(self, peer: str, model: str) -> Search | None:
        """What was found on this machine."""
        return self.searches.get((peer, model)) if self.is_of_this_machine() else None

    def batching(self, peer: str, model: str) -> Batching:
        """What was found on this machine, or the default."""
        found = self.search(peer, model)
        return found.chosen if found else DEFAULTS[peer]
