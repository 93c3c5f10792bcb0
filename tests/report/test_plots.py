"""Charts: what is drawn, and that light and dark differ in colours alone."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import raydd.report
from raydd.report.plots import DARK, LIGHT, Curve, chart


def drawings(*curves: Curve) -> list[str]:
    made = chart(curves, xlabel="round", ylabel="loss")
    return [base64.b64decode(uri.removeprefix("data:image/svg+xml;base64,")).decode() for uri in made]


def test_every_curve_has_its_colour_on_both_grounds():
    curves = [Curve(x=range(30), y=[k + 1.0] * 30) for k in range(6)]
    light, dark = drawings(*curves, Curve(x=(), y=()))
    for drawing, palette, other in ((light, LIGHT, DARK), (dark, DARK, LIGHT)):
        ElementTree.fromstring(drawing)
        assert all(colour in drawing for colour in palette.colours)
        assert not any(colour in drawing for colour in other.colours)
    colours = "|".join((*LIGHT.colours, *DARK.colours))
    assert re.sub(colours, "", light) == re.sub(colours, "", dark)


def test_colours_are_those_of_the_pages():
    style = Path(raydd.report.__file__).with_name("base.html").read_text()
    for palette in (LIGHT, DARK):
        assert " ".join(f"--c{k}: {colour};" for k, colour in enumerate(palette.lines)) in style
        assert len(set(palette.colours)) == len(palette.colours)


def test_one_point_and_many():
    assert all("<svg" in drawing for drawing in drawings(Curve(x=[3], y=[0.5], spread=[0.1])))
    long = Curve(x=range(10_000), y=[1.0 + (i % 7) for i in range(10_000)])
    assert len(drawings(long)[0]) < 100_000
