"""A group of trainings and their scores: the unit that evaluation spreads over processes.

What travels between processes is plain data with numpy arrays; real images are read where they are needed, by URL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from raydd.config import read_net
from raydd.data.epochs import real_batches
from raydd.data.plan import class_batch
from raydd.data.reader import RealData
from raydd.data.transforms import Transform
from raydd.evaluate.knn import knn_accuracy
from raydd.evaluate.krr import krr_accuracy
from raydd.evaluate.protocols import PROTOCOLS, Protocol
from raydd.evaluate.steps import FIXED, STEP_SIZES, apply_steps, with_fixed
from raydd.functional.stacked import train_group
from raydd.functional.train import train, train_on
from raydd.nets import NetState, apply, build, initialise
from raydd.seeding import derive, generator

SCORE_BATCH = 500
Part = Literal["test", "val"]
Predictor = Literal["train", "krr", "knn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What all items of an evaluation have in common; picklable, without torch tensors.

    Attributes:
        seed: Root of all draws.
        protocol: Name of the protocol.
        images: float32 (N, C, H, W), the distilled images, normalised.
        labels: int64 (N,) or float32 (N, classes).
        classes: Names, in the order of label indices.
        transform: Plain part of what makes real images comparable.
        transform_tensors: Its arrays.
        data: The data set's name, on which a protocol may depend.
        handwritten: Whether mirroring would change what an image shows.
        train: URL of packed training shards, or None.
        test: URL of packed test shards.
        val_fraction: Share of the training split that was kept for selection, and is no part of the baselines.
        split_seed: What that split is keyed by.
        whole_epochs: Epochs of the training on the whole set.
        draws: How many real images of each class the baselines of random images take, by their names.
        others: Images and labels, like `images` and `labels`, of the baselines that were chosen beforehand, by their names.
        device: Where networks are trained, as torch names it.
        learned: What else was learned and decides a training: step sizes, and the network they are for.
    """

    seed: int
    protocol: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    transform: dict[str, Any]
    transform_tensors: dict[str, np.ndarray]
    data: str
    handwritten: bool
    train: str | None
    test: str
    val_fraction: float
    split_seed: int
    whole_epochs: int
    draws: dict[str, tuple[int, ...]]
    device: str
    others: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    learned: dict[str, np.ndarray] = field(default_factory=dict)

    def preprocessing(self) -> Transform:
        """Return what makes real images comparable with the distilled ones."""
        return Transform.from_parts(
            {k: torch.from_numpy(v.copy()) for k, v in self.transform_tensors.items()}, self.transform
        )

    def real(self) -> RealData:
        """Return the real training images that the set was distilled from."""
        assert self.train is not None, "baselines without training shards are refused before anything starts"
        return real_data(self.train, self.classes, self.val_fraction, self.split_seed)

    def judges(self, part: Part) -> RealData:
        """Return the real images that networks are scored on: the test split, or what was kept of the training split."""
        if part == "test":
            return real_data(self.test, self.classes)
        assert self.train is not None, "a choice without training shards is refused before anything starts"
        return real_data(self.train, self.classes, self.val_fraction, self.split_seed, "val")

    def labels_of(self, of: str) -> Tensor | None:
        """Return the labels of a set that was given; None for real images, whose labels are hard."""
        given = self.labels if of == "distilled" else self.others[of][1] if of in self.others else None
        return None if given is None else torch.from_numpy(given.copy())

    def protocol_of(self, item: Item) -> Protocol:
        """Return how an item's networks are trained."""
        protocol = PROTOCOLS[self.protocol].on(self.data, item.net)
        return protocol.fitted(self.labels_of(item.of), lr=item.lr, augment=item.augment)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Networks of one kind to train and score together.

    The group is part of the numerics: networks of one group may be trained stacked, which rounds otherwise.

    Attributes:
        of: What it is trained on: `distilled`, or a baseline.
        net: The network's config as plain data.
        net_text: The same as text; names the item's draws.
        repeats: Which repeats of this training, from 0, each a network with draws of its own.
        predictors: Who answers: the network that was `train`ed, `krr` on its features; or `knn` alone, for which none is.
        lr: The learning rate where the protocol leaves it open.
        augment: Whether the protocol's augmentation is applied.
        part: What is scored: the test split, or `val` of the training split for a choice.
    """

    of: str
    net: dict[str, Any]
    net_text: str
    repeats: tuple[int, ...]
    predictors: tuple[Predictor, ...] = ("train",)
    lr: float | None = None
    augment: bool = True
    part: Part = "test"

    def seed(self, shared: Shared, repeat: int) -> int:
        """Return what all draws of a repeat are keyed by; not by the rate or the augmentation, which are compared."""
        purpose = "evaluate" if self.part == "test" else "choose"
        return derive(shared.seed, purpose, self.of, shared.protocol, self.net_text, repeat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An item of an evaluation of several sets.

    Attributes:
        which: The place of its set's `Shared` among all.
        item: The item.
    """

    which: int
    item: Item


@lru_cache(maxsize=3)
def real_data(
    url: str,
    classes: tuple[str, ...],
    val_fraction: float = 0.0,
    seed: int = 0,
    part: Literal["train", "val"] = "train",
) -> RealData:
    """Return packed shards relabelled to `classes`; kept, so that the items of a process read them once."""
    return RealData(
        url, classes=list(classes), part=part if val_fraction else "all", val_fraction=val_fraction, seed=seed
    )


def groups(repeats: int, size: int) -> list[tuple[int, ...]]:
    """Return repeats 0, 1, ... in groups of `size` >= 1, the last one what is left."""
    return [tuple(range(first, min(first + size, repeats))) for first in range(0, repeats, size)]


def accuracies(shared: Shared, item: Item) -> list[float]:
    """Train the networks of a group and return the accuracy of each on the test set in percent, predictor by predictor.

    The result depends on the arguments alone (and on the number of torch threads and the device), not on where or in
    which order items are done: order, augmentation, initial weights and the draw of real images are keyed by the item
    and the repeat.
    """
    if item.predictors == ("knn",):
        return _by_neighbours(shared, item)
    protocol = shared.protocol_of(item)
    net = read_net(item.net)
    device = torch.device(shared.device)
    preprocessing = shared.preprocessing().to(device)
    module = build(net, (shared.images.shape[1], shared.images.shape[2], shared.images.shape[3]), len(shared.classes))
    seeds = [item.seed(shared, repeat) for repeat in item.repeats]
    states = [initialise(module, generator(seed, "net"), device, law=protocol.init).channels_last() for seed in seeds]
    if item.of == "whole":
        each = zip(states, seeds, strict=True)
        states = [_train_whole(shared, protocol, module, state, seed, preprocessing, device) for state, seed in each]
    elif item.of == "distilled" and shared.learned:
        states = [_by_steps(shared, module, state, device) for state in states]
    else:
        states = _train_together(shared, item, module, states, seeds, preprocessing, device)
    found = []
    for predictor in item.predictors:
        if predictor == "krr":
            found += _by_krr(shared, item, module, states, preprocessing, device)
        else:
            found += score(module, states, shared.judges(item.part), preprocessing, device)
    return found


def placed_accuracies(shared: Sequence[Shared], placed: Placed) -> list[float]:
    """Return the `accuracies` of an item."""
    return accuracies(shared[placed.which], placed.item)


def _train_together(
    shared: Shared,
    item: Item,
    module: nn.Module,
    states: Sequence[NetState],
    seeds: Sequence[int],
    preprocessing: Transform,
    device: torch.device,
) -> list[NetState]:
    """Train on a distilled set, which all repeats have in common, or on real images, of which each has its own."""
    protocol = shared.protocol_of(item)
    sets = []
    for seed in seeds if item.of in shared.draws else seeds[:1]:
        x, labels = images_of(shared, item, seed, preprocessing, device)
        sets.append((x, protocol.targets(labels, len(shared.classes)).to(device)))
    recipe, augment = protocol.recipe(len(sets[0][0])), protocol.augment(handwritten=shared.handwritten)
    if len(states) == 1:
        return [train(module, states[0], *sets[0], recipe, seed=seeds[0], augment=augment)]
    x, y = (torch.stack(tensors) for tensors in zip(*sets, strict=True))
    x, y = x.expand(len(states), *x.shape[1:]), y.expand(len(states), *y.shape[1:])
    return train_group(module, states, x, y, recipe, seeds=seeds, augment=augment)


def _by_krr(
    shared: Shared,
    item: Item,
    module: nn.Module,
    states: Sequence[NetState],
    preprocessing: Transform,
    device: torch.device,
) -> list[float]:
    found = []
    for repeat, state in zip(item.repeats, states, strict=True):
        x, labels = images_of(shared, item, item.seed(shared, repeat), preprocessing, device)
        test, classes = shared.judges(item.part).stream(SCORE_BATCH), len(shared.classes)
        found.append(krr_accuracy(module, state, x, labels, test, preprocessing, num_classes=classes))
    return found


def _by_neighbours(shared: Shared, item: Item) -> list[float]:
    """Score the nearest neighbours in the set of each repeat."""
    device = torch.device(shared.device)
    preprocessing, found = shared.preprocessing().to(device), []
    for repeat in item.repeats:
        x, labels = images_of(shared, item, item.seed(shared, repeat), preprocessing, device)
        test = ((images.to(device), truth) for images, truth in shared.judges(item.part).stream(SCORE_BATCH))
        found.append(knn_accuracy(x, labels.to(device), test, preprocessing))
    return found


def images_of(
    shared: Shared, item: Item, seed: int, preprocessing: Transform, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what an item's networks are trained on, normalised, on the device, and the labels."""
    if item.of in shared.draws:
        return _random(shared, shared.draws[item.of], seed, preprocessing, device)
    images, labels = shared.others.get(item.of, (shared.images, shared.labels))
    # Copies, because arrays that come out of an object store are read-only, which torch warns about.
    return torch.from_numpy(images.copy()).to(device), torch.from_numpy(labels.copy())


def _distilled(shared: Shared, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(shared.images.copy()).to(device), torch.from_numpy(shared.labels.copy())


def _by_steps(shared: Shared, module: nn.Module, state: NetState, device: torch.device) -> NetState:
    learned = {name: torch.from_numpy(value.copy()) for name, value in shared.learned.items()}
    fixed = {name.removeprefix(FIXED): value for name, value in learned.items() if name.startswith(FIXED)}
    x, y = _distilled(shared, device)
    state = with_fixed(state, fixed).channels_last()
    return apply_steps(module, state, x, y.to(device), learned[STEP_SIZES])


def _random(
    shared: Shared, counts: tuple[int, ...], seed: int, preprocessing: Transform, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Draw real images, so many of each class."""
    real = shared.real()
    picked = [
        class_batch(real.by_class[c], count, generator(seed, "random", c)) for c, count in enumerate(counts) if count
    ]
    ids = torch.cat(picked)
    return preprocessing(real.images(ids).to(device)), real.labels[ids]


def class_counts(labels: np.ndarray, num_classes: int) -> list[int]:
    """Return how many images of each class there are, for hard (n,) or soft (n, num_classes) labels."""
    hard = labels.argmax(1) if labels.ndim == 2 else labels
    return np.bincount(hard, minlength=num_classes).tolist()


def _train_whole(
    shared: Shared,
    protocol: Protocol,
    module: nn.Module,
    state: NetState,
    seed: int,
    preprocessing: Transform,
    device: torch.device,
) -> NetState:
    """Train on all real images, each batch normalised from the uint8 cache when it is its turn."""
    real = shared.real()
    recipe = protocol.whole_recipe(len(real), shared.whole_epochs)
    batches = real_batches(
        real,
        recipe.batch,
        seed,
        image=lambda x: preprocessing(x.to(device)),
        target=lambda y: protocol.targets(y, len(shared.classes)).to(device),
    )
    augment = protocol.augment(handwritten=shared.handwritten)
    return train_on(module, state, batches, len(real), recipe, seed=seed, augment=augment)


@torch.no_grad()
def score(
    module: nn.Module,
    states: Sequence[NetState],
    test: RealData,
    preprocessing: Callable[[Tensor], Tensor],
    device: torch.device,
) -> list[float]:
    """Return, for each network, the share of test images whose strongest logit is their class, in percent."""
    correct = torch.zeros(len(states), dtype=torch.int64, device=device)
    for images, labels in test.stream(SCORE_BATCH):
        x, truth = preprocessing(images.to(device)), labels.to(device)
        for place, state in enumerate(states):
            logits = apply(module, state.params, state.buffers, x)
            correct[place] += (logits.argmax(1) == truth).sum()
    return [100.0 * right / len(test) for right in correct.tolist()]
