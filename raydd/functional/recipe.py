"""How a network is trained, as data; without torch, so that protocols can be listed without it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raydd.errors import ConfigError
from raydd.functional.schedules import warmup_cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRecipe:
    """The training of one network by `raydd.functional.train`.

    Attributes:
        optimiser: SGD with momentum or Adam, both as PyTorch defines them.
        lr: Learning rate, > 0.
        epochs: Passes over the data; exactly one of `epochs` and `updates` is given.
        updates: Steps of the optimiser.
        batch: Images a step; the last batch of an epoch has what is left. A smaller set is one batch.
        shuffle: Take the images in a new order every epoch, instead of theirs.
        loss: Cross entropy with hard or soft labels, or FRePo's squared error with soft ones.
        momentum: Of SGD.
        weight_decay: L2, added to the gradient.
        schedule: "constant"; "cosine" to `final * lr` after a linear warm-up; "drop" to `final * lr` at once, with a
            new optimiser (its momentum is lost, as in DC's code), when `drop_epoch` epochs are done.
        warmup: Updates of the linear warm-up from 0 of "cosine"; no more than all.
        final: Fraction of `lr` at the end of "cosine", or after the "drop".
        drop_epoch: Whole epochs done at the full rate, for "drop". DC's code trains E + 1 epochs, 0 to E, and drops at
            the end of epoch E // 2 + 1: `epochs=E + 1, drop_epoch=E // 2 + 2`.
    """

    optimiser: Literal["sgd", "adam"]
    lr: float
    epochs: int | None = None
    updates: int | None = None
    batch: int
    shuffle: bool = True
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "drop"] = "constant"
    warmup: int = 0
    final: float = 1.0
    drop_epoch: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.updates is None):
            raise ConfigError(f"a recipe takes either epochs or updates, got {self.epochs} and {self.updates}")
        length = self.epochs if self.updates is None else self.updates
        if self.batch < 1 or (length or 0) < 0:
            raise ConfigError(f"a recipe's batch must be >= 1 and its length >= 0, got {self.batch} and {length}")
        if (self.schedule == "drop") != (self.drop_epoch is not None):
            raise ConfigError(f"drop_epoch goes with schedule 'drop', got {self.drop_epoch} with {self.schedule!r}")

    def epoch_length(self, count: int) -> int:
        """Return the updates of an epoch over `count` >= 1 images."""
        return -(-count // self.batch)

    def num_updates(self, count: int) -> int:
        """Return the updates of the whole training on `count` >= 1 images."""
        return self.updates if self.updates is not None else (self.epochs or 0) * self.epoch_length(count)

    def drop_step(self, count: int) -> int | None:
        """Return the step before which the rate drops and the optimiser starts anew; None where it never does."""
        return None if self.drop_epoch is None else self.drop_epoch * self.epoch_length(count)

    def lr_at(self, step: int, count: int) -> float:
        """Return the learning rate of the update at `step` (from 0) in a training on `count` images."""
        if self.schedule == "cosine":
            return warmup_cosine(step, max(self.num_updates(count), 1), self.lr, self.final, self.warmup)
        drop = self.drop_step(count)
        return self.lr * self.final if drop is not None and step >= drop else self.lr
