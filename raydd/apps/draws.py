"""Draws of classes, and the classifiers that are trained for them: the work of `raydd app recall`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
from raydd.evaluate.items import SCORE_BATCH, Shared
from raydd.evaluate.protocols import PROTOCOLS
from raydd.functional.memory import recall
from raydd.functional.train import train, train_on
from raydd.memories import query_network
from raydd.nets import NetState, apply, build, initialise
from raydd.seeding import derive, generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What all draws of one memory have in common; plain data.

    Attributes:
        shared: The memory of all tasks, data and protocol, as an evaluation has them.
        net: The classifier's config, as plain data.
        tasks: The class indices of each task.
        test_images: Test images of each class that a draw is scored on.
        updates: Of a classifier, or None for the protocol's own.
        episode_ways: Classes of an episode.
        predicted: int64, what a classifier of all classes says of each test image, where episodes ask for it.
        learned: Bases, addresses and query network of a memory that is asked by images.
        query_net: The query network's config, as plain data.
    """

    shared: Shared
    net: dict[str, Any]
    tasks: tuple[tuple[int, ...], ...]
    test_images: int
    updates: int | None
    episode_ways: int
    predicted: np.ndarray | None = None
    learned: dict[str, np.ndarray] = field(default_factory=dict)
    query_net: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Draws `first`, `first + 1`, ... of `ways` classes, or episodes with so many `shots`, of one arm."""

    of: str
    ways: int
    first: int
    count: int
    shots: int = 0

    @property
    def each(self) -> range:
        """The draws' numbers."""
        return range(self.first, self.first + self.count)


def classes_of(seed: int, tasks: Sequence[Sequence[int]], ways: int, draw: int) -> list[int]:
    """Return the classes of a draw: `ways` tasks, and a class of each."""
    gen = generator(seed, "recall-draw", ways, draw)
    chosen = torch.randperm(len(tasks), generator=gen)[:ways].tolist()
    return [tasks[t][int(torch.randint(len(tasks[t]), (), generator=gen))] for t in chosen]


def episode(
    seed: int, by_class: Sequence[Tensor], ways: int, shots: int, number: int
) -> tuple[list[int], list[Tensor], list[Tensor]]:
    """Return an episode's classes, the ids of their shots, and for each class the ids of its other images, shuffled."""
    gen = generator(seed, "recall-episode", ways, number)
    chosen = torch.randperm(len(by_class), generator=gen)[:ways].tolist()
    orders = [by_class[c][torch.randperm(len(by_class[c]), generator=gen)] for c in chosen]
    return chosen, [order[:shots] for order in orders], [order[shots:] for order in orders]


def drawn(lessons: Lessons, item: Draws) -> list[float]:
    """Train a classifier for each draw; return their accuracies in percent."""
    desk = Desk(lessons)
    found = []
    for draw in item.each:
        chosen = classes_of(lessons.shared.seed, lessons.tasks, item.ways, draw)
        seed = derive(lessons.shared.seed, "recall", item.ways, draw)
        state = (
            desk.learn_whole(chosen, seed)
            if item.of == "whole"
            else desk.learn(*desk.images(item.of, chosen, seed), seed)
        )
        ids = [class_batch(desk.test.by_class[c], lessons.test_images, generator(seed, "test", c)) for c in chosen]
        found.append(desk.accuracy(state, ids))
    return found


def described(lessons: Lessons, item: Draws) -> dict[str, Any]:
    """Let a classifier of all classes describe the test images: see `Desk.classifier`.

    Returns:
        `predicted`, the class that it gives each test image; and `nearest`, the accuracies in percent of the nearest shot in
        each of the item's episodes, by the classifier's features and by pixels.
    """
    desk = Desk(lessons)
    module, state = desk.classifier()
    everything = torch.arange(len(desk.test))
    says = desk.over(everything, lambda x: apply(module, state.params, state.buffers, x))
    features = desk.over(everything, lambda x: apply(module, state.params, state.buffers, x, features=True))
    pixels = desk.over(everything, lambda x: x.flatten(1))
    nearest = {
        name: [desk.nearest(space, item.shots, number) for number in item.each]
        for name, space in (("features", F.normalize(features)), ("pixels", pixels))
    }
    return {"predicted": says.argmax(1).tolist(), "nearest": nearest}


def recalled(lessons: Lessons, item: Draws) -> list[float]:
    """Train a classifier for each episode on what the memory holds for the class that most shots are taken for.

    Of classes with equally many shots the one with the least index counts.
    """
    desk, found = Desk(lessons), []
    assert lessons.predicted is not None
    predicted = torch.from_numpy(lessons.predicted.copy())
    for number in item.each:
        _, shots, rest = desk.episode(item.shots, number)
        taken = [int(predicted[ids].bincount().argmax()) for ids in shots]
        seed = derive(lessons.shared.seed, "recall-by-image", item.shots, number)
        # Two classes may be taken for one: its images then stand for both.
        x, y = desk.images("distilled", taken, seed)
        found.append(desk.accuracy(desk.learn(x, y, seed), [ids[: lessons.test_images] for ids in rest]))
    return found


def addressed(lessons: Lessons, item: Draws) -> list[float]:
    """Train a classifier for each episode on what the memory holds for the queries that its shots are turned into."""
    desk, found = Desk(lessons), []
    module, state = desk.classifier()
    bases, addresses = desk.learned["bases"], desk.learned["addresses"]
    for number in item.each:
        _, shots, rest = desk.episode(item.shots, number)
        seed = derive(lessons.shared.seed, "recall-by-image", item.shots, number)
        queries = desk.over(torch.cat(shots), lambda x: apply(module, state.params, state.buffers, x)).softmax(1)
        factor = desk.memory.shape[-1] // bases.shape[-1]
        x = recall(bases, addresses, queries, factor).flatten(0, 1)
        y = torch.arange(len(shots)).repeat_interleave(len(x) // len(shots))
        found.append(desk.accuracy(desk.learn(x, y, seed), [ids[: lessons.test_images] for ids in rest]))
    return found


class Desk:
    """A memory, the real images, and networks that are trained for a few classes."""

    def __init__(self, lessons: Lessons) -> None:
        self.lessons = lessons
        self.shared = lessons.shared
        self.device = torch.device(self.shared.device)
        self.preprocessing: Transform = self.shared.preprocessing().to(self.device)
        self.memory = torch.from_numpy(self.shared.images.copy())
        self.labels = torch.from_numpy(self.shared.labels.copy())
        protocol = PROTOCOLS[self.shared.protocol].on(self.shared.data, lessons.net)
        self.protocol = protocol.fitted(self.labels)

    @cached_property
    def test(self) -> RealData:
        """The test images."""
        return self.shared.judges("test")

    @cached_property
    def learned(self) -> dict[str, Tensor]:
        """Bases, addresses and query network; nothing where the memory is not asked by images."""
        return {name: torch.from_numpy(value.copy()) for name, value in self.lessons.learned.items()}

    def classifier(self) -> tuple[nn.Module, NetState]:
        """Return what tells all classes apart: the memory's query network, or else a network trained on the memory."""
        if self.learned:
            module, state = query_network(self.learned, self.lessons.query_net, self.shared.images.shape[1:])
            return module, state.to(self.device)
        everything = list(range(len(self.shared.classes)))
        images = self.images("distilled", everything, self.shared.seed)
        return self.module(len(everything)), self.learn(*images, derive(self.shared.seed, "recall-classifier"))

    def module(self, ways: int) -> nn.Module:
        """Return a classifier of so many classes, without numbers."""
        return build(read_net(self.lessons.net), self.shared.images.shape[1:], ways)

    def images(self, of: str, chosen: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        """Return what there is of the chosen classes, normalised, and labels by their places among them."""
        if of == "distilled":
            hard = self.labels.argmax(1) if self.labels.ndim == 2 else self.labels
            rows = [torch.nonzero(hard == c).flatten() for c in chosen]
            x = self.memory[torch.cat(rows)]
            if self.labels.ndim == 2:
                return x, self.labels[torch.cat(rows)][:, list(chosen)]
        else:
            real, counts = self.shared.real(), self.shared.draws[of]
            rows = [class_batch(real.by_class[c], counts[c], generator(seed, "random", c)) for c in chosen]
            x = self.preprocessing(real.images(torch.cat(rows)))
        return x, torch.arange(len(chosen)).repeat_interleave(torch.tensor([len(ids) for ids in rows]))

    def learn(self, x: Tensor, y: Tensor, seed: int) -> NetState:
        """Return a fresh network trained on images of a few classes."""
        ways = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        updates, batch = self.lessons.updates, self.protocol.training.batch
        recipe = self.protocol.recipe(len(x)) if updates is None else self.protocol.steady(len(x), updates, batch)
        y = self.protocol.targets(y, ways).to(self.device)
        module, augment = self.module(ways), self.protocol.augment(handwritten=self.shared.handwritten)
        return train(module, self._fresh(module, seed), x.to(self.device), y, recipe, seed=seed, augment=augment)

    def learn_whole(self, chosen: Sequence[int], seed: int) -> NetState:
        """Return a fresh network trained on all real images of a few classes."""
        real, updates, batch = self.shared.real(), self.lessons.updates, self.protocol.training.batch
        ids = torch.cat([real.by_class[c] for c in chosen])
        places = torch.full((real.num_classes,), -1)
        places[list(chosen)] = torch.arange(len(chosen))
        recipe = (
            self.protocol.whole_recipe(len(ids), self.shared.whole_epochs)
            if updates is None
            else self.protocol.steady(len(ids), updates, batch)
        )
        batches = real_batches(
            real,
            recipe.batch,
            seed,
            image=lambda x: self.preprocessing(x.to(self.device)),
            target=lambda y: self.protocol.targets(places[y], len(chosen)).to(self.device),
            ids=ids,
        )
        module, augment = self.module(len(chosen)), self.protocol.augment(handwritten=self.shared.handwritten)
        return train_on(module, self._fresh(module, seed), batches, len(ids), recipe, seed=seed, augment=augment)

    def _fresh(self, module: nn.Module, seed: int) -> NetState:
        return initialise(module, generator(seed, "net"), self.device, law=self.protocol.init).channels_last()

    @torch.no_grad()
    def over(self, ids: Tensor, function: Any) -> Tensor:
        """Return a function of normalised test images, on the CPU."""
        parts = [
            function(self.preprocessing(self.test.images(part).to(self.device))) for part in ids.split(SCORE_BATCH)
        ]
        return torch.cat(parts).cpu()

    def accuracy(self, state: NetState, ids: Sequence[Tensor]) -> float:
        """Return the share of test images, given class by class, that a network gives the right place, in percent."""
        module = self.module(len(ids))
        says = self.over(torch.cat(list(ids)), lambda x: apply(module, state.params, state.buffers, x)).argmax(1)
        return _share(says, ids)

    def episode(self, shots: int, number: int) -> tuple[list[int], list[Tensor], list[Tensor]]:
        """Return an episode of this memory; see `episode`."""
        return episode(self.shared.seed, self.test.by_class, self.lessons.episode_ways, shots, number)

    def nearest(self, space: Tensor, shots: int, number: int) -> float:
        """Return how many test images have the nearest shot of an episode in their own class, in percent."""
        _, given, rest = self.episode(shots, number)
        rest = [ids[: self.lessons.test_images] for ids in rest]
        nearest = torch.cdist(space[torch.cat(rest)], space[torch.cat(given)]).argmin(1)
        return _share(nearest // shots, rest)


def _share(says: Tensor, ids: Sequence[Tensor]) -> float:
    truth = torch.arange(len(ids)).repeat_interleave(torch.tensor([len(each) for each in ids]))
    return 100.0 * float((says == truth).float().mean())
