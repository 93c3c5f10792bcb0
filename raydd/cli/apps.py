"""The verb of the papers' applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydd.cli.printing import print_json, print_line
from raydd.cli.words import ConfigFile, Json, Overrides, Resume, app
from raydd.config import APPS

if TYPE_CHECKING:
    from collections.abc import Sequence


@app.command(name="app")
def application(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"which: {', '.join(APPS)}")],
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = "auto",
    as_json: Json = False,
) -> None:
    """Do what the papers use distilled sets for, on your data; the same command goes on where it was stopped."""
    from raydd.config import load_model
    from raydd.errors import UserError

    if kind not in APPS:
        raise UserError(f"KIND must be one of {', '.join(APPS)}, got {kind!r}")
    said = load_model(APPS[kind], config, overrides or ())
    from raydd.apps import run_application
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        done = run_application(kind, said, resume, terminal)
    finally:
        terminal.close()
    if as_json:
        print_json({"app": kind, "folder": done.url, "report": done.report, **done.findings["values"]})
        return
    for grid in done.findings["grids"]:
        print_grid(grid)
    print_line(f"report    {done.report}")


def print_grid(grid: dict[str, Any]) -> None:
    """Write one table of what an application found."""
    from raydd.report.findings import cell_text

    cells = [[tuple(cell) if isinstance(cell, list) else cell for cell in row] for row in grid["rows"]]
    texts = [["".join(cell_text(cell, grid["digits"])) for cell in row] for row in cells]
    print_line(grid["title"])
    for line in aligned([list(grid["columns"]), *texts]):
        print_line(f"  {line}")
    print_line("")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text with their columns one below the other, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))]
        ).rstrip()
        for row in rows
    ]
