"""What the verbs write to stdout: lines for people, or one JSON object."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raydd.evaluate import Accuracy
    from raydd.report.findings import Grid


def print_line(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def print_json(value: dict[str, Any]) -> None:
    """Write one JSON object."""
    print_line(json.dumps(value))


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Write facts as lines of name and value, or as one JSON object."""
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if isinstance(value, list) and len(value) > 12:
            value = f"{', '.join(map(str, value[:10]))}, ... ({len(value)})"
        print_line(f"{key:18} {value}")


def print_list(name: str, lines: dict[str, str], as_json: bool) -> None:
    """Write names with a line about each, or one JSON object that has them under `name`."""
    if as_json:
        print_json({name: lines})
        return
    for key, line in lines.items():
        print_line(f"{key:16} {line}")


def brief(accuracy: Accuracy) -> dict[str, Any]:
    """Return the least that is told of an accuracy."""
    raw = accuracy.to_json()
    return {key: raw[key] for key in ("mean", "std", "repeats", "protocol", "net")}


def without_repeats(accuracy: Accuracy) -> dict[str, Any]:
    """Return all of an accuracy but the single repeats."""
    return {key: value for key, value in accuracy.to_json().items() if key != "each"}


def print_table(accuracies: tuple[Accuracy, ...] | list[Accuracy]) -> None:
    """Write accuracies, and as a table where there are several sets or networks."""
    from raydd.evaluate import arrange

    several = len({a.set for a in accuracies}) > 1
    for a in accuracies:
        particulars = [*_particulars(a), *([str(a.set)] if several else [])]
        spread = f"+- {a.std:4.2f}" if a.repeats > 1 else " " * 7
        print_line(f"{a.of:12} {a.mean:6.2f} {spread} %  {', '.join(particulars)}")
    table = arrange(accuracies)
    if len(table.columns) > 1 and len({a.set for a in accuracies} | {a.net for a in accuracies}) > 2:
        print_line("")
        for line in table.lines():
            print_line(line)
    for note in dict.fromkeys(a.note for a in accuracies if a.note):
        print_line(f"note: {note}")


def _particulars(a: Accuracy) -> Iterator[str]:
    """Yield whatever else a reader of an accuracy must know, in few words."""
    yield f"{a.images} images, {a.storage_bytes} bytes"
    if a.images_per_class is not None and a.stored_images_per_class is not None:
        yield f"{a.images_per_class:g} a class ({a.stored_images_per_class:.3g} by storage)"
    each = a.repeats // max(1, a.sets)
    several = f"{a.sets} x {each} x" if a.sets > 1 else f"{a.repeats} x"
    yield f"{several} {a.net}" if a.net else several
    if a.sets > 1:
        yield f"{each} on each of {a.sets} sets"
    yield f"protocol {a.protocol}"
    if a.predictor != "train":
        yield a.predictor
    if a.lr is not None:
        yield f"rate {a.lr:g}"
        yield "augmented" if a.augment else "not augmented"
    if a.labels == "soft":
        yield "soft labels"


def print_grid(grid: Grid) -> None:
    """Write one table of what an application found."""
    from raydd.report.findings import cell_text

    texts = [["".join(cell_text(cell, grid.digits)) for cell in row] for row in grid.rows]
    print_line(grid.title)
    for line in aligned([grid.columns, *texts]):
        print_line(f"  {line}")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text with their columns one below the other, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
