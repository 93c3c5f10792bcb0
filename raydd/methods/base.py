"""What every method is: variables, slots and rounds.

A *round* asks for gradients of the *variables* (synthetic images, soft labels, ...), reduces them and takes one optimiser
step. The work of a round falls into *slots*, the smallest units that can be done anywhere. A slot may work on a *unit*: a
state that lives beside it and evolves, such as a member of FRePo's model pool.

Third parties announce a method by a `MethodSpec` in the entry-point group `raydd.methods`. Once it is installed beside a
checkout of raydd, `pytest tests/methods/test_common.py` holds it to what is said here, as it does raydd's own methods, its
gradients in float64. `MethodSpec.small` gives the options that make it quick there.

Shapes in comments: N synthetic images, B real images, C classes, H x W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from raydd.config import DataFacts, MethodConfig
from raydd.data.plan import Epochs, Windows, class_batch
from raydd.nets import build
from raydd.nets.stored import Networks
from raydd.seeding import generator

Tensors = dict[str, Tensor]
Config = TypeVar("Config", bound=MethodConfig)


@dataclass(frozen=True, slots=True)
class Slot:
    """A piece of a round that can be done anywhere.

    Attributes:
        index: Its place among all slots of the method; contributions are reduced in this order.
        unit: The unit whose state it works on, or None. Slots that share a unit are neighbours, and a round has all of them
            or none: each worker that holds the unit must see that it took part.
        classes: The classes it is about; empty where it is about all.
    """

    index: int
    unit: int | None = None
    classes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a slot gives to its round.

    Attributes:
        slot: The slot.
        gradients: By the variables' names; rows of the slot's classes, or whole tensors, as the method's `reduce` expects.
            Contiguous: they travel faster so, and a sum's bits depend on the order in memory.
        metrics: Numbers for the log, averaged over slots. `loss` is always among them: what the gradients are derivatives of,
            divided by the number of the slot's classes where it has any.
    """

    slot: Slot
    gradients: Tensors
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """How labels are meant, so that nobody can misread them.

    Attributes:
        kind: `hard` (int64 class indices) or `soft` (float32 rows).
        convention: One sentence about their scale, and which loss they are for.
    """

    kind: str
    convention: str


HARD = Labels(kind="hard", convention="int64 class indices; train with cross entropy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The data set as a method sees it: numbers and plans, no images.

    Attributes:
        facts: Name, shape and number of classes.
        seed: The run's root seed; all draws are keyed by it.
        by_class: For each class the ids of its real images, int64.
        windows: Which of them may be seen in a round; None: all.
        networks: Networks to start from, where the config names some (`method.init_from`); None: every one is drawn.
        device: Where arithmetic happens.
    """

    facts: DataFacts
    seed: int
    by_class: tuple[Tensor, ...]
    windows: Windows | None = None
    networks: Networks | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return (self.facts.channels, self.facts.size, self.facts.size)

    def generator(self, purpose: str, *indices: int | str) -> torch.Generator:
        """Return the generator of one draw of this run."""
        return generator(self.seed, purpose, *indices)

    def class_ids(self, purpose: str, label: int, size: int, *indices: int | str) -> Tensor:
        """Return `size` ids of a whole class without replacement, all of them where there are fewer."""
        return class_batch(self.by_class[label], size, self.generator(purpose, *indices, label))

    def seen(self, round: int, label: int) -> Tensor:
        """Return the ids of a class that may be seen in a round."""
        ids = self.by_class[label]
        return ids if self.windows is None else ids[self.windows.places(self.windows.number(round), label)]

    def round_ids(self, purpose: str, label: int, size: int, round: int, *indices: int | str) -> Tensor:
        """Return `size` ids of what a round sees of a class, without replacement; all of them where there are fewer."""
        return class_batch(self.seen(round, label), size, self.generator(purpose, round, *indices, label))

    def epochs(self, size: int, per_round: int = 1) -> Epochs:
        """Return the plan of `per_round` batches a round of `size` ids of all classes, in shuffled epochs."""
        return Epochs(self.seed, self.by_class, self.windows, size, per_round)


class Method(ABC, Generic[Config]):
    """A dataset distillation method as pure functions over tensors.

    It never sees ray, paths, clocks or the command line, holds nothing that evolves, and draws only from keyed generators, so
    that the same round gives the same bits wherever its slots are done. Variables, optimiser state and unit states are dicts
    of tensors; no function changes a tensor that it was given.

    `bounded_in` states how the memory of a round is bounded: where one of these options, such as `real_batch`, grows beyond some
    size, what autograd holds for a `contribution` on a CPU grows by less than as many images.
    """

    labels: ClassVar[Labels] = HARD
    bounded_in: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Config, net: Any, problem: Problem) -> None:
        self.config = config
        self.problem = problem
        self.net: nn.Module = build(net, problem.shape, problem.facts.num_classes)
        self.slots_all: tuple[Slot, ...] = self.all_slots()

    # Where the work is

    @abstractmethod
    def all_slots(self) -> tuple[Slot, ...]:
        """Return every slot that any round may have; called once."""

    def slots(self, round: int) -> tuple[Slot, ...]:
        """Return the slots of this round, in order; all of them unless the method says otherwise."""
        return self.slots_all

    @abstractmethod
    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return the ids of the real images that a slot needs in a round, int64 (B,), of those that the round sees."""

    def own_rows(self, slot: Slot) -> range | None:
        """Return the rows that this slot owns in every variable: they depend on no other slot, and no other slot on them.

        Neither gradients nor `update` may mix rows, nor may a unit's `after_update` look at the variables. The ranges of all
        slots follow one another. None where slots are coupled.
        """
        return None

    # The coordinator's part: variables

    def init_ids(self) -> Tensor:
        """Return the ids of the real images that the variables start from, int64; `ipc` a class, in the order of classes."""
        ipc = self.config.ipc
        return torch.cat([self.problem.class_ids("init", c, ipc) for c in range(self.problem.facts.num_classes)])

    @abstractmethod
    def init(self, x_real: Tensor) -> Tensors:
        """Return the variables at round 0.

        Args:
            x_real: The images of `init_ids`, float32 (N, C, H, W), normalised.
        """

    def start(self, fetch: Callable[[Tensor], Tensor]) -> Tensors:
        """Return the variables at round 0, made by a worker; coresets choose here.

        Args:
            fetch: Gives real images by their ids (int64): float32 (n, C, H, W), normalised.
        """
        return self.init(fetch(self.init_ids()))

    @abstractmethod
    def optimiser(self, variables: Tensors) -> Tensors:
        """Return the optimiser's state at round 0."""

    @property
    def averages(self) -> bool:
        """Whether `reduce` is the mean over slots, each of which gives whole gradients."""
        return type(self).reduce is Method.reduce

    def reduce(self, variables: Tensors, contributions: Sequence[Contribution]) -> Tensors:
        """Return the gradients of all variables from a round's contributions, which come in the order of slots.

        The mean over slots unless the method says otherwise; what no slot gives a gradient of has gradient zero.
        """
        given = {name: [c.gradients[name] for c in contributions if name in c.gradients] for name in variables}
        return {
            name: mean_in_order(gradients) if gradients else torch.zeros_like(variables[name])
            for name, gradients in given.items()
        }

    @abstractmethod
    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Take one optimiser step; return new variables and a new optimiser state."""

    @abstractmethod
    def distilled(self, variables: Tensors) -> Tensors:
        """Return `images` float32 (N, C, H, W) normalised and `labels`, and whatever else the set consists of."""

    # The workers' part: slots and units

    def unit_state(self, unit: int) -> Tensors:
        """Return the state of a unit at round 0."""
        raise NotImplementedError(f"{type(self).__name__} has no units")

    def shared_state(self, round: int) -> Any:
        """Return what all slots of a round share and any worker can make from its key, such as DM's embedding network."""
        return None

    @abstractmethod
    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: Any, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Return a slot's gradients of the variables.

        Args:
            round: The round, from 0.
            slot: The slot.
            variables: The variables, on the problem's device.
            state: The state of the slot's unit; empty where it has none.
            shared: What `shared_state` returned for this round.
            x_real: The images of `real_ids`, float32 (B, C, H, W), normalised.
            y_real: Their labels, int64 (B,).
        """

    def after_update(self, round: int, unit: int, state: Tensors, variables: Tensors) -> Tensors:
        """Return a unit's state after a round it took part in, given that round's new variables."""
        return state


def mean_in_order(gradients: Iterable[Tensor]) -> Tensor:
    """Return the mean of tensors of one shape, added one after the other."""
    first, *others = gradients
    total = first.clone()
    for gradient in others:
        total += gradient
    # By a tensor, since a GPU would multiply by a number's reciprocal.
    return total / total.new_full((), 1 + len(others))


def by_class(x: Tensor, y: Tensor) -> list[Tensor]:
    """Return the images of each class, views of `x`, where they come class by class with the labels `y`, int64 (n,)."""
    return list(x.split(torch.unique_consecutive(y, return_counts=True)[1].tolist()))
