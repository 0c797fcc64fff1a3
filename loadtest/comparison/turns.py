"""Arms that take turns, and the medians of what came out. Knows nothing about what an arm does."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from .processes import Failed, StoodStill
from .rows import median

T = TypeVar("T")

# For a run during which the machine stood still.
TRIES = 3


def turns(rounds: int, arms: Mapping[str, Callable[[], T]]) -> dict[str, list[T] | Failed]:
    """Runs each arm once in each round. One that failed is not run again, and gives its reason; the others go on."""
    found: dict[str, list[T] | Failed] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            runs = found[name]
            if isinstance(runs, Failed):
                continue
            try:
                runs.append(_undisturbed(arm))
            except Failed as failed:
                found[name] = failed
    return found


def _undisturbed(arm: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        with contextlib.suppress(StoodStill):
            return arm()
    return arm()


def middle(runs: list[T]) -> T:
    """The median of each figure of a dataclass; for `errors`, all of them."""
    columns = {field.name: [getattr(run, field.name) for run in runs] for field in dataclasses.fields(runs[0])}  # type: ignore[arg-type]
    return type(runs[0])(**{name: sum(column) if name == "errors" else median(column) for name, column in columns.items()})
