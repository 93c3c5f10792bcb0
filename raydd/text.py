"""Numbers, sizes and names as people read them."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def number(value: int) -> str:
    """Return a whole number with its digits in groups of three."""
    return f"{value:,}"


def size(count: int) -> str:
    """Return a number of bytes for people, in powers of 1000."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" or value >= 100 else f"{value:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Return a span of time for people: `41 s`, `3 min 5 s`, `7 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def rate(per_second: float, what: str) -> str:
    """Return a rate for people, in a unit that makes it a number of some size: `8.3 rounds/s`, `12 rounds/h`."""
    units = ((1, "s"), (60, "min"), (3600, "h"))
    factor, unit = next((pair for pair in units if per_second * pair[0] >= 1), units[-1])
    return f"{per_second * factor:.3g} {what}/{unit}"


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from a record is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def count_of(value: Any) -> int | None:
    """Return how many there are of what a record gives as a number or as a list; None of anything else."""
    if isinstance(value, list | dict):
        return len(value)
    return int(value) if is_number(value) else None
