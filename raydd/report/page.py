"""One self-contained HTML page about a run, for people to read."""

from __future__ import annotations

import math
import shlex
from importlib import resources
from typing import Any

import jinja2
import yaml

from raydd.card import picture
from raydd.data.index import load_index
from raydd.distilled import DistilledSet
from raydd.errors import RaydError
from raydd.evaluate import Accuracy
from raydd.report.gather import RunRecord, gather
from raydd.report.papers import IPC, SHAPES, Published, published
from raydd.report.pictures import data_uri, strips, tiles
from raydd.report.plots import DARK, LIGHT, curve
from raydd.store import Folder

MOST_IN_PICTURE = 1000
TITLES = {"distilled": "Distilled set", "random": "Random real images", "whole": "Whole training set"}


def write_report(run: Folder) -> str:
    """Write `report.html` and `images.png` into a run's folder.

    Args:
        run: The run's folder. Only the distilled set in it is required; the page says what else is missing.

    Returns:
        The URL of the page.

    Raises:
        DataError: When the folder holds no distilled set.
        StoreError: When the folder cannot be written.
    """
    record = gather(run)
    ds = record.ds
    order = ds.targets.argsort(stable=True)[:MOST_IN_PICTURE]
    run.write("images.png", picture(ds.preprocessing.pixels(ds.images[order]), ds.recipe_columns()))
    run.write("report.html", render(record).encode())
    return f"{run.url}/report.html"


def render(record: RunRecord) -> str:
    """Return the page of a run as HTML without any outside reference."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "size": size, "duration": duration}
    template = environment.from_string(resources.files("raydd.report").joinpath("page.html").read_text("utf-8"))
    return template.render(context(record))


def context(record: RunRecord) -> dict[str, Any]:
    """Return what the template shows."""
    ds, recipe = record.ds, record.ds.recipe
    shown = tiles(ds)
    drawings = [
        curve([r for r, _ in record.loss], [v for _, v in record.loss], xlabel="round", ylabel="loss", colours=colours)
        for colours in (LIGHT, DARK)
        if record.loss
    ]
    return {
        "recipe": recipe,
        "n": len(ds),
        "shape": list(ds.images.shape[1:]),
        "per_class": _per_class(ds),
        "headline": _headline(record.results),
        "titles": TITLES,
        "results": record.results,
        "papers": [] if not record.results else _papers(ds),
        "missing": record.missing,
        "shown": shown,
        "shown_count": sum(map(len, shown)),
        "strips": strips(ds, record.history),
        "loss": [data_uri(drawing, "image/svg+xml") for drawing in drawings],
        "loss_end": record.loss[-1] if record.loss else None,
        "facts": _facts(record),
        "config": yaml.safe_dump(recipe.config, sort_keys=False, width=100, allow_unicode=True),
        "repeat": _repeat(record.url, recipe.name),
    }


def number(value: int) -> str:
    """Return a whole number with its digits in groups of three."""
    return f"{value:,}"


def size(count: int) -> str:
    """Return a number of bytes for people, in powers of 1000."""
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "bytes" or value >= 100 else f"{value:.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Return a span of time for people: `41 s`, `3 min 5 s`, `7 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    hours, minutes = whole // 3600, whole % 3600 // 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def _per_class(ds: DistilledSet) -> float:
    return len(ds) / max(1, len(ds.classes))


def _headline(results: list[Accuracy]) -> list[Accuracy]:
    """Return the accuracies of the first network."""
    return [result for result in results if result.net == results[0].net]


def _papers(ds: DistilledSet) -> list[Published]:
    shape = (len(ds.classes), ds.images.shape[1], ds.images.shape[-1])
    if shape not in SHAPES.values() or _per_class(ds) not in IPC:
        return []
    return published(data_name(ds), shape, ds.recipe.method, _per_class(ds))


def data_name(ds: DistilledSet) -> str | None:
    """Return the name of the data set that a set was distilled from, or None where neither recipe nor shards tell."""
    train = str(ds.recipe.config.get("data", {}).get("train", ""))
    source = train.partition(":")[0]
    if source in SHAPES:
        return source
    try:
        return load_index(Folder(train)).name
    except RaydError:
        # The shards may be gone, or out of reach from here; the page does without them.
        return None


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    ds, status = record.ds, record.status
    facts = [("Images", number(len(ds))), ("Storage", size(ds.storage_bytes)), ("Rounds", number(ds.recipe.rounds))]
    if _is_number(status.get("seconds")):
        facts.append(("Distilling", duration(status["seconds"])))
    if _is_number(status.get("rounds_per_second")):
        facts.append(("Rounds a second", f"{status['rounds_per_second']:.3g}"))
    if record.evaluation_seconds is not None:
        facts.append(("Evaluation", duration(record.evaluation_seconds)))
    if "workers" in status:
        workers = status["workers"]
        facts.append(("Workers", str(len(workers) if isinstance(workers, list | dict) else workers)))
    if "faults" in status:
        faults = status["faults"]
        facts.append(("Faults survived", str(len(faults) if isinstance(faults, list | dict) else faults)))
    if status.get("state") not in (None, "done", "finished"):
        facts.append(("State", str(status["state"])))
    return facts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _repeat(url: str, name: str) -> str:
    """Return the command that does the run again, under another name, since a finished run is only shown."""
    return shlex.join(["raydd", "distill", f"{url}/config.yaml", "--set", f"name={name}-again"])
