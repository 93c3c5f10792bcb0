"""What an application found, as plain data that a page, a terminal and JSON can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from raydd.errors import IntegrityError

Cell = str | int | float | tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of text and numbers.

    Attributes:
        title: What it shows.
        note: What a reader must know to read it; shown in small letters.
        columns: Names of the columns, the first one that of the rows' names.
        rows: The cells of each row; None for an empty one. A pair of numbers is a mean and a deviation.
        heat: Whether the cells are coloured by their values.
        digits: Decimals of a mean and its deviation.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    heat: bool = False
    digits: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve: abscissae, ordinates, and a deviation for each where there is one."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Curves over common axes; with `points` their points alone, in any order."""

    title: str
    lines: tuple[Line, ...]
    xlabel: str
    ylabel: str
    note: str = ""
    points: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sheet:
    """Images in a row for each name.

    Attributes:
        rows: Names, and uint8 images (n, C, H, W).
    """

    title: str
    rows: tuple[tuple[str, np.ndarray], ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that an application found.

    Attributes:
        title: Of the page.
        lead: What was done, in a sentence or two.
        grids: Tables, the one that matters first.
        figures: Curves.
        sheets: Images.
        notes: What a reader must know: how this differs from a paper, what was left out.
        values: The numbers for machines, as JSON has them.
    """

    title: str
    lead: str
    grids: tuple[Grid, ...] = ()
    figures: tuple[Figure, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    notes: tuple[str, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all but the images as plain data."""
        kept = {"title": self.title, "lead": self.lead, "notes": list(self.notes), "values": self.values}
        return {**kept, "grids": [asdict(grid) for grid in self.grids], "figures": [asdict(f) for f in self.figures]}


_GRIDS = TypeAdapter(tuple[Grid, ...])


def read_grids(findings: Any, where: str) -> tuple[Grid, ...]:
    """Return the tables of findings that are plain data.

    Raises:
        IntegrityError: When they were altered, or are an older release's.
    """
    try:
        return _GRIDS.validate_python(findings["grids"] if isinstance(findings, dict) else None)
    except (KeyError, ValidationError):
        raise IntegrityError(
            f"{where}: expected the tables of an application, got something else; delete it and repeat"
        ) from None


def pair(each: Sequence[float]) -> tuple[float, float]:
    """Return the mean of numbers, one or more, and their sample deviation, 0 of a single one: a cell of a `Grid`."""
    return fmean(each), stdev(each) if len(each) > 1 else 0.0


def cell_text(cell: Cell, digits: int = 1) -> tuple[str, str]:
    """Return a cell of a `Grid` as text, and what stands behind it in small letters; `digits` are those of a mean."""
    match cell:
        case None:
            return "", ""
        case (mean, deviation):
            return f"{mean:.{digits}f}", f" +- {deviation:.{digits}f}"
        case float():
            return f"{cell:.3g}" if abs(cell) < 10 else f"{cell:,.1f}", ""
        case int():
            return f"{cell:,}", ""
    return str(cell), ""
