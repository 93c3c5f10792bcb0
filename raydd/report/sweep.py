"""One self-contained HTML page about a sweep: the best of every size, what mattered, and every trial's images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml

from raydd.config import parse_yaml
from raydd.distilled import DistilledSet
from raydd.errors import DataError
from raydd.evaluate import Accuracy
from raydd.report.page import render
from raydd.report.pictures import first_of_each, png_uri, shown_classes, shrunk, stretch, visible
from raydd.report.plots import Curve, chart, scatter
from raydd.report.scores import Column, Row, Table, headline, percent, scores
from raydd.store import Folder
from raydd.sweep.best import (
    best_by_storage,
    best_of,
    by_storage,
    config_names,
    front,
    influences,
    shown_point,
    shown_value,
)
from raydd.sweep.plan import CONFIG
from raydd.sweep.records import Trial, read_trials
from raydd.text import duration, size

MOST_CLASSES = 10
EDGE = 32
GAP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A trial on the page: itself, its point, what it reached, and its images as a picture of some width and height."""

    trial: Trial
    point: str
    reached: str
    note: str
    picture: str | None
    edges: tuple[int, int]


def write_sweep(sweep: Folder) -> str:
    """Write `report.html` into a sweep's folder, from what it holds.

    Returns:
        The URL of the page.

    Raises:
        DataError: When it is no sweep, or a record was altered.
        StoreError: When it cannot be written.
    """
    if not sweep.exists(CONFIG):
        raise DataError(f"expected a sweep at {sweep.url}, got no {CONFIG} there; check the URL")
    sweep.write("report.html", render("sweep.html", context(sweep)).encode())
    return f"{sweep.url}/report.html"


def context(sweep: Folder) -> dict[str, Any]:
    """Return what the template shows."""
    trials = read_trials(sweep)
    said = parse_yaml(sweep.read(CONFIG).decode(), f"{sweep.url}/{CONFIG}")
    status = sweep.record("status.json") if sweep.exists("status.json") else {}
    bests, best = best_by_storage(trials), best_of(trials)
    hues = {stored: k for k, stored in enumerate(by_storage(trials))}
    return {
        "name": said["name"],
        "url": sweep.url,
        "said": said["sweep"],
        "space": yaml.safe_dump(said["sweep"]["space"], sort_keys=False, width=100, default_flow_style=None),
        "best": best,
        "best_point": shown_point(best) if best else "",
        "counts": _counts(trials),
        "took": duration(float(status.get("seconds", 0.0))),
        "headline": headline(scores(_accuracies(sweep))),
        "bests": _bests(bests, best),
        "storage": _storage(trials, front(bests), hues) if bests else None,
        "curves": _curves(trials, hues) if hues else None,
        "legend": [(_sized(some[0]), hues[stored]) for stored, some in by_storage(trials).items()],
        "mattered": _mattered(trials),
        "groups": _groups(sweep, trials, hues),
        "images": min(MOST_CLASSES, _classes(sweep, best)) if best else 0,
    }


def _counts(trials: Sequence[Trial]) -> list[tuple[str, int]]:
    states = [trial.state for trial in trials]
    names = {"finished": "Finished", "stopped": "Stopped early", "failed": "Failed", "running": "Not finished"}
    return [(text, states.count(state)) for state, text in names.items() if state in states]


def _accuracies(sweep: Folder) -> list[Accuracy]:
    if not sweep.exists("evaluation.json"):
        return []
    return [Accuracy.from_json(result) for result in sweep.record("evaluation.json").get("results", [])]


def _sized(trial: Trial) -> str:
    plural = "s" if trial.ipc != 1 else ""
    return f"{trial.ipc} image{plural} a class, {size(trial.storage_bytes or 0)}"


def _bests(bests: Sequence[Trial], best: Trial | None) -> Table:
    names = config_names(bests)
    columns = (
        Column("Storage", True),
        Column("Accuracy", True, "score"),
        Column("Trial", True),
        Column("Point", kind="wide"),
    )
    rows = tuple(
        Row(
            f"{trial.ipc} a class",
            (
                (size(trial.storage_bytes or 0), ""),
                percent(trial.accuracy or 0.0, None),
                (trial.name, ""),
                (shown_point(trial), ""),
                (f"best/{names[trial.index]}.yaml", ""),
            ),
            trial == best,
        )
        for trial in bests
    )
    return Table("Images", (*columns, Column("Config", kind="wide")), rows)


def _storage(trials: Sequence[Trial], on_front: Sequence[Trial], hues: dict[int, int]) -> tuple[str, str]:
    groups = by_storage([trial for trial in trials if trial.state == "finished"])
    points = [
        Curve(x=[stored] * len(some), y=[trial.accuracy or 0.0 for trial in some], hue=hues[stored])
        for stored, some in groups.items()
    ]
    line = Curve(x=[trial.storage_bytes or 0 for trial in on_front], y=[trial.accuracy or 0.0 for trial in on_front])
    return scatter(points, line, xlabel="storage", ylabel="accuracy, %")


def _curves(trials: Sequence[Trial], hues: dict[int, int]) -> tuple[str, str]:
    curves = [
        Curve(x=[s.share for s in t.scores], y=[s.accuracy for s in t.scores], hue=hues[t.storage_bytes or 0])
        for t in trials
        if t.scores
    ]
    return chart(curves, xlabel="rounds done, %", ylabel="accuracy, %")


def _mattered(trials: Sequence[Trial]) -> Table:
    columns = (
        Column("Size"),
        Column("Trials", True),
        Column("Rank correlation", True),
        Column("Mean by value", kind="wide"),
    )
    rows = tuple(
        Row(
            found.key,
            (
                (f"{found.ipc} a class, {size(found.storage_bytes)}", ""),
                (str(found.trials), ""),
                ("" if found.rank is None else f"{found.rank:+.2f}", ""),
                ("; ".join(f"{text}: {mean:.1f} ({n})" for text, mean, n in found.values), ""),
            ),
        )
        for found in influences(trials)
    )
    return Table("Key", columns, rows)


def _groups(sweep: Folder, trials: Sequence[Trial], hues: dict[int, int]) -> list[dict[str, Any]]:
    """Return all trials, size by size, the best of each first; those without a score last."""
    groups = [
        {"title": _sized(some[0]), "hue": hues[stored], "cards": [_card(sweep, trial) for trial in _ranked(some)]}
        for stored, some in by_storage(trials).items()
    ]
    unscored = [_card(sweep, trial) for trial in trials if trial.storage_bytes is None]
    return [*groups, *([{"title": "Without a score", "hue": None, "cards": unscored}] if unscored else [])]


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: (trial.state != "finished", -(trial.reached or 0.0), trial.index))


def _card(sweep: Folder, trial: Trial) -> Card:
    ds = _set_of(sweep, trial)
    picture, edges = (None, (0, 0)) if ds is None else _picture(ds)
    at = f"after {trial.scores[-1].share:.0f} % of its rounds" if trial.scores else "before its first score"
    notes = {"finished": "", "stopped": f"stopped {at}", "failed": f"failed: {trial.error}", "running": f"left {at}"}
    return Card(
        trial=trial,
        point=", ".join(f"{key.removeprefix('method.')} {shown_value(value)}" for key, value in trial.point.items()),
        reached="" if trial.reached is None else f"{trial.reached:.1f}",
        note=notes[trial.state],
        picture=picture,
        edges=edges,
    )


def _set_of(sweep: Folder, trial: Trial) -> DistilledSet | None:
    """Return a trial's set, or the last one that was scored of it; None where there is none, or it cannot be read."""
    run = sweep.folder("trials", trial.name)
    places = [run.folder("distilled"), *(run.folder("validation", f"{s.round:08d}") for s in reversed(trial.scores))]
    for place in places:
        if place.exists("manifest.json"):
            try:
                return DistilledSet.load(place.url)
            except DataError:
                # The page shows what can be shown.
                return None
    return None


def _classes(sweep: Folder, best: Trial) -> int:
    ds = _set_of(sweep, best)
    return 0 if ds is None else len(ds.classes)


def _picture(ds: DistilledSet) -> tuple[str, tuple[int, int]]:
    """Return the first image of some classes as one picture, two rows of five; and its width and height."""
    firsts = list(first_of_each(ds, len(ds)).values())
    ids = torch.tensor([firsts[k] for k in shown_classes(len(firsts), ds.images.shape[1:], MOST_CLASSES)])
    pixels = shrunk(visible(ds, ds.images[ids], stretch(ds)), EDGE)
    n, channels, height, width = pixels.shape
    columns = min(n, MOST_CLASSES // 2)
    rows = -(-n // columns)
    # A gap between images, in grey, of a share of them that looks the same at every size.
    gap = max(1, width * GAP // EDGE)
    grid = torch.full((channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 128, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return png_uri(grid), (grid.shape[2], grid.shape[1])
