"""Arms that take turns, and the middle of what came of them. Knows nothing of what an arm does."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

from .processes import Failed
from .rows import median

T = TypeVar("T")


def turns(rounds: int, arms: Mapping[str, Callable[[], T]]) -> dict[str, list[T] | Failed]:
    """Each arm once in each round. One that failed is not asked again, and is its reason; the others go on."""
    found: dict[str, list[T] | Failed] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            runs = found[name]
            if isinstance(runs, Failed):
                continue
            try:
                runs.append(arm())
            except Failed as failed:
                found[name] = failed
    return found


def middle(runs: list[T]) -> T:
    """The median of each figure of a dataclass; of `errors`, all of them."""
    columns = {field.name: [getattr(run, field.name) for run in runs] for field in dataclasses.fields(runs[0])}  # type: ignore[arg-type]
    return type(runs[0])(**{name: sum(column) if name == "errors" else median(column) for name, column in columns.items()})
