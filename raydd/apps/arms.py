"""The arms of domain adaptation, a row of its table each: in what ways networks meet the target, and what they score then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raydd.apps.bench import Bench
from raydd.apps.titles import numbered
from raydd.config import MethodConfig
from raydd.config.apps import AdaptSection
from raydd.distilled import DistilledSet
from raydd.report.findings import Figure, Findings, Grid, Line, Sheet, pair

# In what way a network meets the target.
Way = Literal["none", "set", "steps", "random", "whole", "scratch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One network that meets the target.

    Attributes:
        way: How.
        run: Which run, from 0.
        network: Name of the network that was trained on the source.
        per_class: Random real images a class.
        images: float32 (N, C, H, W), normalised as the target is; of a set.
        labels: int64 (N,), or float32 (N, classes) for learned steps.
        steps: float32 (passes, steps), DD's step sizes.
    """

    way: Way
    run: int
    network: str
    per_class: int = 0
    images: np.ndarray | None = None
    labels: np.ndarray | None = None
    steps: np.ndarray | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A row of the table: what networks were adapted on.

    Attributes:
        name: For people.
        kind: What rows of different numbers of images have in common.
        images: How many.
        stored: Their bytes.
        trials: A network each.
    """

    name: str
    kind: str
    images: int
    stored: int
    trials: tuple[Trial, ...]


def titles(methods: Sequence[MethodConfig]) -> list[str]:
    """Return what tables call the methods: DD's sets with the networks that they are for."""
    whose = {"fixed": ", known networks", "random": ", drawn networks"}
    return numbered([f"{m.name}, ipc {m.ipc}{whose.get(str(getattr(m, 'net_init', '')), '')}" for m in methods])


def read(
    bench: Bench,
    app: AdaptSection,
    arms: list[Arm],
    found: list[list[float]],
    sets: list[list[DistilledSet]],
    *,
    differs: str,
) -> Findings:
    """Return what is to be told of the arms.

    Args:
        bench: The application's.
        app: What the user said of it.
        arms: The rows.
        found: For each the accuracies of its networks, in percent.
        sets: For each method what it distilled; nothing for images that are drawn anew.
        differs: What differs from the papers.
    """
    pairs = [pair(each) for each in found]
    rows = [(arm.name, arm.images, arm.stored, scored) for arm, scored in zip(arms, pairs, strict=True)]
    turned = f", turned by {app.rotate:g} degrees" if app.rotate else ""
    runs = bench.config.evaluate.repeats
    called = titles(bench.config.methods)
    shown = [(title, made[0].pixels().numpy()) for title, made in zip(called, sets, strict=True) if made]
    return Findings(
        title=f"{bench.config.name}: domain adaptation",
        lead=f"{runs} networks trained on {app.source}{turned} meet {bench.config.data.train} through few of its images.",
        grids=(
            Grid(
                title="Accuracy on the target",
                columns=("Adapted on", "images", "bytes", "accuracy, %"),
                rows=tuple(rows),
                note="Percent of the target's test images, mean and deviation over networks; random images are drawn anew "
                "for each.",
            ),
        ),
        figures=_figures(arms, pairs, len(bench.classes)),
        sheets=(Sheet(title="The sets", rows=tuple(shown)),) if shown else (),
        notes=(differs.replace("\n", " ").strip(),),
        values={"accuracy": {arm.name: each for arm, each in zip(arms, found, strict=True)}},
    )


def _figures(arms: list[Arm], pairs: list[tuple[float, float]], classes: int) -> tuple[Figure, ...]:
    """Return accuracy over images a class, where some kind of set comes in more than one size."""
    kinds = list(dict.fromkeys(arm.kind for arm in arms if arm.kind not in ("none", "whole", "scratch")))
    points = {
        kind: sorted((a.images / classes, *p) for a, p in zip(arms, pairs, strict=True) if a.kind == kind)
        for kind in kinds
    }
    if all(len(each) < 2 for each in points.values()):
        return ()
    lines = [
        Line(name=kind, x=tuple(p[0] for p in each), y=tuple(p[1] for p in each), spread=tuple(p[2] for p in each))
        for kind, each in points.items()
    ]
    return (Figure(title="Accuracy over size", lines=tuple(lines), xlabel="images a class", ylabel="accuracy, %"),)
