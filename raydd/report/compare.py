"""One self-contained HTML page on which several runs stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from raydd.config import flat
from raydd.errors import UserError
from raydd.evaluate.matrix import short_nets
from raydd.report.gather import RunRecord, gather
from raydd.report.page import facts, render
from raydd.report.pictures import first_of_each, png_uri, shown_classes, shrunk, stretch, visible
from raydd.report.plots import Curve, chart
from raydd.report.scores import Column, Row, Score, Table, percent_of, scores
from raydd.store import Folder

MOST_RUNS = 12
MOST_CLASSES = 20
NAME = "compare.html"


def write_comparison(runs: Sequence[Folder]) -> str:
    """Write `compare.html` into the folder of the first of several runs.

    Args:
        runs: Folders of two runs or more; of each only the distilled set is required.

    Returns:
        The URL of the page.

    Raises:
        UserError: When there are fewer than two different runs, or more than a page can hold.
        DataError: When one holds no distilled set.
        StoreError: When the first folder cannot be written.
    """
    runs = list({run.url: run for run in runs}.values())
    if not 2 <= len(runs) <= MOST_RUNS:
        raise UserError(
            f"expected 2 to {MOST_RUNS} different runs to compare, got {len(runs)}; name them one after another"
        )
    page = render("compare.html", context([gather(run) for run in runs]))
    runs[0].write(NAME, page.encode())
    return f"{runs[0].url}/{NAME}"


def context(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return what the template shows."""
    names = run_names(records)
    found = [scores([*record.results, *chain.from_iterable(record.later)]) for record in records]
    shown = images(records)
    return {
        "names": names,
        "runs": [
            {
                "name": name,
                "url": record.url,
                "recipe": record.ds.recipe,
                "choice": record.choice,
                "n": len(record.ds),
                "storage": record.ds.storage_bytes,
                "score": next((score for score in of_run if score.result.of == "distilled"), None),
            }
            for name, record, of_run in zip(names, records, found, strict=True)
        ],
        "accuracies": _accuracies(names, found),
        "images": shown,
        "whole": len(shown) == len(_classes(records)),
        **_curves(records),
        "facts": _by_run("What", [dict(facts(record)) for record in records], names, all_rows=True),
        "differences": _by_run("Key", [_config(record) for record in records], names),
        "alike": [record.ds.recipe.method for record in records].count(records[0].ds.recipe.method) == len(records),
    }


def run_names(records: Sequence[RunRecord]) -> list[str]:
    """Return the runs' names; where two have the same, their URLs."""
    names = [record.ds.recipe.name for record in records]
    return names if len(set(names)) == len(names) else [record.url for record in records]


def _config(record: RunRecord) -> dict[str, str]:
    recipe = record.ds.recipe
    told = {
        "augmentation": recipe.augmentation,
        "labels": recipe.label_kind,
        "data (index hash)": recipe.index_hash[:12],
    }
    keys = {**flat(recipe.config), **told, **{f"version of {k}": v for k, v in recipe.versions.items()}}
    return {key: "-" if value is None else str(value) for key, value in keys.items() if key != "name"}


def _by_run(corner: str, of_runs: Sequence[dict[str, str]], names: Sequence[str], *, all_rows: bool = False) -> Table:
    """Return a table with a column a run: of the keys in which runs differ, or of all."""
    keys = dict.fromkeys(key for of_run in of_runs for key in of_run)
    values = {key: [of_run.get(key, "") for of_run in of_runs] for key in keys}
    rows = tuple(
        Row(key, tuple((value, "") for value in row)) for key, row in values.items() if all_rows or len(set(row)) > 1
    )
    return Table(corner, tuple(Column(name) for name in names), rows)


def _accuracies(names: Sequence[str], found: Sequence[Sequence[Score]]) -> list[Table]:
    """Return what the runs scored: a row for every thing trained on, network and way of scoring, a column a run.

    The first table holds the distilled sets and what several runs have, the second one, if any, what only one has. Of
    what a run scored twice in one way, the first counts: what `raydd distill` found, then the newest, and the set's own labels.
    """
    cells: dict[tuple[str, str, str], dict[int, tuple[str, str]]] = {}
    own = {score.title for of_run in found for score in of_run if score.result.of == "distilled"}
    nets = short_nets([score.result.net for of_run in found for score in of_run])
    for run, of_run in enumerate(found):
        for score in of_run:
            key = (score.title, nets[score.result.net], score.way.text)
            cells.setdefault(key, {}).setdefault(run, percent_of(score.result))
    varying = [i for i in range(3) if i == 0 or len({key[i] for key in cells}) > 1]
    rows: tuple[list[Row], list[Row]] = ([], [])
    for key, of_runs in sorted(cells.items(), key=lambda row: (row[0][0] not in own, -len(row[1]))):
        texts = tuple(of_runs.get(run, ("", "")) for run in range(len(found)))
        row = Row(", ".join(key[i] for i in varying if key[i]), texts, key[0] in own)
        rows[not row.own and len(of_runs) < 2].append(row)
    columns = tuple(Column(name, kind="score") for name in names)
    any_key = next(iter(cells), ("", "", ""))
    labels = ((1, "Network"), (2, "Scored by"))
    common = tuple((label, any_key[i]) for i, label in labels if i not in varying and any_key[i])
    tables = [Table("Trained on", columns, tuple(some), () if k else common) for k, some in enumerate(rows)]
    return [table for table in tables if table.rows]


def _classes(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.ds.classes))


def images(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the first image of each run, and a real one, of some of the classes that any run has; matched by name.

    Where real images are kept of some classes only, it is those that are shown.
    """
    real: dict[str, Tensor] = {}
    for record in reversed(records):
        of_run = {} if record.real is None else record.real.by_class()
        real |= {record.ds.classes[c]: image for c, image in of_run.items()}
    classes = [name for name in _classes(records) if name in real] or _classes(records)
    return [
        {
            "name": name,
            "real": png_uri(shrunk(real[name][None])[0]) if name in real else None,
            "learned": [_learned(record, name) for record in records],
        }
        for name in (classes[k] for k in shown_classes(len(classes), (1, 1, 1), MOST_CLASSES))
    ]


def _learned(record: RunRecord, name: str) -> str | None:
    ds = record.ds
    first = first_of_each(ds, len(ds)).get(ds.classes.index(name)) if name in ds.classes else None
    return None if first is None else png_uri(shrunk(visible(ds, ds.images[first : first + 1], stretch(ds)))[0])


def _curves(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return charts on which every run has its own colour, as far as anything was recorded."""
    losses = [list(zip(*record.loss, strict=True)) or [(), ()] for record in records]
    means = [list(zip(*record.scores, strict=True)) or [(), (), ()] for record in records]
    loss = [Curve(x=x, y=y) for x, y in losses]
    progress = [Curve(x=x, y=y, spread=spread) for x, y, spread in means]
    return {
        "loss": chart(loss, xlabel="round", ylabel="loss") if any(curve.x for curve in loss) else None,
        "progress": chart(progress, xlabel="round", ylabel="accuracy, %") if any(c.x for c in progress) else None,
    }
