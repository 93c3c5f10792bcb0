"""What proxies, and the whole set, say of the candidates of `raydd app search`: rankings, and how well they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from raydd.apps.bench import Bench
from raydd.apps.titles import sized
from raydd.config.apps import SearchSection
from raydd.config.net import AnyNetConfig
from raydd.distilled import DistilledSet
from raydd.evaluate import net_text
from raydd.report.findings import Figure, Findings, Grid, Line, Sheet

LEAST_TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """What a proxy, or the whole set, says of all candidates.

    Attributes:
        name: For people.
        images: How many it has.
        stored: Their bytes.
        each: For each candidate the validation accuracy of each of its networks, in percent.
        seconds: What all these trainings took, one after the other.
    """

    name: str
    images: int
    stored: int
    each: list[list[float]]
    seconds: float

    @property
    def means(self) -> list[float]:
        """Mean accuracy of each candidate."""
        return [fmean(each) for each in self.each]

    @property
    def pick(self) -> int:
        """Place of the best candidate, the first of equals."""
        return max(range(len(self.each)), key=self.means.__getitem__)


def ranks(values: Sequence[float]) -> np.ndarray:
    """Return ranks from 1, float64 (n,); equal values share the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation; None where all values of a side are equal, or there is only one."""
    x, y = ranks(a) - (len(a) + 1) / 2, ranks(b) - (len(b) + 1) / 2
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else None


def best(values: Sequence[float], share: float) -> list[int]:
    """Return the places of the highest share of values, at least five where there are as many, the first of equals first."""
    count = min(len(values), max(LEAST_TOP, round(share * len(values))))
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]


def read(
    bench: Bench,
    app: SearchSection,
    nets: list[AnyNetConfig],
    rankings: list[Ranking],
    tests: dict[int, float],
    sets: list[DistilledSet],
    notes: tuple[str, ...],
) -> Findings:
    """Return what is to be told of the rankings.

    Args:
        bench: The application's.
        app: What the user said of it.
        nets: The candidates.
        rankings: Of the proxies, and last of the whole set.
        tests: Accuracy on the test split, in percent, of each candidate that was picked.
        sets: What the methods distilled.
        notes: What else is to be said.
    """
    whole = rankings[-1]
    top = best(whole.means, app.top)
    correlations = [
        (spearman(r.means, whole.means), spearman([r.means[i] for i in top], [whole.means[i] for i in top]))
        for r in rankings
    ]
    rows = [
        (r.name, r.images, r.stored, round(r.seconds), *pair, _told(nets[r.pick], app), tests[r.pick])
        for r, pair in zip(rankings, correlations, strict=True)
    ]
    titles = sized(bench.config.methods)
    few = " drawn from the grid" if app.sample else ""
    return Findings(
        title=f"{bench.config.name}: architecture search",
        lead=f"{len(nets)} networks{few}, each trained {bench.config.evaluate.repeats} times on every proxy and once on the "
        "whole training split, and compared on images held out of it.",
        grids=(_summary(rows, len(top)), *_maps(app, nets, rankings)),
        figures=(_scatter(rankings),),
        sheets=(
            Sheet(title="The sets", rows=tuple((t, ds.pixels().numpy()) for t, ds in zip(titles, sets, strict=True))),
        ),
        notes=notes,
        values=_values(nets, rankings, correlations, len(top), tests),
    )


def _summary(rows: list[tuple[Any, ...]], top: int) -> Grid:
    columns = ("Proxy", "images", "bytes", "seconds", "correlation", f"of best {top}", "picked", "test, %")
    return Grid(
        title="How well proxies rank networks",
        columns=columns,
        rows=tuple(rows),
        note="Spearman's rank correlation with the ranking by training on the whole set. Seconds are those of all trainings "
        "one after the other. The network picked, trained on the whole set, is scored on the test split.",
    )


def _values(
    nets: list[AnyNetConfig],
    rankings: list[Ranking],
    correlations: list[tuple[float | None, float | None]],
    top: int,
    tests: dict[int, float],
) -> dict[str, Any]:
    texts, pairs = [net_text(net) for net in nets], zip(rankings, correlations, strict=True)
    return {
        "candidates": texts,
        "accuracy": {r.name: r.each for r in rankings},
        "correlation": {r.name: {"all": a, f"best {top}": b} for r, (a, b) in pairs},
        "picked": {r.name: {"net": texts[r.pick], "test": tests[r.pick]} for r in rankings},
        "seconds": {r.name: r.seconds for r in rankings},
    }


def _told(net: AnyNetConfig, app: SearchSection) -> str:
    """Return a network's options as words that a narrow table may break between."""
    return ", ".join(f"{key} {getattr(net, key)}" for key, values in app.grid.items() if len(values) > 1)


def _maps(app: SearchSection, nets: list[AnyNetConfig], rankings: list[Ranking]) -> tuple[Grid, ...]:
    """Return the mean accuracy by each option's values, and on the whole set by the two options that have the most."""

    def mean(ranking: Ranking, wanted: dict[str, Any]) -> float | None:
        given = [m for m, net in zip(ranking.means, nets, strict=True) if wanted.items() <= net.model_dump().items()]
        return fmean(given) if given else None

    varied = {key: values for key, values in app.grid.items() if len(values) > 1}
    note = "Percent of the validation images, mean over all networks that have it."
    maps = [
        Grid(
            title="Accuracy by option",
            columns=("Option", *(r.name for r in rankings)),
            rows=tuple(
                (f"{k}: {v}", *(mean(r, {k: v}) for r in rankings)) for k, values in varied.items() for v in values
            ),
            note=note,
            heat=True,
        )
    ]
    if len(varied) > 1:
        one, two = sorted(varied, key=lambda key: -len(varied[key]))[:2]
        maps.append(
            Grid(
                title=f"The whole set: {one} and {two}",
                columns=(one, *(f"{two} {v}" for v in varied[two])),
                rows=tuple((str(v), *(mean(rankings[-1], {one: v, two: w}) for w in varied[two])) for v in varied[one]),
                note=note,
                heat=True,
            )
        )
    return tuple(maps)


def _scatter(rankings: list[Ranking]) -> Figure:
    *proxies, whole = rankings
    lines = tuple(Line(name=r.name, x=tuple(r.means), y=tuple(whole.means)) for r in proxies)
    return Figure(
        title="Proxies and the whole set",
        lines=lines,
        xlabel="accuracy by the proxy, %",
        ylabel="by the whole set, %",
        note="A point is a network; validation images.",
        points=True,
    )
