"""Task-incremental learning: one network learns several data sets of the same classes, one after the other.

The end-to-end scheme of Castro et al. (ECCV 2018) as Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR
2021, use it with condensed images for SVHN, MNIST and USPS. The authors' code for this was never released; ours, in full:

A task is `updates` steps of SGD. The batch of a step is `batch` images of the task, in keyed epochs, and as many of the memory of
the tasks before, drawn without replacement (all where there are fewer). The loss is the cross entropy with the labels plus
`kd_weight` times that of the softened outputs with those of the network as it was before the task, both at `temperature`, over
the whole batch. Then the task's own memory joins, and `finetune` steps on the memory alone, which has as many images of every
task, at a tenth of the rate, end the task. Without memory there is no such end.

What is compared has the same initial weights and the same batches of each task in a repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from raydd.apps.bench import Bench, need
from raydd.apps.continual.arms import BASELINES, line, titles
from raydd.apps.continual.pupil import Course, Lesson, Pupil, Split, learn, widen
from raydd.apps.memory import remembered
from raydd.config.apps import TasksSection
from raydd.data.index import load_index
from raydd.distilled import DistilledSet
from raydd.engine.job import facts_of, open_real
from raydd.errors import ConfigError
from raydd.evaluate.request import draws, real_bytes
from raydd.packing import packed
from raydd.report.findings import Figure, Findings, Grid, Sheet, pair
from raydd.store import Folder

NOTES = (
    "The papers' code of this experiment was not released: how memory and new images share a batch, the fine-tuning's rate and "
    "the loss without a factor of the squared temperature are choices of raydd.",
    "Images of each task are normalised by that task's own statistics; grey ones are repeated in three channels where another "
    "task is in colour. Nothing is augmented.",
)
NOTHING = "no memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What is compared: a memory's name, its lessons, and bytes of what is kept of each task."""

    name: str
    lessons: tuple[Lesson, ...]
    kept: tuple[int, ...]


def run(bench: Bench, app: TasksSection) -> Findings:
    """Return what networks with each memory score after each task."""
    splits = _splits(bench, app)
    shape = (max(load_index(Folder(s.train)).channels for s in splits), *_sizes(splits))
    sets = [
        [
            remembered(bench.distil(method, f"{i}-{method.name}-task{t}", train=split.train), app.keep)
            for t, split in enumerate(splits, 1)
        ]
        for i, method in enumerate(bench.config.methods)
    ]
    arms = _arms(bench, splits, sets)
    repeats = range(bench.config.evaluate.repeats)
    net = _own_net(sets[0][0]) if bench.config.evaluate.nets == "auto" else _asked_net(bench, shape[0])
    course = Course(
        seed=bench.config.seed,
        net=net,
        shape=shape,
        classes=bench.classes,
        section=app.model_dump(),
        device=bench.device,
    )
    pupils = [Pupil(lessons=arm.lessons, repeat=repeat) for arm in arms for repeat in repeats]
    marks = bench.map(learn, pupils, course)
    by_arm = [marks[i * len(repeats) : (i + 1) * len(repeats)] for i in range(len(arms))]
    return _findings(bench, app, arms, by_arm, sets)


def _own_net(ds: DistilledSet) -> dict[str, Any]:
    return dict(ds.recipe.config["net"])


def _asked_net(bench: Bench, channels: int) -> dict[str, Any]:
    """Return the network of `evaluate.nets` with every `auto` filled by the first task's data, in the channels of all."""
    asked = bench.config.evaluate.nets
    assert asked != "auto"
    config = bench.config.run(bench.config.methods[0], "net", "runs")
    facts = replace(facts_of(open_real(config, bench.train)), channels=channels)
    return asked[0].resolved(facts).model_dump()


def _splits(bench: Bench, app: TasksSection) -> list[Split]:
    """Pack what must be packed, and check that the tasks fit each other."""
    data, tests = bench.config.data, app.tests or [None] * len(app.tasks)
    found = [Split(train=bench.train, test=bench.test)]
    for i, (train_source, test_source) in enumerate(zip(app.tasks[1:], tests[1:], strict=True), 1):
        named = data.model_copy(update={"train": train_source, "test": test_source})
        train_url, test_url = packed(bench.config.model_copy(update={"data": named}), bench.watcher)
        test_url = need(test_url, f"app.tasks.{i} needs a test split, got none; name it in app.tests")
        found.append(Split(train=bench.unchanged(train_url), test=bench.unchanged(test_url)))
    first = load_index(Folder(found[0].train))
    for i, split in enumerate(found):
        for url in (split.train, split.test):
            index = load_index(Folder(url))
            if index.size != first.size:
                raise ConfigError(
                    f"app.tasks.{i} must have images of {first.size} pixels, as the first task has, got {index.size}; "
                    "set data.size"
                )
            if not set(bench.classes) <= set(index.classes):
                raise ConfigError(
                    f"app.tasks.{i} must have the classes of the first task, got {url} without some of them"
                )
    return found


def _sizes(splits: list[Split]) -> tuple[int, int]:
    size = load_index(Folder(splits[0].train)).size
    return size, size


def _arms(bench: Bench, splits: list[Split], sets: list[list[DistilledSet]]) -> list[Arm]:
    """Return every method's memory with its baselines, and no memory at all."""
    names = titles(bench.config.methods)
    found = []
    for name, own in zip(names, sets, strict=True):
        given = tuple(_lesson(ds, split) for ds, split in zip(own, splits, strict=True))
        found.append(Arm(name=name, lessons=given, kept=tuple(ds.storage_bytes for ds in own)))
        for of in bench.config.evaluate.baselines:
            beside = BASELINES[of] if len(names) == 1 else f"{BASELINES[of]} (as {name})"
            found.append(_drawn(beside, of, own, splits))
    nothing = tuple(_lesson(ds, split, remember=False) for ds, split in zip(sets[0], splits, strict=True))
    return [*found, Arm(name=NOTHING, lessons=nothing, kept=(0,) * len(splits))]


def _drawn(name: str, of: str, sets: list[DistilledSet], splits: list[Split]) -> Arm:
    """Return a memory of random images, as many as a method's or of as many bytes."""
    lessons, kept = [], []
    for ds, split in zip(sets, splits, strict=True):
        index = load_index(Folder(split.train))
        counts = draws(ds, of, [int(index.counts[index.classes.index(name)]) for name in ds.classes])
        lessons.append(_lesson(ds, split, remember=False, draws=counts))
        kept.append(sum(counts) * real_bytes(ds.images.shape[1:]))
    return Arm(name=name, lessons=tuple(lessons), kept=tuple(kept))


def _lesson(ds: DistilledSet, split: Split, *, remember: bool = True, draws: tuple[int, ...] = ()) -> Lesson:
    count = len(ds) if remember else 0
    return Lesson(
        split=split,
        transform=ds.preprocessing.to_json(),
        transform_tensors={key: value.numpy() for key, value in ds.preprocessing.to_tensors().items()},
        images=ds.images[:count].numpy(),
        labels=ds.targets[:count].numpy(),
        draws=draws,
    )


def _findings(
    bench: Bench,
    app: TasksSection,
    arms: list[Arm],
    by_arm: list[list[list[list[float]]]],
    sets: list[list[DistilledSet]],
) -> Findings:
    tasks = range(len(app.tasks))
    seen = {
        arm.name: [pair([fmean(marks[t]) for marks in each]) for t in tasks]
        for arm, each in zip(arms, by_arm, strict=True)
    }
    last = {
        arm.name: [pair([marks[-1][s] for marks in each]) for s in tasks]
        for arm, each in zip(arms, by_arm, strict=True)
    }
    kept = {arm.name: sum(arm.kept) for arm in arms}
    short = [
        f"{t}: {load_index(Folder(arms[0].lessons[t - 1].split.train)).name}" for t in range(1, len(app.tasks) + 1)
    ]
    grids = (
        Grid(
            title="Accuracy over all tasks seen",
            columns=("Memory", "bytes at the end", *(f"after task {name}" for name in short)),
            rows=tuple((name, kept[name], *cells) for name, cells in seen.items()),
            note="Percent, the mean over the test splits of all tasks so far; mean and deviation over networks.",
        ),
        Grid(
            title="At the end, task by task",
            columns=("Memory", *(f"task {name}" for name in short)),
            rows=tuple((name, *cells) for name, cells in last.items()),
            note="Percent of each task's test split, after the last task.",
        ),
    )
    rows = tuple(
        (name, torch.cat([widen(ds.pixels(), max(d.images.shape[1] for d in own)) for ds in own]).numpy())
        for name, own in zip(titles(bench.config.methods), sets, strict=True)
    )
    curves = tuple(line(name, cells) for name, cells in seen.items())
    return Findings(
        title=f"{bench.config.name}: task-incremental learning",
        lead=f"One network learns {', '.join(name.partition(': ')[2] for name in short)}, one after the other.",
        grids=grids,
        figures=(Figure(title="Accuracy over tasks", lines=curves, xlabel="task", ylabel="accuracy, %"),),
        sheets=(Sheet(title="The memories", rows=rows, note="Task by task."),),
        notes=NOTES,
        values={
            "accuracy": {name: [list(cell) for cell in cells] for name, cells in seen.items()},
            "tasks": {name: [list(cell) for cell in cells] for name, cells in last.items()},
            "bytes": kept,
        },
    )
