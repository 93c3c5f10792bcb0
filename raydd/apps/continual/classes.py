"""Class-incremental learning with a growing memory, and networks trained from scratch on it.

Classes come in steps; of each step's classes a set is distilled, which joins the memory, and after each step networks are
trained from scratch on the memory alone and scored on all classes seen (GDumb's way, as in Zhao & Bilen, "Dataset Condensation
with Distribution Matching", WACV 2023, Section 4.4, and Zhou et al., NeurIPS 2022). The order k of the classes is numpy's
`RandomState(k).permutation`, as published.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from numpy.random import RandomState

from raydd.apps.bench import Bench
from raydd.apps.continual.arms import BASELINES, line, protocol_of, titles
from raydd.apps.memory import Memory, bytes_of, check_within, remembered, together
from raydd.config import MethodConfig
from raydd.config.apps import ClassesSection
from raydd.data.index import load_index
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate import Accuracy
from raydd.report.findings import Figure, Findings, Grid, Sheet, pair
from raydd.store import Folder

NOTES = (
    "FRePo's labels are learned over the classes of a step and then widened to all classes seen; the paper learns them over all "
    "classes of the data set from the start, and lets networks answer out of all of them.",
    "Memories are counted in bytes of all that is kept: float32 images and labels, bases and addresses; random real images at a "
    "byte a pixel. Papers count images.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a memory scores after a step.

    Attributes:
        memory: What tables call it.
        order: Of the classes, from 0.
        step: From 1.
        accuracy: On all classes seen.
    """

    memory: str
    order: int
    step: int
    accuracy: Accuracy


def run(bench: Bench, app: ClassesSection) -> Findings:
    """Return what memories are worth after each step."""
    orders = cut(bench.classes, app.steps, app.orders)
    shape = image_shape(bench.train)
    check_budget(bench.config.methods, app, shape, max(len(step) for step in orders[0]))
    found = [outcome for order in range(len(orders)) for outcome in _outcomes(bench, app, order, orders[order])]
    return _findings(bench, app, orders, found)


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


def image_shape(url: str) -> tuple[int, int, int]:
    """Return (C, H, W) of packed images."""
    index = load_index(Folder(url))
    return index.channels, index.size, index.size


def budget_of(methods: list[MethodConfig], app: ClassesSection, shape: tuple[int, ...], classes: int) -> int:
    """Return the bytes that a memory may take for each class seen."""
    return app.budget or max(-(-bytes_of(method, shape, classes, app.keep) // classes) for method in methods)


def check_budget(methods: list[MethodConfig], app: ClassesSection, shape: tuple[int, ...], classes: int) -> None:
    """Check that every filler's sets fit the budget, where one is said.

    Args:
        methods: The fillers.
        app: What says the budget.
        shape: (C, H, W) of an image.
        classes: Of the largest step.

    Raises:
        ConfigError: When not.
    """
    for i, method in enumerate(methods):
        taken = -(-bytes_of(method, shape, classes, app.keep) // classes)
        if taken > budget_of(methods, app, shape, classes):
            raise ConfigError(
                f"methods.{i}.ipc must make sets of at most app.budget ({app.budget}) bytes a class, got {method.ipc}, which "
                f"takes up to {taken}; lower the one or raise the other"
            )


def _sets(bench: Bench, app: ClassesSection, i: int, order: int, steps: list[tuple[str, ...]]) -> list[DistilledSet]:
    """Return what a method keeps of each step."""
    method = bench.config.methods[i]
    names = [f"{i}-{method.name}-order{order}-step{k}" for k in range(1, len(steps) + 1)]
    found = []
    for k, (name, classes) in enumerate(zip(names, steps, strict=True), 1):
        kept = remembered(bench.distil(method, name, classes=list(classes)), app.keep)
        most = kept.storage_bytes if app.budget is None else app.budget * len(classes)
        found.append(check_within(kept, most, f"methods.{i} ({method.name}) of step {k}"))
    return found


def _outcomes(bench: Bench, app: ClassesSection, order: int, steps: list[tuple[str, ...]]) -> list[Outcome]:
    """Return what all memories score in an order; a baseline that is the same for two methods is trained on once."""
    found, seen = [], set()
    methods = bench.config.methods
    for i, (method, title) in enumerate(zip(methods, titles(methods), strict=True)):
        sets = _sets(bench, app, i, order, steps)
        for k in range(1, len(steps) + 1):
            memory = together(sets[:k])
            kinds = {of: _kind(bench, method, memory, of) for of in bench.config.evaluate.baselines}
            asked = [of for of in kinds if (k, *kinds[of]) not in seen]
            seen |= {(k, *kinds[of]) for of in asked}
            for result in bench.evaluate([bench.request(memory, baselines=asked)]):
                name = title if result.of == "distilled" else _beside(bench, result.of, title)
                found.append(Outcome(memory=name, order=order, step=k, accuracy=result))
    return found


def _kind(bench: Bench, method: MethodConfig, memory: Memory, of: str) -> tuple[Any, ...]:
    """Return what decides a baseline's results: how much it takes, and how it is trained on."""
    size = {"random": method.ipc, "random@bytes": memory.storage_bytes}.get(of)
    net = method.default_net if bench.config.evaluate.nets == "auto" else None
    return of, size, protocol_of(bench, method), net


def _beside(bench: Bench, of: str, title: str) -> str:
    """Return what tables call a baseline, with the method whose size or training it has where there are several."""
    return BASELINES[of] if len(bench.config.methods) == 1 else f"{BASELINES[of]} (as {title})"


def _findings(bench: Bench, app: ClassesSection, orders: list[list[tuple[str, ...]]], found: list[Outcome]) -> Findings:
    names = list(dict.fromkeys(outcome.memory for outcome in found))
    table = {name: _cells(found, name, app) for name in names}
    curves = tuple(line(name, cells) for name, cells in table.items())
    sizes = " + ".join(str(len(step)) for step in orders[0])
    lead = (
        f"{app.steps} steps ({sizes} classes), {app.orders} {'orders' if app.orders > 1 else 'order'}. After each step networks "
        "are trained from scratch on the memory alone and asked for all classes seen."
    )
    grids = [_accuracies(table, app), _bytes(bench, app, orders, found, names)]
    by_order = {name: _by_order(found, name, app) for name in names}
    if app.orders > 1:
        grids.append(
            Grid(
                title="After the last step, order by order",
                columns=("Memory", *(f"order {order}" for order in range(app.orders))),
                rows=tuple((name, *cells) for name, cells in by_order.items()),
                note="Percent, mean and deviation over networks.",
            )
        )
    return Findings(
        title=f"{bench.config.name}: class-incremental learning",
        lead=lead,
        grids=tuple(grids),
        figures=(Figure(title="Accuracy over steps", lines=curves, xlabel="step", ylabel="accuracy, %"),),
        sheets=(_sheet(bench, app, orders[0]),),
        notes=NOTES,
        values={
            "accuracy": {name: [list(cell) for cell in cells] for name, cells in table.items()},
            "orders": {name: [list(cell) for cell in cells] for name, cells in by_order.items()},
            "bytes": {name: [_stored(found, name, k) for k in range(1, app.steps + 1)] for name in names},
        },
    )


def _cells(found: list[Outcome], name: str, app: ClassesSection) -> list[tuple[float, float]]:
    """Return a memory's accuracy after each step, over networks and orders."""
    of = [o for o in found if o.memory == name]
    return [pair([p for o in of if o.step == k for p in o.accuracy.each]) for k in range(1, app.steps + 1)]


def _by_order(found: list[Outcome], name: str, app: ClassesSection) -> list[tuple[float, float]]:
    last = [o for o in found if o.memory == name and o.step == app.steps]
    return [pair([p for o in last if o.order == order for p in o.accuracy.each]) for order in range(app.orders)]


def _stored(found: list[Outcome], name: str, step: int) -> int:
    return max(o.accuracy.storage_bytes for o in found if o.memory == name and o.step == step)


def _accuracies(table: dict[str, list[tuple[float, float]]], app: ClassesSection) -> Grid:
    return Grid(
        title="Accuracy over all classes seen",
        columns=("Memory", *(f"step {k}" for k in range(1, app.steps + 1))),
        rows=tuple((name, *cells) for name, cells in table.items()),
        note="Percent of the test images of all classes seen, mean and deviation over networks and orders.",
    )


def _bytes(
    bench: Bench, app: ClassesSection, orders: list[list[tuple[str, ...]]], found: list[Outcome], names: list[str]
) -> Grid:
    """Return what memories take after each step beside what they may take."""
    shape, largest = image_shape(bench.train), max(len(step) for step in orders[0])
    each = budget_of(bench.config.methods, app, shape, largest)
    seen = [sum(len(step) for step in orders[0][:k]) for k in range(1, app.steps + 1)]
    rows = [(name, *(_stored(found, name, k) for k in range(1, app.steps + 1))) for name in names]
    return Grid(
        title="Bytes of memory",
        columns=("Memory", *(f"step {k}" for k in range(1, app.steps + 1))),
        rows=(("budget", *(each * count for count in seen)), *rows),
        note=f"The budget is {each:,} bytes for each class seen.",
    )


def _sheet(bench: Bench, app: ClassesSection, steps: list[tuple[str, ...]]) -> Sheet:
    rows = []
    for i, title in enumerate(titles(bench.config.methods)):
        rows.append((title, together(_sets(bench, app, i, 0, steps)).pixels().numpy()))
    return Sheet(title="The memories", rows=tuple(rows), note="In the order in which the classes came.")
