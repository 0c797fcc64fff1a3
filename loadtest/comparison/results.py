"""What was measured, written as it comes, so that ending at any moment loses nothing; and which parts of an earlier run still count."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from . import cells, rivals
from .cells import Cell
from .loads import MODELS
from .processes import Failed
from .rivals import Client, Duel, Limit
from .rows import Line, Row
from .servers import CANNED, OURS, PEERS
from .tool import say

SUMMARY, TABLE, LIMITS, PAGE = "summary.json", "peers.json", "limits.json", "benchmarks.md"
# The name of a line, a cell's model, server and protocol, or the client of a limit.
Key = str | tuple[str, str, str] | Client
T = TypeVar("T", Row, Cell, Limit)
_SERVERS = (OURS, *PEERS, CANNED)


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What a figure was measured with, and when."""

    # The hashes of both programs.
    binaries: str
    effort: str
    date: str

    def counts_with(self, other: "Stamp") -> bool:
        """Whether figures of both can be shown side by side."""
        return (self.binaries, self.effort) == (other.binaries, other.effort)


class Results:
    """All rows, cells and limits, each with its stamp. `changed` is called after each addition."""

    def __init__(
        self, stamp: Stamp, lines: Iterable[Line], duels: Sequence[Duel], changed: Callable[["Results"], None] = lambda _: None
    ) -> None:
        self._stamp = stamp
        self._lines = {line.name: line for line in (*lines, *(duel.line for duel in duels))}
        self._clients = {duel.line.name: duel.client for duel in duels}
        self._changed = changed
        self._measured: dict[Key, tuple[Row | Cell | Limit, Stamp]] = {}

    def add(self, *measured: Row | Cell | Limit) -> None:
        for each in measured:
            self._measured[_key(each)] = each, self._stamp
        self._changed(self)

    def has(self, key: Key) -> bool:
        """Whether there is a figure, and not only a reason, for the line, the cell or the limit."""
        return key in self._measured and not self._measured[key][0].reason

    @property
    def rows(self) -> list[Row]:
        limits = self.limits
        return [rivals.with_limit(row, self._clients.get(row.line.name), limits) for row in self._in_order(self._lines, Row)]

    @property
    def cells(self) -> list[Cell]:
        return self._in_order((key for model in MODELS for server in _SERVERS for key in cells.keys(model, server)), Cell)

    @property
    def limits(self) -> list[Limit]:
        return self._in_order(dict.fromkeys(client.limit for client in self._clients.values()), Limit)

    def dates(self) -> tuple[str, str]:
        """The dates of the oldest and the newest figure."""
        dates = [stamp.date for _, stamp in self._measured.values()] or [self._stamp.date]
        return min(dates), max(dates)

    def read(self, folder: pathlib.Path) -> int:
        """Adopts what an earlier run with the same programs and effort has measured; returns how many figures.

        What other programs or another effort measured is lost with the next `write`.
        """

        def rows(row: dict) -> Row | None:
            return Row.from_json(self._lines[row["name"]], row) if row["name"] in self._lines else None

        others = 0
        for name, made in ((SUMMARY, rows), (TABLE, Cell.from_json), (LIMITS, Limit.from_json)):
            path = folder / name
            if not path.is_file():
                continue
            try:
                for entry in json.loads(path.read_text()):
                    stamp = Stamp(**entry.pop("stamp", None) or {"binaries": "", "effort": "", "date": ""})
                    if not stamp.counts_with(self._stamp):
                        others += 1
                    elif each := made(entry):
                        self._measured[_key(each)] = each, stamp
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise Failed(f"{path} is not what this program writes: {error!r}") from error
        if others:
            say(f"{others} entries of {folder} are from other programs or another effort and do not count")
        return sum(map(self.has, self._measured))

    def write(self, folder: pathlib.Path, page: str) -> None:
        for name, measured in ((SUMMARY, self.rows), (TABLE, self.cells), (LIMITS, self.limits)):
            entries = [each.json() | {"stamp": dataclasses.asdict(self._measured[_key(each)][1])} for each in measured]
            _replace(folder / name, json.dumps(entries, indent=1) + "\n")
        _replace(folder / PAGE, page)

    def _in_order(self, keys: Iterable[Key], kind: type[T]) -> list[T]:
        found = (self._measured[key][0] for key in keys if key in self._measured)
        return [each for each in found if isinstance(each, kind)]


def _key(each: Row | Cell | Limit) -> Key:
    if isinstance(each, Row):
        return each.line.name
    return each.key if isinstance(each, Cell) else each.client


def _replace(path: pathlib.Path, text: str) -> None:
    """Writes the whole file, or nothing."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text)
    os.replace(part, path)
