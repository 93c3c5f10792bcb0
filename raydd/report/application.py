"""One self-contained HTML page about what an application found."""

from __future__ import annotations

from typing import Any

import torch
import yaml

from raydd.card import picture
from raydd.config import AppConfig
from raydd.report.findings import Figure, Findings, Grid, Sheet, cell_text
from raydd.report.heat import Heat, HeatMap
from raydd.report.page import render
from raydd.report.pictures import data_uri
from raydd.report.plots import Curve, chart
from raydd.report.scores import Column, Row, Table
from raydd.store import Folder

MOST_IMAGES = 40  # in a row of a sheet


def write_application(folder: Folder, kind: str, config: AppConfig, findings: Findings) -> str:
    """Write `report.html` into an application's folder and return its URL.

    Raises:
        StoreError: When the folder cannot be written.
    """
    folder.write("report.html", render("application.html", context(folder.url, kind, config, findings)).encode())
    return f"{folder.url}/report.html"


def context(url: str, kind: str, config: AppConfig, findings: Findings) -> dict[str, Any]:
    """Return what the template shows."""
    return {
        "kind": kind,
        "url": url,
        "name": config.name,
        "paper": config.paper,
        "found": findings,
        "grids": [
            (grid, _heat(grid) if grid.heat else None, None if grid.heat else _table(grid)) for grid in findings.grids
        ],
        "figures": [(figure, _chart(figure)) for figure in findings.figures],
        "sheets": [(sheet, _strips(sheet)) for sheet in findings.sheets],
        "config": yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100, allow_unicode=True),
    }


def _table(grid: Grid) -> Table:
    texts = [[cell_text(cell, grid.digits) for cell in row] for row in grid.rows]
    numeric = [all(not isinstance(row[i], str) for row in grid.rows) for i in range(len(grid.columns))]
    columns = [Column(name, right=numeric[i]) for i, name in enumerate(grid.columns)]
    rows = [Row(name=row[0][0], cells=tuple(row[1:])) for row in texts]
    return Table(corner=grid.columns[0], columns=tuple(columns[1:]), rows=tuple(rows))


def _heat(grid: Grid) -> HeatMap:
    def mean(cell: Any) -> float | None:
        return cell[0] if isinstance(cell, tuple | list) else cell

    values = [value for row in grid.rows for cell in row[1:] if (value := mean(cell)) is not None]
    low, high = min(values, default=0.0), max(values, default=0.0)
    scale = 100 / (high - low) if high > low else 0.0
    rows = tuple(
        (
            str(row[0]),
            tuple(
                None if (v := mean(cell)) is None else Heat(f"{v:.{grid.digits}f}", round(scale * (v - low)))
                for cell in row[1:]
            ),
        )
        for row in grid.rows
    )
    return HeatMap(grid.columns[0], grid.columns[1:], rows)


def _chart(figure: Figure) -> tuple[str, str]:
    curves = [Curve(x=line.x, y=line.y, spread=line.spread, points=figure.points) for line in figure.lines]
    return chart(curves, xlabel=figure.xlabel, ylabel=figure.ylabel)


def _strips(sheet: Sheet) -> list[tuple[str, str, int]]:
    """Return each row's name, its images as one picture, and how many they are."""
    found = []
    for name, images in sheet.rows:
        shown = torch.from_numpy(images[:MOST_IMAGES].copy())
        found.append((name, data_uri(picture(shown, min(len(shown), 10)), "image/png"), len(images)))
    return found
