"""The verb of the papers' applications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from raydd.cli.printing import print_grid, print_json, print_line
from raydd.cli.words import ConfigFile, Json, Overrides, Resume, app
from raydd.config import APPS, AppConfig, load_model
from raydd.errors import UserError


@app.command(name="app")
def application(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"which: {', '.join(APPS)}")],
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Resume = "auto",
    as_json: Json = False,
) -> None:
    """Do what the papers use distilled sets for, on your data; the same command goes on where it was stopped."""
    said = read_app(kind, config, overrides or ())
    from raydd.apps import run_application
    from raydd.report.findings import read_grids
    from raydd.terminal import Terminal

    terminal = Terminal()
    try:
        done = run_application(kind, said, resume, terminal)
    finally:
        terminal.close()
    if as_json:
        print_json({"app": kind, "folder": done.url, "report": done.report, **done.findings["values"]})
        return
    for grid in read_grids(done.findings, f"{done.url}/results.json"):
        print_grid(grid)
        print_line("")
    print_line(f"report    {done.report}")


def read_app(kind: str, config: str, overrides: Sequence[str]) -> AppConfig:
    """Return what an application's config says.

    Raises:
        UserError: When there is no such application, or the config is wrong.
    """
    if kind not in APPS:
        raise UserError(f"KIND must be one of {', '.join(APPS)}, got {kind!r}")
    return load_model(APPS[kind], config, overrides)
