"""What a report shows of a result: text, figures and tables, ready for a page or for Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: above it; columns: their heads; lines: one a row.
        best: number of the column that matters most, if any; words: numbers of columns that hold words.
    """

    title: str
    columns: Sequence[str]
    lines: Sequence[Sequence[str]]
    best: int | None = None
    words: Sequence[int] = (0,)


@dataclass(frozen=True)
class Section:
    """One result in a report.

    Attributes:
        title, text: what it is; figures: (SVG, caption) each; tables.
        holes: what is missing of it, and why.
        origins: the results documents it comes from, for the lines on how to make it again.
        pictures: (data URL, caption) each.
    """

    title: str
    text: str
    figures: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    holes: Sequence[str] = ()
    origins: Sequence[Mapping[str, Any]] = ()
    pictures: Sequence[tuple[str, str]] = ()


def tabulated(
    title: str,
    rows: Sequence[Row],
    columns: Mapping[str, str | Callable[[Row], str]],
    best: int | None = None,
    words: Sequence[int] = (0,),
) -> Table:
    """A table with a line a row; columns: by head, what each shows, a key of the row or a function of it."""
    lines = [[show(row) if callable(show) else number(row.get(show)) for show in columns.values()] for row in rows]
    return Table(title, list(columns), lines, best, words)


def of_table(document: Mapping[str, Any], name: str) -> list[Row]:
    """Rows of one table of a results document."""
    return [row for row in document["rows"] if row.get("table") == name]


def first(rows: Sequence[Row], **wanted: Any) -> Row:
    """The first row that has these entries, or an empty one."""
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), {})


def number(value: Any) -> str:
    """A number as text: four digits behind the point where it is small."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def ranged(name: str, digits: int = 3) -> Callable[[Row], str]:
    """Shows a value of a flat row with its interval."""

    def show(row: Row) -> str:
        value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
        if value is None or math.isnan(value):
            return "-"
        ends = "" if low is None or high is None else f" ({low:.{digits}f} to {high:.{digits}f})"
        return f"{value:.{digits}f}{ends}"

    return show


def percent(name: str) -> Callable[[Row], str]:
    """Shows a share of a flat row with its interval, in percent."""

    def show(row: Row) -> str:
        value, low, high = (row.get(f"{name}{end}") for end in ("", "_low", "_high"))
        if value is None:
            return "-"
        ends = "" if low is None or high is None else f" ({100 * low:.1f} to {100 * high:.1f})"
        return f"{100 * value:.1f} %{ends}"

    return show


def with_interval(entry: Mapping[str, Any], digits: int = 3) -> str:
    """A metric of a results document with its interval."""
    low, high = entry["ci95"] or (None, None)
    return ranged("x", digits)({"x": entry["value"], "x_low": low, "x_high": high})


def short(level: str) -> str:
    """A level's name without family and version."""
    return level.removeprefix("BabyAI-").removeprefix("MiniGrid-").replace("-v0", "")


def level(row: Row) -> str:
    """Shows the row's level."""
    return short(row["level"])
