"""The targets, and what was reached: the rows of the table. Knows nothing about how anything is measured."""

import dataclasses
import math
from typing import Any

Figures = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the table: what is compared with what, and the bound that it should meet."""

    name: str
    what: str
    against: str
    reach: float
    # The unit of `ratio` and `reach`; empty for a plain ratio.
    unit: str = ""
    # Whether the bound is an upper one.
    at_most: bool = False

    def measured(self, ratio: float, runs: int, figures: Figures, commands: list[str]) -> "Row":
        return Row(self, ratio if math.isfinite(ratio) else None, runs, figures, commands)

    def missing(self, reason: str, commands: list[str] | None = None) -> "Row":
        return Row(self, None, 0, {}, commands or [], reason)

    def bound(self) -> str:
        return " ".join(filter(None, ["<=" if self.at_most else ">=", f"{self.reach:g}", self.unit]))


@dataclasses.dataclass(frozen=True)
class Row:
    """A line, with what was found. If there is no ratio, `reason` says why."""

    line: Line
    ratio: float | None
    # The runs of each arm; the ratio is that of their medians.
    runs: int
    # Those of both sides; the names carry the units.
    figures: Figures
    commands: list[str]
    reason: str = ""

    @property
    def reached(self) -> bool:
        if self.ratio is None:
            return False
        return self.ratio <= self.line.reach if self.line.at_most else self.ratio >= self.line.reach

    def json(self) -> Figures:
        line = self.line
        row = {
            "name": line.name,
            "what": line.what,
            "against": line.against,
            "ratio": self.ratio,
            "unit": line.unit,
            "reach": line.reach,
            "at_most": line.at_most,
            "reached": self.reached,
            "runs": self.runs,
            "reason": self.reason,
            "commands": self.commands,
        }
        return row | {key: value for key, value in self.figures.items() if key not in row}

    @classmethod
    def from_json(cls, line: Line, row: Figures) -> "Row":
        """Reads back what `json` made from a row of this line."""
        bare = cls(line, row["ratio"], row["runs"], {}, row["commands"], row["reason"])
        return dataclasses.replace(bare, figures={key: value for key, value in row.items() if key not in bare.json()})

    def ratio_text(self) -> str:
        if self.ratio is None:
            return "-"
        text = f"{self.ratio:.3f}" if abs(self.ratio) < 10 else f"{self.ratio:.1f}"
        return f"{text} {self.line.unit}".strip()


def median(values: list[float]) -> float:
    """The middle value, or the mean of the middle two; not a number if there is none."""
    if not values:
        return math.nan
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def ratio(ours: float, theirs: float) -> float:
    """Not a number if there is nothing to compare with."""
    return ours / theirs if theirs else math.nan


def shown(value: Any) -> str:
    """A figure with as many digits as people read."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def plain_table(header: list[str], rows: list[list[str]]) -> str:
    """For a terminal: the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    widths[-1] = 0
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows])
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    escaped = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    lines = [header, ["---"] * len(header), *escaped]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
