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

from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydd.apps.bench import Bench, need
from raydd.apps.continual.arms import BASELINES, line, pair, titles
from raydd.config import NETS
from raydd.config.apps import TasksSection
from raydd.data.index import load_index
from raydd.data.plan import EpochPlan, class_batch
from raydd.data.reader import RealData
from raydd.data.transforms import Transform
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate.items import score
from raydd.evaluate.request import draws, real_bytes
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import Loss, train, train_on
from raydd.nets import NetState, apply, build, initialise
from raydd.packing import packed
from raydd.report.findings import Figure, Findings, Grid, Sheet
from raydd.seeding import derive, generator
from raydd.store import Folder

NOTES = (
    "The papers' code of this experiment was not released: how memory and new images share a batch, the fine-tuning's rate and "
    "the loss without a factor of the squared temperature are choices of raydd.",
    "Images of each task are normalised by that task's own statistics; grey ones are repeated in three channels where another "
    "task is in colour. Nothing is augmented.",
)
NOTHING = "no memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A task's packed images: URLs of its training and test shards."""

    train: str
    test: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A task as a network learns it.

    Attributes:
        split: Its images.
        transform: Plain part of what normalises them.
        transform_tensors: Its arrays.
        images: float32 (n, C, H, W), what is remembered of it, normalised; n is 0 where nothing is.
        labels: int64 (n,).
        draws: Instead of those, how many real images of each class are drawn anew in each repeat.
    """

    split: Split
    transform: dict[str, Any]
    transform_tensors: dict[str, np.ndarray]
    images: np.ndarray
    labels: np.ndarray
    draws: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What all networks have in common.

    Attributes:
        seed: Root of all draws.
        net: The network's config, as plain data.
        shape: (C, H, W) of what it sees.
        classes: Names.
        section: The application's own section, as plain data.
        device: As torch names it.
    """

    seed: int
    net: dict[str, Any]
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    section: dict[str, Any]
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """One network: what it learns, in order, and which repeat it is."""

    lessons: tuple[Lesson, ...]
    repeat: int


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
        [bench.distil(method, f"{i}-{method.name}-task{t}", train=split.train) for t, split in enumerate(splits, 1)]
        for i, method in enumerate(bench.config.methods)
    ]
    arms = _arms(bench, splits, sets)
    repeats = range(bench.config.evaluate.repeats)
    net = bench.config.evaluate.nets[0].model_dump() if bench.config.evaluate.nets != "auto" else _own_net(sets[0][0])
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


def _splits(bench: Bench, app: TasksSection) -> list[Split]:
    """Pack what must be packed, and check that the tasks fit each other."""
    data, tests = bench.config.data, app.tests or [None] * len(app.tasks)
    found = [Split(train=bench.train, test=bench.test)]
    for i, (train_source, test_source) in enumerate(zip(app.tasks[1:], tests[1:], strict=True), 1):
        named = data.model_copy(update={"train": train_source, "test": test_source})
        train_url, test_url = packed(bench.config.model_copy(update={"data": named}), bench.watcher)
        test_url = need(test_url, f"app.tasks.{i} needs a test split, got none; name it in app.tests")
        found.append(Split(train=train_url, test=test_url))
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


def learn(course: Course, pupil: Pupil) -> list[list[float]]:
    """Train one network on all tasks, one after the other; a pure function of its arguments.

    Returns:
        After each task, the accuracy in percent on each task so far.
    """
    device, seed = torch.device(course.device), derive(course.seed, "continual-tasks", pupil.repeat)
    module = build(NETS[course.net["name"]].model_validate(course.net), course.shape, len(course.classes))
    state = initialise(module, generator(seed, "net"), device).channels_last()
    memory: list[tuple[Tensor, Tensor]] = []
    found = []
    for t, lesson in enumerate(pupil.lessons):
        state = _learn_task(course, module, state, lesson, memory, seed=seed, task=t)
        memory.append(_remembered(course, lesson, derive(seed, "memory", t), device))
        state = _balance(course, module, state, memory, seed=seed, task=t)
        found.append([_mark(course, module, state, each, device) for each in pupil.lessons[: t + 1]])
    return found


@lru_cache(maxsize=8)
def _real(url: str, classes: tuple[str, ...]) -> RealData:
    """Return a split's images; kept, since every network of a process goes through all tasks."""
    return RealData(url, classes=list(classes))


class _Eye:
    """What a network sees of a task's real images, uint8 (n, C, H, W): normalised, in as many channels as it has."""

    def __init__(self, course: Course, lesson: Lesson, device: torch.device) -> None:
        tensors = {key: torch.from_numpy(value.copy()) for key, value in lesson.transform_tensors.items()}
        self.transform = Transform.from_parts(tensors, lesson.transform).to(device)
        self.channels, self.device = course.shape[0], device

    def __call__(self, x: Tensor) -> Tensor:
        return widen(self.transform(x.to(self.device)), self.channels)


def widen(x: Tensor, channels: int) -> Tensor:
    """Return images (n, C, H, W) in so many channels: grey ones repeated."""
    return x if x.shape[1] == channels else x.repeat(1, channels, 1, 1)


def _recipe(course: Course, updates: int, batch: int, factor: float) -> TrainRecipe:
    rate = factor * course.section["lr"]
    return TrainRecipe(
        optimiser="sgd", lr=rate, updates=updates, batch=batch, shuffle=True, momentum=0.9, weight_decay=5e-4
    )


def _learn_task(
    course: Course,
    module: nn.Module,
    before: NetState,
    lesson: Lesson,
    memory: list[tuple[Tensor, Tensor]],
    *,
    seed: int,
    task: int,
) -> NetState:
    """Train a network on a task's images and the memory, held to what it said before."""
    section, device = course.section, torch.device(course.device)
    real, eye = _real(lesson.split.train, course.classes), _Eye(course, lesson, device)
    recipe = _recipe(course, section["updates"], section["batch"], 1.0)
    plan = EpochPlan(derive(seed, "task", task), len(real), recipe.batch)
    kept = _joined(memory)
    weight = section["kd_weight"] if task else 0.0

    def batches(step: int) -> tuple[Tensor, Tensor]:
        ids = plan.batch(step)
        x, y = eye(real.images(ids)), real.labels[ids].to(device)
        if kept is not None:
            rows = class_batch(torch.arange(len(kept[0])), recipe.batch, generator(seed, "rehearse", task, step))
            x, y = torch.cat([x, kept[0][rows]]), torch.cat([y, kept[1][rows]])
        return x, _targets(module, before, x, y, len(course.classes), section["temperature"])

    loss = distilling(len(course.classes), weight, section["temperature"])
    return train_on(module, before, batches, len(real), recipe, seed=seed, indices=("task", task), loss=loss)


@torch.no_grad()
def _targets(module: nn.Module, before: NetState, x: Tensor, y: Tensor, classes: int, temperature: float) -> Tensor:
    """Return one-hot labels and softened outputs of the network before, side by side, (n, 2 * classes)."""
    said = apply(module, before.params, before.buffers, x)
    return torch.cat([F.one_hot(y, classes).to(said), (said / temperature).softmax(1)], 1)


def distilling(classes: int, weight: float, temperature: float) -> Loss:
    """Return the loss of logits (n, classes) with targets (n, 2 * classes): one-hot labels, and another network's outputs.

    Cross entropy with the former plus `weight` times that with the latter, which were softened by `temperature` as the
    logits are here.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        hard, soft = target.split(classes, 1)
        value = F.cross_entropy(logits, hard)
        return value + weight * F.cross_entropy(logits / temperature, soft) if weight else value

    return loss


def _joined(memory: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    """Return all that is remembered; None where nothing is."""
    if sum(len(x) for x, _ in memory) == 0:
        return None
    return torch.cat([x for x, _ in memory]), torch.cat([y for _, y in memory])


def _remembered(course: Course, lesson: Lesson, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return what is kept of a task, as a network sees it, and the labels."""
    if not lesson.draws:
        x = widen(torch.from_numpy(lesson.images.copy()), course.shape[0])
        return x.to(device), torch.from_numpy(lesson.labels.copy()).to(device)
    real = _real(lesson.split.train, course.classes)
    ids = torch.cat(
        [class_batch(real.by_class[c], n, generator(seed, "random", c)) for c, n in enumerate(lesson.draws) if n]
    )
    return _Eye(course, lesson, device)(real.images(ids)), real.labels[ids].to(device)


def _balance(
    course: Course, module: nn.Module, state: NetState, memory: list[tuple[Tensor, Tensor]], *, seed: int, task: int
) -> NetState:
    """Train a network on the memory alone, where there is one."""
    kept, updates = _joined(memory), course.section["finetune"]
    if kept is None or not updates:
        return state
    recipe = _recipe(course, updates, min(course.section["batch"], len(kept[0])), 0.1)
    return train(module, state, *kept, recipe, seed=seed, indices=("balance", task))


def _mark(course: Course, module: nn.Module, state: NetState, lesson: Lesson, device: torch.device) -> float:
    test = _real(lesson.split.test, course.classes)
    return score(module, [state], test, _Eye(course, lesson, device), device)[0]


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
