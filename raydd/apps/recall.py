"""Recall: what memories of tasks hold together, for classes that were never distilled together and for classes shown by an image.

Deng & Russakovsky, "Remember the Past", NeurIPS 2022. The classes are cut into tasks, and a set is distilled of each. A draw is a
few classes of different tasks: a classifier is trained on what the memories hold for these classes, and scored on their test
images, beside the whole training data of the same classes. An episode is a few classes of which one or five test images are
given, the shots, instead of their names, scored on other test images: by the nearest shot, or by a classifier trained on what
the memories hold for the class that most of its shots are taken for (classify, then recall). A memory of all classes that was
learned together with a query network (rtp with `address: image`) is also asked for the queries that the shots are turned into.

Differs from the paper: the classes are cut in their own order. Whoever takes shots for classes is the memory's own query
network, which saw all training images, or where there is none a network that was trained on the memories alone; the nearest
shot is looked for by that network's features and by pixels; the paper does not say. The query network and how it is trained
are raydd's own design (`raydd/methods/rtp_image.py`), since the paper leaves them open; its numbers count among the memory's
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from raydd.apps.bench import Bench
from raydd.apps.draws import Draws, Lessons, addressed, described, drawn, recalled
from raydd.apps.memory import Memory, remembered, together
from raydd.apps.titles import sized
from raydd.config.apps import RecallSection
from raydd.data.index import load_index
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate.request import prepare
from raydd.report.findings import Findings, Grid, Sheet, pair
from raydd.store import Folder

BLOCK = 10  # draws that a process does at a time
REAL = {"random": "random, as many images", "random@bytes": "random, as many bytes", "whole": "whole data"}
ORDER = ("distilled", "random@bytes", "random", "whole")

Row = dict[str, list[float]]


def run(bench: Bench) -> Findings:
    """Return what is composed of memories, and what images recall."""
    app = bench.config.app
    assert isinstance(app, RecallSection)
    tasks = cut(len(bench.classes), app.tasks)
    index = load_index(Folder(bench.test))
    held = dict(zip(index.classes, index.counts.tolist(), strict=True))
    _check_episodes(app, len(bench.classes), min(held.get(name, 0) for name in bench.classes))
    composed: dict[str, Row] = {}
    shown: dict[str, Row] = {}
    stored: dict[str, int] = {}
    sheets = []
    for i, (method, title) in enumerate(zip(bench.config.methods, sized(bench.config.methods), strict=True)):
        if method.variant:
            memory = bench.distil(method, f"{i}-{method.name}-image")
            lessons = _asking(_lessons(bench, app, memory, tasks)[0], memory)
            sheets.append((f"{title}, asked by images", memory.pixels().numpy()))
        else:
            memory = _memory(bench, i, tasks)
            lessons, sizes = _lessons(bench, app, memory, tasks)
            for of, row in _composed(bench, app, lessons).items():
                name = title if of == "distilled" else REAL[of] if of == "whole" else f"{REAL[of]}, beside {title}"
                composed[name], stored[name] = row, sizes[of]
            sheets.append((title, memory.pixels().numpy()))
        if app.episodes:
            rows = {f"{how}, {title}": row for how, row in _shown(bench, app, lessons).items()}
            shown |= rows
            stored |= dict.fromkeys(rows, memory.storage_bytes)
    return _findings(bench, app, tasks, composed, stored, shown, sheets)


def cut(classes: int, tasks: int) -> tuple[tuple[int, ...], ...]:
    """Return the class indices of each task, in order.

    Raises:
        ConfigError: When there are fewer classes than tasks.
    """
    if tasks > classes:
        raise ConfigError(f"app.tasks must be <= the number of classes ({classes}), got {tasks}")
    bounds = [classes * k // tasks for k in range(tasks + 1)]
    return tuple(tuple(range(first, last)) for first, last in pairwise(bounds))


def _memory(bench: Bench, i: int, tasks: Sequence[Sequence[int]]) -> Memory:
    """Return the sets of all tasks together, their classes in the order of `bench.classes`."""
    method, names = bench.config.methods[i], bench.classes
    return together(
        [
            remembered(bench.distil(method, f"{i}-{method.name}-task{k}", classes=[names[c] for c in task]), "float32")
            for k, task in enumerate(tasks)
        ]
    )


def _lessons(
    bench: Bench, app: RecallSection, memory: DistilledSet, tasks: tuple[tuple[int, ...], ...]
) -> tuple[Lessons, dict[str, int]]:
    """Return what draws need to know, and the bytes of what is trained on, by its name."""
    wanted = bench.config.evaluate
    request = bench.request(memory, baselines=wanted.baselines)
    task = prepare(
        request,
        test=bench.test,
        train=bench.train,
        whole_epochs=wanted.whole_epochs,
        seed=bench.config.seed,
        device=bench.device,
    )
    lessons = Lessons(
        shared=task.shared,
        net=task.cells[0].net.model_dump(),  # type: ignore[union-attr]
        tasks=tasks,
        test_images=app.test_images,
        updates=app.updates,
        episode_ways=app.episode_ways,
    )
    return lessons, {of: bytes_ for of, (_, bytes_) in task.sizes.items()}


def _check_episodes(app: RecallSection, classes: int, images: int) -> None:
    """Check that there are enough classes, and test images of each, for an episode."""
    if app.episodes and app.episode_ways > classes:
        raise ConfigError(f"app.episode_ways must be <= the number of classes ({classes}), got {app.episode_ways}")
    if app.episodes and max(app.shots) >= images:
        raise ConfigError(
            f"app.shots must be < the test images of the smallest class ({images}), got {max(app.shots)}: "
            "the others are what an episode is scored on"
        )


def _blocks(count: int, **what: Any) -> list[Draws]:
    """Return so many draws in items of `BLOCK` of them."""
    return [Draws(**what, first=k, count=min(BLOCK, count - k)) for k in range(0, count, BLOCK)]


def _composed(bench: Bench, app: RecallSection, lessons: Lessons) -> dict[str, Row]:
    """Return the accuracies of all draws, by what was trained on and by ways."""
    found: dict[str, Row] = {}
    for of in (of for of in ORDER if of == "distilled" or of in bench.config.evaluate.baselines):
        count = app.whole_draws if of == "whole" else app.draws
        found[of] = {
            f"{ways}-way": _flat(bench.map(drawn, _blocks(count, of=of, ways=ways), lessons)) for ways in app.ways
        }
    return found


def _shown(bench: Bench, app: RecallSection, lessons: Lessons) -> dict[str, Row]:
    """Return the accuracies of all episodes, by the way of recalling and by shots."""
    found: dict[str, Row] = {}
    for shots in app.shots:
        what = {"of": "distilled", "ways": app.episode_ways, "shots": shots}
        (says,) = bench.map(described, [Draws(**what, first=0, count=app.episodes)], lessons)
        knowing = replace(lessons, predicted=np.array(says["predicted"]))
        column = _shots(shots)
        for space, each in says["nearest"].items():
            found.setdefault(f"nearest shot by {space}", {})[column] = each
        classified = _flat(bench.map(recalled, _blocks(app.episodes, **what), knowing))
        found.setdefault("classify, then recall", {})[column] = classified
        if lessons.learned:
            asked = _flat(bench.map(addressed, _blocks(app.episodes, **what), lessons))
            found.setdefault("asked by image", {})[column] = asked
    return found


def _asking(lessons: Lessons, memory: DistilledSet) -> Lessons:
    """Return lessons that know the query network of a memory."""
    learned = {name: value.numpy() for name, value in memory.extras.items()}
    return replace(lessons, learned=learned, query_net=memory.recipe.config["net"])


def _shots(count: int) -> str:
    return f"{count} shot{'s' if count > 1 else ''}"


def _flat(blocks: Sequence[list[float]]) -> list[float]:
    return [each for block in blocks for each in block]


def _findings(
    bench: Bench,
    app: RecallSection,
    tasks: Sequence[Sequence[int]],
    composed: dict[str, Row],
    stored: dict[str, int],
    shown: dict[str, Row],
    sheets: list[tuple[str, np.ndarray]],
) -> Findings:
    ways, shots = [f"{w}-way" for w in app.ways], [_shots(s) for s in app.shots]
    first = Grid(
        title="Classes that were never seen together",
        columns=("Trained on", "bytes", *ways),
        rows=tuple((name, stored[name], *(pair(row[w]) for w in ways)) for name, row in composed.items()),
        note=f"Percent of {app.test_images} test images a class, mean and deviation over {app.draws:,} draws "
        f"(whole data: {app.whole_draws:,}) of classes from different tasks. Bytes are those of all classes.",
    )
    second = Grid(
        title="Classes that are shown by an image",
        columns=("Recalled by", "bytes", *shots),
        rows=tuple((name, stored[name], *(pair(row[s]) for s in shots)) for name, row in shown.items()),
        note=f"Percent of test images, mean and deviation over {app.episodes:,} episodes of {app.episode_ways} classes; "
        f"guessing gives {100 / app.episode_ways:.3g}. Bytes are those of the memory, which the nearest shot by pixels does "
        "without; a memory that is asked by images recalls as many for every shot as for a class.",
    )
    return Findings(
        title=f"{bench.config.name}: recall",
        lead=_lead(tasks, composed=bool(composed), shown=bool(shown)),
        grids=tuple(grid for grid in (first, second) if grid.rows),
        sheets=(Sheet(title="The memories", rows=tuple(sheets), note="Class by class, task by task."),),
        notes=tuple(part.replace("\n", " ").strip() for part in (__doc__ or "").split("\n\n")[1:]),
        values={
            "composed": {name: {w: pair(each) for w, each in row.items()} for name, row in composed.items()},
            "shown": {name: {s: pair(each) for s, each in row.items()} for name, row in shown.items()},
        },
    )


def _lead(tasks: Sequence[Sequence[int]], *, composed: bool, shown: bool) -> str:
    """Return in words what was done."""
    of_each = f"{len(tasks[0])}" if len({len(task) for task in tasks}) == 1 else "as equally many as can be"
    parts = []
    if composed:
        parts.append(
            f"{len(tasks)} tasks of {of_each} classes, each distilled on its own; classifiers are trained on what the "
            "memories hold for classes of different tasks."
        )
    if shown:
        parts.append("Classifiers are trained on what memories hold for classes that are shown by a few images.")
    return " ".join(parts)
