"""Continual learning: a memory of distilled images is all that is left of what was seen.

`app.kind: classes`. Classes come in steps; of each step's classes a set is distilled, which joins the memory, and after each step
a network is trained from scratch on the memory alone and scored on all classes seen (GDumb's way, as in Zhao & Bilen, "Dataset
Condensation with Distribution Matching", WACV 2023, Section 4.4, and Zhou et al., NeurIPS 2022). The order k of the classes is
numpy's `RandomState(k).permutation`, as published.

Differs from the papers: FRePo's sets are distilled with the labels of the step's classes alone, which are then carried into
the labels of all classes; every method's sets are as many images a class as its own `ipc`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, stdev

from numpy.random import RandomState

from raydd.apps.bench import Bench
from raydd.apps.memory import Memory, together
from raydd.config import MethodConfig
from raydd.config.apps import ContinualSection
from raydd.errors import ConfigError
from raydd.evaluate import Accuracy
from raydd.report.findings import Figure, Findings, Grid, Line, Sheet


def run(bench: Bench) -> Findings:
    """Return what memories are worth after each step."""
    app = bench.config.app
    assert isinstance(app, ContinualSection)
    steps = cut(bench.classes, app.steps, app.orders)
    found = [Outcome(_title(bench, i), order, k, result) for i, order, k, result in _results(bench, steps)]
    return _findings(bench, app, steps, found)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a memory scores after a step: filler, order of the classes, step from 1, accuracy."""

    filler: str
    order: int
    step: int
    accuracy: Accuracy


def cut(classes: tuple[str, ...], steps: int, orders: int) -> list[list[tuple[str, ...]]]:
    """Return, for each order, the classes of each step.

    Raises:
        ConfigError: When there are fewer classes than steps.
    """
    if steps > len(classes):
        raise ConfigError(f"app.steps must be <= the number of classes ({len(classes)}), got {steps}")
    found = []
    for order in range(orders):
        shuffled = [classes[i] for i in RandomState(order).permutation(len(classes))]
        bounds = [len(classes) * k // steps for k in range(steps + 1)]
        found.append([tuple(shuffled[a:b]) for a, b in pairwise(bounds)])
    return found


def _results(bench: Bench, orders: list[list[tuple[str, ...]]]) -> list[tuple[int, int, int, Accuracy]]:
    """Return (method, order, step, accuracy), baselines of each method after it."""
    found = []
    for order, steps in enumerate(orders):
        for i, method in enumerate(bench.config.methods):
            sets = [
                bench.distil(method, f"{i}-{method.name}-order{order}-step{k + 1}", classes=list(classes))
                for k, classes in enumerate(steps)
            ]
            for k in range(1, len(steps) + 1):
                request = bench.request(together(sets[:k]), baselines=bench.config.evaluate.baselines)
                found += [(i, order, k, result) for result in bench.evaluate([request])]
    return found


def _title(bench: Bench, i: int) -> str:
    method: MethodConfig = bench.config.methods[i]
    return f"{method.name}, ipc {method.ipc}"


def _findings(
    bench: Bench, app: ContinualSection, orders: list[list[tuple[str, ...]]], found: list[Outcome]
) -> Findings:
    titles = list(dict.fromkeys(_name(outcome) for outcome in found))
    rows, lines = [], []
    for title in titles:
        cells = [[o.accuracy for o in found if _name(o) == title and o.step == k] for k in range(1, app.steps + 1)]
        means = [_pair([each for accuracy in cell for each in accuracy.each]) for cell in cells]
        stored = max(accuracy.storage_bytes for accuracy in cells[-1])
        rows.append((title, stored, *means))
        lines.append(
            Line(
                name=title,
                x=tuple(range(1, app.steps + 1)),
                y=tuple(mean for mean, _ in means),
                spread=tuple(deviation for _, deviation in means),
            )
        )
    steps = f"{app.steps} steps of {len(orders[0][0])} classes, {app.orders} orders"
    return Findings(
        title=f"{bench.config.name}: class-incremental learning",
        lead=f"{steps}. After each step networks are trained from scratch on the memory alone and asked for all classes seen.",
        grids=(
            Grid(
                title="Accuracy over all classes seen",
                columns=("Memory", "bytes at the end", *(f"step {k}" for k in range(1, app.steps + 1))),
                rows=tuple(rows),
                note="Percent of the test images of all classes seen, mean and deviation over networks and orders.",
            ),
        ),
        figures=(Figure(title="Accuracy over steps", lines=tuple(lines), xlabel="step", ylabel="accuracy, %"),),
        sheets=(_sheet(bench, orders[0]),),
        notes=(__doc__.split("\n\n")[-1].replace("\n", " ").strip(),) if __doc__ else (),
        values={"accuracy": {title: [list(cell) for cell in row[2:]] for title, *_, row in ((r[0], r) for r in rows)}},
    )


def _name(outcome: Outcome) -> str:
    if outcome.accuracy.of == "distilled":
        return outcome.filler
    return f"{outcome.accuracy.of.replace('@', ', same ')} beside {outcome.filler}"


def _pair(each: list[float]) -> tuple[float, float]:
    return fmean(each), stdev(each) if len(each) > 1 else 0.0


def _sheet(bench: Bench, steps: list[tuple[str, ...]]) -> Sheet:
    rows = []
    for i, method in enumerate(bench.config.methods):
        names = [f"{i}-{method.name}-order0-step{k + 1}" for k in range(len(steps))]
        sets = [bench.distil(method, name, classes=list(c)) for name, c in zip(names, steps, strict=True)]
        memory: Memory = together(sets)
        rows.append((f"{method.name}", memory.pixels().numpy()))
    return Sheet(title="The memories", rows=tuple(rows), note="In the order in which the classes came.")
