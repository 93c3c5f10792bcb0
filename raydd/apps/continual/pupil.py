"""How one network learns tasks one after the other; see `raydd.apps.continual.tasks`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydd.config import read_net
from raydd.data.epochs import real_batches
from raydd.data.plan import class_batch
from raydd.data.reader import RealData
from raydd.data.transforms import Transform
from raydd.evaluate.items import score
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import Loss, train, train_on
from raydd.nets import NetState, apply, build, initialise
from raydd.seeding import derive, generator


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


def learn(course: Course, pupil: Pupil) -> list[list[float]]:
    """Train one network on all tasks, one after the other; a pure function of its arguments.

    Returns:
        After each task, the accuracy in percent on each task so far.
    """
    device, seed = torch.device(course.device), derive(course.seed, "continual-tasks", pupil.repeat)
    module = build(read_net(course.net), course.shape, len(course.classes))
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
    own = real_batches(
        real, recipe.batch, derive(seed, "task", task), image=eye, target=lambda labels: labels.to(device)
    )
    kept = _joined(memory)
    weight = section["kd_weight"] if task else 0.0

    def batches(step: int) -> tuple[Tensor, Tensor]:
        x, y = own(step)
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
