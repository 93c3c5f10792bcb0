"""Curves as SVG, one drawing for light pages and one for dark ones."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

POINTS = 400
LIGHT = ("#5c6470", "#d9dce1", "#1f6f8b")
DARK = ("#9aa3af", "#363c45", "#6cc0d9")


def curve(x: Sequence[float], y: Sequence[float], *, xlabel: str, ylabel: str, colours: tuple[str, str, str]) -> bytes:
    """Return an SVG of a curve on a transparent ground.

    A long curve is drawn as the means of blocks of neighbouring points, over the range of each block. The ordinate is
    logarithmic where all values are positive and span more than a factor of 20.

    Args:
        x: Abscissae, ascending.
        y: Finite ordinates, as many.
        xlabel: What the abscissa is.
        ylabel: What the ordinate is.
        colours: Of the text, the grid and the line, as `#rrggbb`.
    """
    ink, grid, line = colours
    figure = Figure(figsize=(5.4, 2.5), layout="constrained")
    axes = figure.add_subplot()
    for ground in (figure.patch, axes.patch):
        ground.set_visible(False)
    blocks = np.array_split(np.arange(len(x)), min(len(x), POINTS))
    xs, ys = np.asarray(x, float), np.asarray(y, float)
    middle = [xs[block].mean() for block in blocks]
    axes.fill_between(
        middle, [ys[b].min() for b in blocks], [ys[b].max() for b in blocks], color=line, alpha=0.2, linewidth=0
    )
    axes.plot(
        middle, [ys[b].mean() for b in blocks], color=line, linewidth=1.4, marker="o" if len(blocks) < 3 else None
    )
    if ys.min() > 0 and ys.max() > 20 * ys.min():
        axes.set_yscale("log")
    axes.set_xlabel(xlabel, color=ink, fontsize=9)
    axes.set_ylabel(ylabel, color=ink, fontsize=9)
    axes.tick_params(which="both", colors=ink, labelsize=8.5, length=0)
    axes.grid(color=grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return _svg(figure)


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without a salt and with a date, the same run would give other bytes every time.
    with matplotlib.rc_context({"svg.hashsalt": "raydd"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
