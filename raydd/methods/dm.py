"""DM: dataset condensation with distribution matching.

Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, https://arxiv.org/abs/2110.04181.

Objective (Eq. 5), for a fresh random embedding f each round and one siamese augmentation A per class:

    sum over classes c of  || mean f(A(real of c)) - mean f(A(synthetic of c)) ||^2        (a sum over the features)

A round is one pass of Algorithm 1: draw f, take `real_batch` real images a class, one SGD step with momentum on the images.
Labels are fixed. The rate is 1; for the sets of 100 to 1250 images a class of CIFAR-10, the only ones that it was published for
besides, 10. The embedding is the flattened map before the classifier, in training mode, and is never trained.
Reference implementation for facts: VICO-UoE/DatasetCondensation at 53f63a6.

Slots are blocks of `classes_per_slot` classes. Classes share nothing but f, so a block is exact whatever the block size, up to
the rounding of batched convolutions; `classes_per_slot` is therefore part of the run's identity.

Memory: autograd holds the synthetic images of one block, and no real ones, however large `real_batch` is; these pass a class at
a time, with BatchNorm all classes at once.

Deviations:
1. The published code runs `rounds + 1` updates; `rounds` here is the number of updates.
2. Every class draws its real images and its augmentation from a key of its own instead of from global generators, whose seed the
   published code takes from the clock.
3. With BatchNorm a class that has fewer than `real_batch` images gives what it has; the published code needs exactly as many.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raydd import nets
from raydd.augment import dsa
from raydd.config import DMConfig
from raydd.functional.optim import OptimState, sgd_init, sgd_step
from raydd.methods.base import Contribution, Method, Slot, Tensors, by_class
from raydd.nets import NetState

# Shapes: K classes of a slot, R real images of a class, I images a class (ipc), D features.


class DM(Method[DMConfig]):
    """Distribution matching."""

    bounded_in = ("real_batch",)

    def all_slots(self) -> tuple[Slot, ...]:
        """Return the blocks of `classes_per_slot` neighbouring classes."""
        classes, step = range(self.problem.facts.num_classes), int(self.config.classes_per_slot)
        blocks = (tuple(classes[i : i + step]) for i in range(0, len(classes), step))
        return tuple(Slot(index, classes=block) for index, block in enumerate(blocks))

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return `real_batch` ids of each class of the slot, class by class."""
        return torch.cat([self._class_ids(round, c) for c in slot.classes])

    def _class_ids(self, round: int, label: int) -> Tensor:
        return self.problem.round_ids("real", label, self.config.real_batch, round)

    def own_rows(self, slot: Slot) -> range:
        """Return the rows of the slot's classes."""
        return range(slot.classes[0] * self.config.ipc, (slot.classes[-1] + 1) * self.config.ipc)

    def init(self, x_real: Tensor) -> Tensors:
        """Return real images or standard normal noise; see the base class."""
        if self.config.init == "real":
            return {"x_syn": x_real.clone()}
        noise = torch.randn(self._size(), generator=self.problem.generator("noise"))
        return {"x_syn": noise}

    def _size(self) -> tuple[int, ...]:
        return (self.problem.facts.num_classes * self.config.ipc, *self.problem.shape)

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return SGD's momentum buffers."""
        return sgd_init(variables).tensors()

    def shared_state(self, round: int) -> NetState:
        """Draw this round's random network from its key."""
        return nets.initialise(
            self.net, self.problem.generator("embedding", round), self.problem.device
        ).channels_last()

    def contribution(
        self,
        round: int,
        slot: Slot,
        variables: Tensors,
        state: Tensors,
        shared: NetState,
        x_real: Tensor,
        y_real: Tensor,
    ) -> Contribution:
        """Match the means of features, class by class; see the base class."""
        rows = self.own_rows(slot)
        x_syn = variables["x_syn"][rows.start : rows.stop].clone().requires_grad_(True)
        loss = self._loss(round, slot.classes, x_syn, x_real, y_real, shared)
        (gradient,) = torch.autograd.grad(loss, x_syn)
        return Contribution(slot, {"x_syn": gradient.contiguous()}, {"loss": float(loss.detach()) / len(slot.classes)})

    def _loss(
        self, round: int, classes: Sequence[int], x_syn: Tensor, x_real: Tensor, y_real: Tensor, embedding: NetState
    ) -> Tensor:
        real = by_class(x_real, y_real)
        synthetic = list(x_syn.chunk(len(classes)))
        if self.config.augment is not None:
            for k, c in enumerate(classes):
                params = dsa.draw(
                    self.config.augment, self.problem.generator("augment", round, c), None, self.problem.shape
                )
                real[k], synthetic[k] = dsa.apply(real[k], params), dsa.apply(synthetic[k], params)
        with torch.no_grad():
            # BatchNorm must see all classes in one batch; without it a class at a time keeps the activations small.
            batches = [torch.cat(real)] if self._mixed else real
            f_real = torch.cat([self._features(x, embedding) for x in batches])
        means_real = torch.stack([f.mean(0) for f in f_real.split([len(x) for x in real])])
        f_syn = self._features(torch.cat(synthetic), embedding)
        means_syn = f_syn.unflatten(0, (len(classes), -1)).mean(1)
        return (means_real - means_syn).square().sum()

    @property
    def _mixed(self) -> bool:
        return any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in self.net.modules())

    def _features(self, x: Tensor, embedding: NetState) -> Tensor:
        # Training mode normalises by the batch; the running statistics that it would update belong to nobody.
        buffers = {name: value.clone() for name, value in embedding.buffers.items()}
        return nets.apply(self.net, embedding.params, buffers, x, features=True, train=True)

    def reduce(self, variables: Tensors, contributions: Sequence[Contribution]) -> Tensors:
        """Join the blocks' rows."""
        return {"x_syn": torch.cat([c.gradients["x_syn"] for c in contributions])}

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Take one step of SGD with momentum."""
        before = OptimState.from_tensors(optimiser)
        after, state = sgd_step(
            variables, gradients, before, float(self.config.lr_syn), momentum=self.config.momentum_syn
        )
        return after, state.tensors()

    def distilled(self, variables: Tensors) -> Tensors:
        """Return the images with their fixed labels, class by class."""
        labels = torch.arange(self.problem.facts.num_classes).repeat_interleave(self.config.ipc)
        return {"images": variables["x_syn"], "labels": labels}
