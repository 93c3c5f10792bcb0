"""Curves as SVG, one drawing for light pages and one for dark ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from raydd.report.pictures import data_uri
from raydd.text import size

POINTS = 400


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of text, grid and curves, as `#rrggbb`."""

    ink: str
    grid: str
    lines: tuple[str, ...]

    @property
    def colours(self) -> tuple[str, ...]:
        """All of them, in the same order in every palette."""
        return (self.ink, self.grid, *self.lines)


# The same hues stand in page style sheets as --c0 to --c5.
LIGHT = Palette("#5c6470", "#d9dce1", ("#1f6f8b", "#b45309", "#6d4fb3", "#2f7d4f", "#b0305f", "#7a6a1d"))
DARK = Palette("#9aa3af", "#363c45", ("#6cc0d9", "#e89b5a", "#b39ddb", "#7cc796", "#f08fb0", "#d6c25c"))
DASHES = ("-", "--", ":")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A curve.

    Attributes:
        x: Abscissae, ascending where a line is drawn.
        y: Finite ordinates, as many.
        spread: A deviation for each ordinate, drawn as a band; empty for none.
        points: Draw points, in any order of abscissae and without a spread, instead of a line.
        hue: The number of its colour; None for its own number among the curves.
    """

    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    points: bool = False
    hue: int | None = None


def chart(curves: Sequence[Curve], *, xlabel: str, ylabel: str) -> tuple[str, str]:
    """Return a chart of curves as data URIs of two SVGs on a transparent ground: for light pages, and for dark ones."""
    return _both(_draw(curves, xlabel, ylabel))


def scatter(points: Sequence[Curve], line: Curve, *, xlabel: str, ylabel: str) -> tuple[str, str]:
    """Return points, a colour for each sequence, and a line through some of them, over a logarithmic axis; as `chart` does."""
    figure, axes = _empty()
    axes.plot(line.x, line.y, color=LIGHT.ink, linewidth=1.2, zorder=1)
    for k, some in enumerate(points):
        colour = LIGHT.lines[(k if some.hue is None else some.hue) % len(LIGHT.lines)]
        axes.scatter(some.x, some.y, s=16, color=colour, alpha=0.85, linewidths=0, zorder=2)
    places = sorted({x for some in points for x in some.x})
    if len(places) > 1:
        axes.set_xscale("log")
    axes.set_xticks(places[:: max(1, len(places) // 5)], minor=False)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size(round(value))))
    return _both(_framed(figure, axes, xlabel, ylabel))


def _both(light: bytes) -> tuple[str, str]:
    """Return a drawing for light pages as data URIs: itself, and in the colours of dark ones."""
    dark = light
    # Drawing takes longer than all else on a page, so it is done once.
    for before, after in zip(LIGHT.colours, DARK.colours, strict=True):
        dark = dark.replace(before.encode(), after.encode())
    return data_uri(light, "image/svg+xml"), data_uri(dark, "image/svg+xml")


def _empty() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.6, 2.7), layout="constrained")
    axes = figure.add_subplot()
    for ground in (figure.patch, axes.patch):
        ground.set_visible(False)
    return figure, axes


def _draw(curves: Sequence[Curve], xlabel: str, ylabel: str) -> bytes:
    figure, axes = _empty()
    for k, curve in enumerate(curves):
        k = k if curve.hue is None else curve.hue
        hues = len(LIGHT.lines)
        if len(curve.x):
            _add(axes, curve, LIGHT.lines[k % hues], DASHES[k // hues % len(DASHES)])
    if _is_logarithmic(np.concatenate([np.asarray(curve.y, float) for curve in curves])):
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return _framed(figure, axes, xlabel, ylabel)


def _framed(figure: Figure, axes: Axes, xlabel: str, ylabel: str) -> bytes:
    axes.set_xlabel(xlabel, color=LIGHT.ink, fontsize=9)
    axes.set_ylabel(ylabel, color=LIGHT.ink, fontsize=9)
    axes.tick_params(which="both", colors=LIGHT.ink, labelsize=8.5, length=0)
    axes.grid(color=LIGHT.grid, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return _svg(figure)


def _add(axes: Axes, curve: Curve, colour: str, dashes: str) -> None:
    """Draw a curve; a long one as the means of blocks of neighbouring points, over the range of each block."""
    if curve.points:
        # A single one is a mark.
        large, alpha = (7, 1.0) if len(curve.x) == 1 else (3, 0.7)
        axes.plot(curve.x, curve.y, color=colour, linestyle="none", marker="o", markersize=large, alpha=alpha)
        return
    blocks = np.array_split(np.arange(len(curve.x)), min(len(curve.x), POINTS))
    xs, ys = np.asarray(curve.x, float), np.asarray(curve.y, float)
    spread = np.asarray(curve.spread, float) if len(curve.spread) else np.zeros_like(ys)
    middle = [xs[b].mean() for b in blocks]
    low, high = ([f((ys + sign * spread)[b]) for b in blocks] for f, sign in ((np.min, -1), (np.max, 1)))
    axes.fill_between(middle, low, high, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if len(blocks) <= 25 else None
    means = [ys[b].mean() for b in blocks]
    axes.plot(middle, means, color=colour, linewidth=1.5, linestyle=dashes, marker=marker, markersize=3)


def _is_logarithmic(values: np.ndarray) -> bool:
    """Whether all values are positive and span more than a factor of 20."""
    return bool(values.min() > 0 and values.max() > 20 * values.min())


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without a salt and with a date, the same run would give other bytes every time.
    with matplotlib.rc_context({"svg.hashsalt": "raydd"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
