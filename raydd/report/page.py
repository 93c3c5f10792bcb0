"""One self-contained HTML page about a run, for people to read."""

from __future__ import annotations

import shlex
from importlib import resources
from typing import Any

import jinja2
import yaml

from raydd.card import picture
from raydd.data.index import load_index
from raydd.data.names import data_name
from raydd.distilled import DistilledSet
from raydd.errors import RaydError
from raydd.evaluate import Evaluation
from raydd.evaluate.record import command
from raydd.evaluate.request import float_bytes
from raydd.report.gather import RunRecord, gather
from raydd.report.heat import cross_architecture, published_map, similarity
from raydd.report.papers import SHAPES, Published, published, published_cross
from raydd.report.pictures import bases, gallery, sheet, stretch, strips, visible
from raydd.report.plots import Curve, chart
from raydd.report.real import RealImages, keep_real
from raydd.report.scores import (
    Column,
    Row,
    Score,
    Table,
    accuracy_table,
    headline,
    notes,
    percent,
    robust_table,
    scores,
)
from raydd.store import Folder
from raydd.text import count_of, duration, is_number, number, size

MOST_IN_PICTURE = 1000
COMPUTED = ("average", "kmeans")  # baselines whose images are no real ones
FEW_TILES = 4


def write_report(run: Folder, real: RealImages | None = None) -> str:
    """Write `report.html` and `images.png` into a run's folder.

    Args:
        run: The run's folder. Only the distilled set in it is required; the page says what else is missing.
        real: Real images to stand beside the learned ones; they are kept in the folder, and those that it has are used
            where None.

    Returns:
        The URL of the page.

    Raises:
        DataError: When the folder holds no distilled set.
        StoreError: When the folder cannot be written.
    """
    if real is not None:
        DistilledSet.load(run.url)
        keep_real(run, real)
    record = gather(run)
    ds = record.ds
    order = ds.targets.argsort(stable=True)[:MOST_IN_PICTURE]
    run.write("images.png", picture(visible(ds, ds.images[order], stretch(ds)), ds.recipe_columns()))
    run.write("report.html", render("page.html", context(record)).encode())
    return f"{run.url}/report.html"


def render(template: str, values: dict[str, Any]) -> str:
    """Return a page as HTML without any outside reference."""
    here = resources.files("raydd.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: here.joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {"number": number, "size": size, "duration": duration}
    return environment.get_template(template).render(values)


def context(record: RunRecord) -> dict[str, Any]:
    """Return what the template shows."""
    ds, recipe, found = record.ds, record.ds.recipe, scores(record.results)
    shown = gallery(ds, {} if record.real is None else record.real.by_class())
    return {
        "recipe": recipe,
        "n": len(ds),
        "shape": list(ds.images.shape[1:]),
        "kind": "synthetic" if recipe.rounds else "computed" if recipe.method in COMPUTED else "real",
        "missing": record.missing,
        "choice": record.choice,
        "headline": headline(found or _trained_later(record)),
        "results": accuracy_table(found, memory=ds.is_memory) if found else None,
        "notes": notes(found),
        "map": cross_architecture(found),
        "more": [_evaluation(one, memory=ds.is_memory) for one in record.evaluations],
        **_papers(ds, bool(found or record.evaluations)),
        "shown": shown,
        "stretch": stretch(ds),
        "shown_count": sum(len(of_class.tiles) for of_class in shown),
        "few": max((len(of_class.tiles) for of_class in shown), default=0) < FEW_TILES,
        "has_real": any(of_class.real for of_class in shown),
        "sheet": sheet(ds) if len(shown) < len(ds.targets.unique()) else None,
        "memory": _memory(ds),
        "strips": strips(ds, record.history),
        **_curves(record),
        "facts": facts(record),
        "config": yaml.safe_dump(recipe.config, sort_keys=False, width=100, allow_unicode=True),
        "repeat": _repeat(record.url, recipe.name),
    }


def _trained_later(record: RunRecord) -> list[Score]:
    """Return what a later evaluation found that trained networks."""
    return next((scores(own) for own in record.later if own[0].predictor == "train"), [])


def _evaluation(one: Evaluation, *, memory: bool) -> dict[str, Any]:
    """Return what the template shows of an evaluation that was made after the run."""
    found = scores(one.results)
    table = accuracy_table(found, memory=memory)
    return {
        "title": ", ".join(dict.fromkeys(score.way.text for score in found)) if not one.robust else "Robust scores",
        "test": one.test,
        "command": command(one),
        "map": cross_architecture(found),
        "results": table,
        "robust": robust_table(one.robust) if one.robust else None,
        "notes": notes(found),
    }


def _curves(record: RunRecord) -> dict[str, Any]:
    """Return the charts of loss and of accuracy on the validation part, as far as they were recorded."""
    values: dict[str, Any] = {"loss": None, "loss_end": None, "progress": None, "progress_end": None}
    if record.loss:
        rounds, losses = zip(*record.loss, strict=True)
        values |= {"loss": chart([Curve(x=rounds, y=losses)], xlabel="round", ylabel="loss")}
        values |= {"loss_end": record.loss[-1]}
    if record.scores:
        rounds, means, deviations = zip(*record.scores, strict=True)
        curves = [Curve(x=rounds, y=means, spread=deviations)]
        if record.choice is not None and record.choice.score is not None:
            curves.append(Curve(x=[record.choice.round], y=[record.choice.score], points=True))
        values |= {"progress": chart(curves, xlabel="round", ylabel="accuracy, %"), "progress_end": record.scores[-1]}
    return values


def _memory(ds: DistilledSet) -> dict[str, Any] | None:
    """Return what an addressed memory is made of; None of anything else."""
    if not ds.is_memory:
        return None
    learned, addresses = ds.extras["bases"], ds.extras["addresses"]
    return {
        "bases": bases(learned),
        "num_bases": len(learned),
        "shape": list(learned.shape[1:]),
        "each": addresses.shape[1],
        "similarity": similarity(ds),
    }


def ipc_of(ds: DistilledSet) -> float:
    """Return the images a class that a set stands for: of a memory those that it takes the storage of."""
    said = ds.recipe.config.get("method", {}).get("ipc") if ds.is_memory else None
    return said if is_number(said) else len(ds) / max(1, len(ds.classes))


def _papers(ds: DistilledSet, scored: bool) -> dict[str, Any]:
    """Return the papers' numbers for a set: its method's own and the baselines', all others, and whole tables."""
    shape = (len(ds.classes), ds.images.shape[1], ds.images.shape[-1])
    name = _data_name(ds) if scored and shape in SHAPES.values() else None
    cells = published(name, shape, ds.recipe.method, ipc_of(ds))
    near = [cell for cell in cells if cell.method in (ds.recipe.method, "random", "whole")]
    others = [cell for cell in cells if cell not in near]
    return {
        "papers": _published_table(near, ds.recipe.method) if near else None,
        "other_papers": _published_table(others, ds.recipe.method) if others else None,
        "num_others": len(others),
        "published_maps": [published_map(cross) for cross in published_cross(name, shape, ipc_of(ds))],
    }


def _published_table(cells: list[Published], method: str) -> Table:
    rows = tuple(
        Row(cell.method, (percent(cell.mean, cell.std), (cell.protocol, "")), cell.method == method) for cell in cells
    )
    return Table("Method", (Column("Accuracy", True, "score"), Column("How it was scored")), rows)


def _data_name(ds: DistilledSet) -> str | None:
    """Return the name of the data set that a set was distilled from, or None where neither recipe nor shards tell."""
    if ds.recipe.dataset is not None:
        return ds.recipe.dataset
    train = str(ds.recipe.config.get("data", {}).get("train", ""))
    name = train.partition(":")[0]
    if name not in SHAPES:
        try:
            name = load_index(Folder(train)).name
        except RaydError:
            # The shards may be gone, or out of reach from here; the page does without them.
            return None
    return data_name(name, ds.classes)


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """Return what a run took and gave, as pairs of name and value."""
    ds, status, choice = record.ds, record.status, record.choice
    rounds = number(ds.recipe.rounds) + ("" if choice is None else f" of {number(choice.of)}")
    found = [("Images", number(len(ds))), ("Storage", size(ds.storage_bytes)), ("Rounds", rounds)]
    if ds.is_memory:
        classes = len(ds.classes)
        stored = f"{ds.storage_bytes / float_bytes(ds.images.shape[1:]) / classes:.4g}"
        found[1:1] = [("Images a class", f"{len(ds) / classes:.4g}"), ("Images a class, by storage", stored)]
    seconds, workers, faults = status.get("seconds"), count_of(status.get("workers")), count_of(status.get("faults"))
    if is_number(seconds):
        found.append(("Distilling", duration(float(seconds))))
    if is_number(status.get("rounds_per_second")):
        found.append(("Rounds a second", f"{status['rounds_per_second']:.3g}"))
    if record.evaluation_seconds is not None and record.results:
        found.append(("Evaluation", duration(record.evaluation_seconds)))
    if workers is not None:
        found.append(("Workers", str(workers) if workers else "one process"))
        if is_number(seconds) and workers > 1:
            found.append(("Seconds times workers", duration(float(seconds) * workers)))
    device = status.get("device") or ds.recipe.versions.get("device")
    if device:
        found.append(("Device", str(device)))
    if faults is not None:
        found.append(("Faults survived", str(faults)))
    if status.get("state") not in (None, "done", "distilled", "finished"):
        found.append(("State", str(status["state"])))
    return found


def _repeat(url: str, name: str) -> str:
    """Return the command that does the run again, under another name, since a finished run is only shown."""
    return shlex.join(["raydd", "distill", f"{url}/config.yaml", "--set", f"name={name}-again"])
