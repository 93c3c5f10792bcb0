"""One training and one score: the unit that evaluation spreads over processes.

What travels between processes is plain data with numpy arrays; real images are read where they are needed, by URL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raydd.config import NETS
from raydd.data.plan import EpochPlan, class_batch
from raydd.data.reader import RealData
from raydd.data.transforms import Transform
from raydd.evaluate.protocols import PROTOCOLS, Protocol
from raydd.evaluate.steps import FIXED, STEP_SIZES, apply_steps, with_fixed
from raydd.functional.train import train, train_on
from raydd.nets import NetState, apply, build, initialise
from raydd.seeding import derive, generator

SCORE_BATCH = 500


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
        random_counts: How many real images of each class the random baseline takes.
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
    random_counts: tuple[int, ...]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One network to train and score.

    Attributes:
        of: What it is trained on: `distilled`, `random` or `whole`.
        net: The network's config as plain data.
        net_text: The same as text; names the item's draws.
        repeat: From 0.
    """

    of: str
    net: dict[str, Any]
    net_text: str
    repeat: int


@lru_cache(maxsize=2)
def real_data(url: str, classes: tuple[str, ...], val_fraction: float = 0.0, seed: int = 0) -> RealData:
    """Return packed shards relabelled to `classes`; kept, so that the items of a process read them once."""
    return RealData(
        url, classes=list(classes), part="train" if val_fraction else "all", val_fraction=val_fraction, seed=seed
    )


def accuracy(shared: Shared, item: Item) -> float:
    """Train one network and return its accuracy on the test set in percent.

    The result depends on the arguments alone (and on the number of torch threads and the device), not on where or in
    which order items are done: order, augmentation, initial weights and the draw of real images are keyed by the item.
    """
    protocol = PROTOCOLS[shared.protocol].on(shared.data)
    net = NETS[item.net["name"]].model_validate(item.net)
    seed = derive(shared.seed, "evaluate", item.of, protocol.name, item.net_text, item.repeat)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preprocessing = shared.preprocessing().to(device)
    module = build(net, (shared.images.shape[1], shared.images.shape[2], shared.images.shape[3]), len(shared.classes))
    state = initialise(module, generator(seed, "net"), device, law=protocol.init).channels_last()
    if item.of == "whole":
        state = _train_whole(shared, protocol, module, state, seed, preprocessing, device)
    elif item.of == "distilled" and protocol.learned_steps:
        state = _by_steps(shared, module, state, device)
    else:
        x, labels = _random(shared, seed, preprocessing, device) if item.of == "random" else _distilled(shared, device)
        y = protocol.targets(labels, len(shared.classes)).to(device)
        augment = protocol.augment(handwritten=shared.handwritten)
        state = train(module, state, x, y, protocol.recipe(len(x)), seed=seed, augment=augment)
    return score(module, state, real_data(shared.test, shared.classes), preprocessing, device)


def _distilled(shared: Shared, device: torch.device) -> tuple[Tensor, Tensor]:
    # Copies, because arrays that come out of an object store are read-only, which torch warns about.
    return torch.from_numpy(shared.images.copy()).to(device), torch.from_numpy(shared.labels.copy())


def _by_steps(shared: Shared, module: nn.Module, state: NetState, device: torch.device) -> NetState:
    learned = {name: torch.from_numpy(value.copy()) for name, value in shared.learned.items()}
    fixed = {name.removeprefix(FIXED): value for name, value in learned.items() if name.startswith(FIXED)}
    x, y = _distilled(shared, device)
    state = with_fixed(state, fixed).channels_last()
    return apply_steps(module, state, x, y.to(device), learned[STEP_SIZES])


def _random(shared: Shared, seed: int, preprocessing: Transform, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw as many real images of each class as the distilled set has, or stands for."""
    real = shared.real()
    picked = [
        class_batch(real.by_class[c], count, generator(seed, "random", c))
        for c, count in enumerate(shared.random_counts)
        if count
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
    plan = EpochPlan(seed, len(real), recipe.batch)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        ids = plan.batch(step)
        y = protocol.targets(real.labels[ids], len(shared.classes))
        return preprocessing(real.images(ids).to(device)), y.to(device)

    augment = protocol.augment(handwritten=shared.handwritten)
    return train_on(module, state, batches, len(real), recipe, seed=seed, augment=augment)


@torch.no_grad()
def score(module: nn.Module, state: NetState, test: RealData, preprocessing: Transform, device: torch.device) -> float:
    """Return the share of test images whose strongest logit is their class, in percent."""
    correct = 0
    for images, labels in test.stream(SCORE_BATCH):
        logits = apply(module, state.params, state.buffers, preprocessing(images.to(device)))
        correct += int((logits.argmax(1).cpu() == labels).sum())
    return 100.0 * correct / len(test)
