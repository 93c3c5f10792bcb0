"""RTP: remember the past, data sets as addressable memories.

Deng and Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks", NeurIPS 2022,
https://arxiv.org/abs/2206.02916.

Objective: K bases B, smaller than images by `downsample`, and r addressing matrices A_i (C x K), such that a network trained for
T steps on the images they make, x_i = y^T A_i B enlarged bilinearly (Section 3.2), does well on real ones:

    min over A, B  E over theta_0 of  CE(theta_T; real images),    theta_T by T steps of SGD with momentum on recalled images

A round: `inits_per_round` fresh networks; each draws `task_classes` classes, trains on `inner_batch` recalled images per class
and step, is scored on `real_batch` real ones per class, and gives the exact gradient through all its steps
(`functional/unroll.py`). One augmentation with one parameter holds for all inner steps and the real images of a network. The mean
gradient, shortened to `clip` over both tables together, is one step of SGD with momentum. r follows from K and the storage budget
of `ipc` images a class (Eq. 4; `config/methods/rtp.py`). Labels are hard and fixed.
Reference implementation for facts: princetonvisualai/RememberThePast-DatasetDistillation at f49e631. It carries no licence; this
is written from the paper and from facts.

A slot is one sampled network; the gradient is the mean over slots. Up-sampling and augmentation are linear and the same for all
images of a slot, so they are applied to the K bases once, and a batch of any step is a product of addresses and enlarged bases.

Memory: autograd holds the enlarged bases and one inner step, or `chunk` real images of the outer loss, however large T and
`real_batch` are; besides, the weights of all T + 1 states are kept, in the host's memory with `offload`.

Deviations:
1. The published code adds an L2 term on the addresses to the inner loss, which does not depend on the weights and so changes
   nothing; it is left out.
2. Every network draws classes, images and augmentation from keys of its own instead of from global generators that each
   augmentation seeds anew.
3. The augmentation by default is on CIFAR-like colour images wherever the paper has it on CIFAR only.
4. Whitening follows the paper's text (SVHN, CIFAR-10, CIFAR-100); the published example with addressing does without.
5. Number of bases: published is 16 on CIFAR-10 at one image a class; everywhere else it is by a rule of ours, stated in the
   config. The paper chose it on a tenth of the training images.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from raydd import nets
from raydd.augment import Params, dsa
from raydd.config.methods.rtp import RTPConfig
from raydd.functional.memory import enlarge, recall
from raydd.functional.optim import OptimState, sgd_init, sgd_step
from raydd.functional.unroll import Inner, outer, replay, train
from raydd.methods.base import Contribution, Problem, Slot, Tensors
from raydd.methods.unrolled import Unrolled, clip

# Shapes: K bases of ch x h x w, C classes of r images each; a step's batch has M rows; D = ch * H * W.


class RTP(Unrolled[RTPConfig]):
    """Addressable memories, learned through long inner trainings with momentum."""

    bounded_in = ("real_batch", "inner_steps")

    def __init__(self, config: RTPConfig, net: object, problem: Problem) -> None:
        super().__init__(config, net, problem)
        self.bases = int(config.num_bases)
        self.addresses = config.addresses(problem.facts)

    def task(self, round: int, slot: Slot) -> list[int]:
        """Return the classes that a network learns in a round, ascending."""
        count, classes = int(self.config.task_classes), self.problem.facts.num_classes
        gen = self.problem.generator("task", round, slot.index)
        return torch.randperm(classes, generator=gen)[:count].sort().values.tolist()

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return `real_batch` ids of each class of the slot's task, class by class."""
        batch = self.config.real_batch
        return torch.cat([self.problem.round_ids("real", c, batch, round, slot.index) for c in self.task(round, slot)])

    def init_ids(self) -> Tensor:
        """Return no ids: the memory starts from random numbers."""
        return torch.empty(0, dtype=torch.int64)

    def start(self, fetch: Callable[[Tensor], Tensor]) -> Tensors:
        """Return the variables at round 0 without reading images; see the base class."""
        return self.init(torch.empty(0, *self.problem.shape))

    def init(self, x_real: Tensor) -> Tensors:
        """Return bases and addresses, both drawn by Xavier's uniform law as tables of a row each."""
        channels, height, width = self.problem.shape
        small = (channels, height // self.config.downsample, width // self.config.downsample)
        rows = self.problem.facts.num_classes * self.addresses
        bases = _xavier_uniform(self.bases, math.prod(small), self.problem.generator("bases"))
        return {
            "bases": bases.unflatten(1, small),
            "addresses": _xavier_uniform(rows, self.bases, self.problem.generator("addresses")),
        }

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return SGD's momentum buffers."""
        return sgd_init(variables).tensors()

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: None, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Return the gradient through one network's training; see the base class."""
        codes = variables["addresses"]
        bases = variables["bases"].detach().requires_grad_()
        tape = self.spread(bases, round, slot)
        labels = torch.arange(len(codes), device=codes.device) // self.addresses
        rows = self._rows(round, slot)
        loss, by_codes, by_pixels = self.through(round, slot, codes, labels, rows, tape.detach(), x_real, y_real)
        (by_bases,) = torch.autograd.grad(tape, bases, by_pixels)
        gradients = {"bases": by_bases.contiguous(), "addresses": by_codes}
        return Contribution(slot, gradients, {"loss": float(loss)})

    def spread(self, bases: Tensor, round: int, slot: Slot) -> Tensor:
        """Return the bases enlarged and augmented as a slot's images are, `(K, D)`."""
        return _augmented(enlarge(bases, self.config.downsample), self._augmentation(round, slot)).flatten(1)

    def through(
        self,
        round: int,
        slot: Slot,
        codes: Tensor,
        labels: Tensor,
        rows: Tensor,
        pixels: Tensor,
        x_real: Tensor,
        y_real: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Train a network on `codes @ pixels` and return its loss on real images, and the gradients by codes and pixels.

        Args:
            round: The round.
            slot: The slot; names the network and the augmentation of the real images.
            codes: What each image is made of, `(n, K)`, without a tape.
            labels: Their classes, int64 `(n,)`.
            rows: int64 `(T, M)`, the images of each inner step, none twice in a step.
            pixels: From `spread`, without its tape.
            x_real: Real images.
            y_real: Their labels.
        """
        rows = rows.to(codes.device)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            return (codes[rows[step]] @ pixels).unflatten(1, self.problem.shape), labels[rows[step]]

        inner = Inner(
            module=self.net,
            batch=batch,
            rates=[self.config.lr_net] * len(rows),
            momentum=self.config.momentum_net,
            keep_on=torch.device("cpu") if self.config.offload else None,
        )
        gen = self.problem.generator("net", round, slot.index)
        net = nets.initialise(self.net, gen, self.problem.device).to(dtype=pixels.dtype).channels_last()
        kept = train(inner, net)
        x_real = _augmented(x_real, self._augmentation(round, slot))
        loss, adjoint = outer(self.net, kept[-1], net.buffers, x_real, y_real, self.config.chunk)
        by_pixels, by_codes = torch.zeros_like(pixels), torch.zeros_like(codes)
        for given in replay(inner, kept, net.buffers, adjoint):
            chosen, by_images = rows[given.step], given.x.flatten(1)
            # No row stands twice in a step, so that this is a plain sum.
            by_codes[chosen] += by_images @ pixels.T
            by_pixels += codes[chosen].T @ by_images
        return loss, by_codes, by_pixels

    def _augmentation(self, round: int, slot: Slot) -> Params | None:
        if self.config.augment is None:
            return None
        gen = self.problem.generator("augment", round, slot.index)
        return dsa.draw(self.config.augment, gen, None, self.problem.shape)

    def _rows(self, round: int, slot: Slot) -> Tensor:
        """Draw the rows of the addresses that each inner step trains on: int64 (T, M), class by class, none twice."""
        return self.drawn_rows(round, slot, self.task(round, slot), self.addresses)

    def drawn_rows(self, round: int, slot: Slot, blocks: list[int], r: int) -> Tensor:
        """Draw `inner_batch` rows of each of these blocks of `r` rows for every inner step: int64 (T, M)."""
        gen = self.problem.generator("inner", round, slot.index)
        drawn = torch.rand(int(self.config.inner_steps), len(blocks), r, generator=gen)
        chosen = drawn.argsort(2)[:, :, : self.config.inner_batch]
        return (chosen + torch.tensor(blocks)[:, None] * r).flatten(1)

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Shorten the gradient of both tables together to `clip`, and take one step of SGD with momentum."""
        before = OptimState.from_tensors(optimiser)
        clipped = clip(gradients, self.config.clip)
        after, state = sgd_step(variables, clipped, before, self.config.lr_syn, momentum=self.config.momentum_syn)
        return after, state.tensors()

    def distilled(self, variables: Tensors) -> Tensors:
        """Return the C * r images, class by class, their labels, `bases` (K, ch, h, w) and `addresses` (C, r, K)."""
        classes = self.problem.facts.num_classes
        bases, addresses = variables["bases"], variables["addresses"].unflatten(0, (classes, self.addresses))
        images = recall(bases, addresses, torch.eye(classes).to(bases), self.config.downsample).flatten(0, 1)
        labels = torch.arange(classes).repeat_interleave(self.addresses)
        return {"images": images, "labels": labels, "bases": bases, "addresses": addresses}


def _augmented(x: Tensor, params: Params | None) -> Tensor:
    return x if params is None else dsa.apply(x, params)


def _xavier_uniform(rows: int, columns: int, gen: torch.Generator) -> Tensor:
    """Draw a table from U(-a, a) with a = sqrt(6 / (rows + columns))."""
    bound = math.sqrt(6 / (rows + columns))
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=gen)
