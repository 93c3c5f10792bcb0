"""What is compared in continual learning: names of memories, and accuracies as tables and curves have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raydd.apps.titles import numbered
from raydd.config import MethodConfig
from raydd.report.findings import Line

if TYPE_CHECKING:
    from raydd.apps.bench import Bench

BASELINES = {
    "random": "random, as many",
    "random@bytes": "random, as many bytes",
    "whole": "all images seen",
}


def titles(methods: Sequence[MethodConfig]) -> list[str]:
    """Return what tables call memories: the method, with its images a class where another says it too."""
    names = [method.name for method in methods]
    return numbered([m.name if names.count(m.name) == 1 else f"{m.name}, ipc {m.ipc}" for m in methods])


def protocol_of(bench: Bench, method: MethodConfig) -> str:
    """Return the protocol that a method's memories are scored by."""
    said = bench.config.evaluate.protocol
    return method.default_protocol if said == "auto" else said


def line(name: str, cells: Sequence[tuple[float, float]], first: int = 1) -> Line:
    """Return means and deviations as a curve over `first`, `first` + 1, ..."""
    x = tuple(float(i) for i in range(first, first + len(cells)))
    return Line(name=name, x=x, y=tuple(mean for mean, _ in cells), spread=tuple(each for _, each in cells))
