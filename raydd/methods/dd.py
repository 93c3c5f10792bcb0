"""DD: dataset distillation by learning images that train a network in a few given steps.

Wang, Zhu, Torralba and Efros, "Dataset Distillation", 2018, https://arxiv.org/abs/1811.10959.

Objective (Eq. 4 and Section 3.4): images x_1 .. x_S and step sizes eta_0 .. eta_{T-1}, T = S * `inner_epochs`, such that

    theta_{t+1} = theta_t - eta_t grad CE(theta_t; x_{t mod S}),    min  E over theta_0 of  CE(theta_T; real images)

A round is one pass of Algorithm 1: `inits_per_round` networks (one Xavier-normal network of its own each, or always the same with
`net_init: fixed`), T steps of gradient descent, the loss on `real_batch` real images, its exact gradient through all steps
(`functional/unroll.py`), and one step of Adam on images and raw step sizes, eta = softplus(raw). Labels are one-hot, and with
`learn_labels` variables too: that is not in the paper (Sucholutsky and Schonlau, "Soft-Label Dataset Distillation", 2019).
Reference implementation for facts: ssnl/dataset-distillation at 98e4894.

With `init_from` networks start trained, as for the adaptation to another data set (Table 2): theta_0 is drawn from a list of
them, or is its first.

A slot is one sampled network; the gradient is the mean over slots.

Memory: autograd holds one step, or `chunk` real images of the outer loss, however large T and `real_batch` are; besides, the
weights of all T + 1 states are kept.

Deviations:
1. Networks with BatchNorm use the statistics of the batch in the outer loss too, where the published code is in evaluation
   mode: running statistics would not be differentiated. None of the paper's networks has BatchNorm.
2. Every pass over the real images is shuffled from a key of its own, and passes lie end to end: no short batch at the end.
   A pass is counted as ceil(images / real_batch) rounds.
3. With several networks a round all see the same real batch, as in one process of the published code; its distributed form
   gives each process another.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raydd.augment import warp
from raydd.config.methods.dd import DDConfig
from raydd.errors import ConfigError
from raydd.functional.optim import OptimState, adam_init, adam_step
from raydd.functional.unroll import Inner, outer, replay, train
from raydd.methods.base import Contribution, Labels, Problem, Slot, Tensors
from raydd.methods.unrolled import Unrolled
from raydd.nets import NetState, initialise

PAD = 4  # pixels of reflected border that real images are cropped from

# Shapes: N synthetic images, step by step and within a step class by class; E passes of S steps; C classes, B real images.


class DD(Unrolled[DDConfig]):
    """Dataset distillation with learned step sizes."""

    bounded_in = ("real_batch", "inner_epochs")
    labels = Labels(
        kind="soft",
        convention="one-hot rows, or what was learned from them; train with cross entropy, argmax is the class",
    )

    def __init__(self, config: DDConfig, net: object, problem: Problem) -> None:
        super().__init__(config, net, problem)
        self.images = sum(len(ids) for ids in problem.by_class)
        self.epochs = problem.epochs(config.real_batch)
        self.steps = int(config.inner_steps)
        if problem.networks is not None:
            self._checked(problem.networks[0])  # before anything starts

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return the next `real_batch` ids of the sequence of shuffled passes, the same for all slots."""
        return self.epochs.batch(round)

    def init(self, x_real: Tensor) -> Tensors:
        """Return noise or real images, step sizes at `lr_inner`, and one-hot labels where they are learned."""
        classes, size = self.problem.facts.num_classes, (self._images, *self.problem.shape)
        if self.config.init == "real":
            x_syn = x_real.unflatten(0, (classes, self.steps, -1)).transpose(0, 1).reshape(size)
        else:
            x_syn = torch.randn(size, generator=self.problem.generator("noise"))
        raw = math.log(math.expm1(float(self.config.lr_inner)))
        variables = {"x_syn": x_syn, "raw_lr": torch.full((self.config.inner_epochs, self.steps), raw)}
        return {**variables, "y_syn": self._one_hot()} if self.config.learn_labels else variables

    @property
    def _images(self) -> int:
        return self.problem.facts.num_classes * self.config.ipc

    def _one_hot(self) -> Tensor:
        classes = self.problem.facts.num_classes
        targets = torch.arange(classes).repeat_interleave(self.config.ipc // self.steps).repeat(self.steps)
        return F.one_hot(targets, classes).float()

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return Adam's moments and step count."""
        return adam_init(variables).tensors()

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: None, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Return the gradient through one network's training; see the base class."""
        x_syn, y_syn = variables["x_syn"], variables.get("y_syn")
        labels = self._one_hot().argmax(1).to(x_syn.device) if y_syn is None else y_syn
        rates = step_sizes(variables["raw_lr"])
        x_parts, y_parts = x_syn.chunk(self.steps), labels.chunk(self.steps)
        inner = Inner(
            module=self.net,
            batch=lambda step: (x_parts[step % self.steps], y_parts[step % self.steps]),
            rates=rates.flatten().tolist(),
        )
        net = self.network(round, slot).to(dtype=x_syn.dtype).channels_last()
        kept = train(inner, net)
        x_real = self._augmented(round, x_real)
        loss, adjoint = outer(self.net, kept[-1], net.buffers, x_real, y_real, self.config.chunk)
        gradients = {name: torch.zeros_like(value) for name, value in variables.items()}
        by_rate = gradients["raw_lr"].view(-1)
        for given in replay(inner, kept, net.buffers, adjoint):
            place = given.step % self.steps
            gradients["x_syn"].chunk(self.steps)[place].add_(given.x)
            if given.y is not None:
                gradients["y_syn"].chunk(self.steps)[place].add_(given.y)
            assert given.rate is not None, "step sizes are learned without momentum"
            by_rate[given.step] = given.rate
        gradients["raw_lr"].mul_(variables["raw_lr"].sigmoid())
        return Contribution(slot, gradients, {"loss": float(loss), "lr_inner": float(rates.mean())})

    def network(self, round: int, slot: Slot) -> NetState:
        """Return the network that a slot trains in a round, before its first step."""
        key = (round, slot.index) if self.config.net_init == "random" else ("fixed",)
        gen, given = self.problem.generator("net", *key), self.problem.networks
        if given is not None:
            place = int(torch.randint(len(given), (1,), generator=gen)) if self.config.net_init == "random" else 0
            return self._checked(given[place]).to(self.problem.device)
        return initialise(self.net, gen, self.problem.device, law="xavier")

    def _checked(self, state: NetState) -> NetState:
        got = {name: value.shape for name, value in {**state.params, **state.buffers}.items()}
        expected = {n: v.shape for n, v in (*self.net.named_parameters(), *self.net.named_buffers())}
        if got != expected:
            raise ConfigError("method.init_from must hold networks as the section net says, got others; correct net")
        return state

    def _augmented(self, round: int, x_real: Tensor) -> Tensor:
        if self.config.augment is None:
            return x_real
        return crop_flip(x_real, self.problem.generator("augment", round))

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Take one step of Adam; its rate halves every `decay_epochs` passes over the real images."""
        epoch = round // -(-self.images // self.config.real_batch)
        lr = self.config.lr_syn * 0.5 ** (epoch // self.config.decay_epochs)
        betas = (self.config.beta1_syn, 0.999)
        after, state = adam_step(variables, gradients, OptimState.from_tensors(optimiser), lr, betas=betas)
        return after, state.tensors()

    def distilled(self, variables: Tensors) -> Tensors:
        """Return images and labels in the order of steps, the step sizes `lr_inner` (E, S), and a fixed network `init.*`."""
        labels = variables.get("y_syn", self._one_hot())
        result = {"images": variables["x_syn"], "labels": labels, "lr_inner": step_sizes(variables["raw_lr"])}
        if self.config.net_init == "fixed":
            fixed = self.network(0, self.slots_all[0]).tensors()
            result |= {f"init.{name}": value for name, value in fixed.items()}
        return result


def step_sizes(raw: Tensor) -> Tensor:
    """Return step sizes from what is learned: eta = log(1 + exp(raw))."""
    return F.softplus(raw)


def crop_flip(x: Tensor, gen: torch.Generator) -> Tensor:
    """Crop each image from itself with a reflected border of 4 pixels, and mirror half of them.

    Args:
        x: Images `(n, C, H, W)` of more than 4 pixels.
        gen: CPU generator; it advances.
    """
    n, height, width = len(x), x.shape[2], x.shape[3]
    tops, lefts = (torch.randint(0, 2 * PAD + 1, (n,), generator=gen).to(x.device) for _ in range(2))
    mirrored = (torch.rand(n, generator=gen) < 0.5).to(x.device)
    ys = (torch.arange(height, device=x.device) - PAD)[None, :] + tops[:, None]
    xs = (torch.arange(width, device=x.device) - PAD)[None, :] + lefts[:, None]
    cropped = warp.take(x, _reflected(ys, height)[:, :, None], _reflected(xs, width)[:, None, :])
    return warp.flip(cropped, mirrored)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Fold places beyond the first and last pixel back, without repeating the border pixel."""
    return (size - 1) - ((size - 1) - places.abs()).abs()
