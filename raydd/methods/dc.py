"""DC and DSA: dataset condensation with gradient matching, without and with differentiable siamese augmentation.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, https://arxiv.org/abs/2006.05929.
Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, https://arxiv.org/abs/2102.08259.

Objective (DC Eq. 9 with the distance of Eq. 10), for a network theta that is drawn anew every `outer_loop` rounds:

    sum over classes c of  D( grad_theta CE(A(synthetic of c)),  grad_theta CE(A(real of c)) )

with A one siamese augmentation a class and round in DSA (its Eq. 6), and the identity in DC. A round is one pass of the
outer loop of Algorithm 1: `real_batch` real images and all synthetic ones a class, one SGD step with momentum on the
images; then theta trains on the new set for `inner_loop` epochs, or is drawn anew where the iteration's last step is done.
With `outer_loop` 1, as at one image a class, theta is never trained. Labels are fixed. Reference implementation for facts:
VICO-UoE/DatasetCondensation at 53f63a6.

Slots are blocks of `classes_per_slot` classes times `nets_per_round` networks, the classes of a network being neighbours. A
network is a unit: it lives on every worker that has a slot of it and evolves there in the same way. Classes share nothing
but theta and are worked on one by one, so the size of a block changes no bit of the result.

Memory: autograd holds one class at a time, its synthetic images and, on a CPU, at most 64 of its real ones, however large
`real_batch` is; on a GPU, which wants them in one pass, all of them.

BatchNorm: each round a pass in training mode over 16 real images a class, all classes in one batch, moves the running
statistics, which then stay as they are for the matching, in evaluation mode. A slot brings those images and does that pass
itself, so that blocks may be of any size; fewer and larger ones repeat it less often.

Deviations:
1. The published code runs 1001 iterations of `outer_loop` updates each; `rounds` is the number of updates, by default 1000
   iterations of them.
2. Every class draws its real images and its augmentation from a key of its own instead of from global generators, whose
   seed the published code takes from the clock; networks are drawn from keys as well.
3. With `nets_per_round` > 1 the gradients at several networks are averaged; with 1 this is the paper's method.
4. The published code stops for an ipc that its table of loops lacks; here the entry nearest by ratio is taken.
5. With BatchNorm the statistics of a round's real images (a tenth of the running ones) are not carried on into theta, whose
   own follow the images that it trains on, as the published code's do after some steps of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from raydd import nets
from raydd.augment import dsa
from raydd.config.methods.dc import DCConfig, DSAConfig, GradientMatchingConfig
from raydd.functional.matching import DISTANCES
from raydd.functional.optim import OptimState, sgd_init, sgd_step
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import train
from raydd.methods.base import Contribution, Method, Problem, Slot, Tensors, by_class
from raydd.nets import NetState

# Shapes: K classes of a slot, R real images of a class, I images a class (ipc), C classes.

BATCHNORM_IMAGES = 16
CHUNK = 64  # real images in one pass on a CPU: their maps stay near the processor; a GPU wants them all

Matching = TypeVar("Matching", bound=GradientMatchingConfig)


class GradientMatching(Method[Matching], Generic[Matching]):
    """What DC and DSA share: all but the augmentation."""

    bounded_in = ("real_batch",)

    def __init__(self, config: Matching, net: object, problem: Problem) -> None:
        super().__init__(config, net, problem)
        self.distance = DISTANCES[config.distance]
        self.outer = int(config.outer_loop)
        self.batchnorm = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in self.net.modules())
        self.theta_recipe = TrainRecipe(
            optimiser="sgd", lr=config.lr_net, epochs=int(config.inner_loop), batch=config.net_batch
        )

    @property
    def strategy(self) -> str | None:
        """The augmentation's operations, or None."""
        return None

    def all_slots(self) -> tuple[Slot, ...]:
        """Return every network's blocks of `classes_per_slot` neighbouring classes."""
        classes, step = range(self.problem.facts.num_classes), int(self.config.classes_per_slot)
        blocks = [tuple(classes[i : i + step]) for i in range(0, len(classes), step)]
        pairs = [(unit, block) for unit in range(self.config.nets_per_round) for block in blocks]
        return tuple(Slot(index, unit, block) for index, (unit, block) in enumerate(pairs))

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return `real_batch` ids of each class of the slot, class by class; then those that BatchNorm sees, if any."""
        assert slot.unit is not None
        ids = [self.problem.round_ids("real", c, self.config.real_batch, round, slot.unit) for c in slot.classes]
        if self.batchnorm:
            everyone = range(self.problem.facts.num_classes)
            ids += [self.problem.round_ids("batchnorm", c, BATCHNORM_IMAGES, round, slot.unit) for c in everyone]
        return torch.cat(ids)

    def own_rows(self, slot: Slot) -> range | None:
        """Return the rows of the slot's classes where no network trains on the set, as at one image a class."""
        if self.outer > 1 or self.config.nets_per_round > 1:
            return None
        return range(slot.classes[0] * self.config.ipc, (slot.classes[-1] + 1) * self.config.ipc)

    def init(self, x_real: Tensor) -> Tensors:
        """Return standard normal noise or real images; see the base class."""
        if self.config.init == "real":
            return {"x_syn": x_real.clone()}
        size = (self.problem.facts.num_classes * self.config.ipc, *self.problem.shape)
        return {"x_syn": torch.randn(size, generator=self.problem.generator("noise"))}

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return SGD's momentum buffers."""
        return sgd_init(variables).tensors()

    def unit_state(self, unit: int) -> Tensors:
        """Return the network of the first iteration."""
        return self._fresh(unit, iteration=0)

    def _fresh(self, unit: int, iteration: int) -> Tensors:
        gen = self.problem.generator("net", unit, iteration)
        return nets.initialise(self.net, gen, self.problem.device).tensors()

    def _theta(self, state: Tensors) -> NetState:
        """Return a unit's network in the module's own order, in which distances add up; a checkpoint keeps none."""
        theta = NetState.from_tensors(state).clone().channels_last()
        return NetState({name: theta.params[name] for name, _ in self.net.named_parameters()}, theta.buffers)

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: None, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Match gradients class by class; see the base class."""
        count = sum(min(self.config.real_batch, len(self.problem.seen(round, c))) for c in slot.classes)
        theta = self._theta(state)
        if self.batchnorm:
            theta = self._with_statistics(theta, x_real[count:])
        # What the distance leaves out need not be computed.
        all_dims = self.config.distance != "layerwise"
        params = {name: p.detach().requires_grad_(all_dims or p.ndim > 1) for name, p in theta.params.items()}
        theta = NetState(params, theta.buffers)
        ipc = self.config.ipc
        gradients, losses = [], []
        for c, real in zip(slot.classes, by_class(x_real[:count], y_real[:count]), strict=True):
            x_syn = variables["x_syn"][c * ipc : (c + 1) * ipc].clone().requires_grad_(True)
            loss = self._loss(round, slot, c, x_syn, real, theta)
            gradients += torch.autograd.grad(loss, x_syn)
            losses.append(loss.detach())
        mean = float(torch.stack(losses).mean())
        return Contribution(slot, {"x_syn": torch.cat(gradients).contiguous()}, {"loss": mean})

    def _with_statistics(self, theta: NetState, x_real: Tensor) -> NetState:
        """Return the network with running statistics moved by a batch of real images of all classes."""
        buffers = {name: value.clone() for name, value in theta.buffers.items()}
        with torch.no_grad():
            nets.apply(self.net, theta.params, buffers, x_real, train=True)
        return NetState(theta.params, buffers)

    def _loss(self, round: int, slot: Slot, label: int, x_syn: Tensor, x_real: Tensor, theta: NetState) -> Tensor:
        """Return the distance of a class's two gradients, with its tape back to the synthetic images."""
        if self.strategy is not None:
            assert slot.unit is not None
            gen = self.problem.generator("augment", round, slot.unit, label)
            params = dsa.draw(self.strategy, gen, None, self.problem.shape)
            x_real, x_syn = dsa.apply(x_real, params), dsa.apply(x_syn, params)
        g_syn = self._gradient(theta, x_syn, label, differentiable=True)
        return self.distance(self._real_gradient(theta, x_real, label), g_syn)

    def _real_gradient(self, theta: NetState, x: Tensor, label: int) -> Sequence[Tensor]:
        """Return `_gradient` without a tape, a chunk at a time: no image of a batch sees another."""
        total = [torch.zeros_like(p) for p in theta.params.values() if p.requires_grad]
        for part in x.split(CHUNK if x.device.type == "cpu" else len(x)):
            gradient = self._gradient(theta, part, label, differentiable=False)
            for sum_, value in zip(total, gradient, strict=True):
                sum_.add_(value, alpha=len(part) / len(x))
        return total

    def _gradient(self, theta: NetState, x: Tensor, label: int, *, differentiable: bool) -> Sequence[Tensor]:
        """Return the gradient of the mean cross entropy of images of one class, by parameter."""
        logits = nets.apply(self.net, theta.params, theta.buffers, x)
        target = torch.full((len(x),), label, device=x.device)
        matched = [p for p in theta.params.values() if p.requires_grad]
        return torch.autograd.grad(F.cross_entropy(logits, target), matched, create_graph=differentiable)

    def reduce(self, variables: Tensors, contributions: Sequence[Contribution]) -> Tensors:
        """Join each network's rows, then average over networks, in their order."""
        rows = torch.cat([c.gradients["x_syn"] for c in contributions])
        networks = rows.chunk(self.config.nets_per_round)
        total = networks[0]
        for network in networks[1:]:
            total = total + network
        return {"x_syn": total / len(networks)}

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Take one step of SGD with momentum."""
        before = OptimState.from_tensors(optimiser)
        after, state = sgd_step(variables, gradients, before, self.config.lr_syn, momentum=self.config.momentum_syn)
        return after, state.tensors()

    def after_update(self, round: int, unit: int, state: Tensors, variables: Tensors) -> Tensors:
        """Train theta on the new set, or draw the next iteration's where this was its last step."""
        iteration, step = divmod(round, self.outer)
        if step == self.outer - 1:
            return self._fresh(unit, iteration + 1)
        theta = self._theta(state)
        x, y = variables["x_syn"], self._labels().to(self.problem.device)
        augment = None if self.strategy is None else dsa.per_image(self.strategy)
        where = ("theta", unit, round)
        after = train(self.net, theta, x, y, self.theta_recipe, seed=self.problem.seed, indices=where, augment=augment)
        return after.tensors()

    def _labels(self) -> Tensor:
        return torch.arange(self.problem.facts.num_classes).repeat_interleave(self.config.ipc)

    def distilled(self, variables: Tensors) -> Tensors:
        """Return the images with their fixed labels, class by class."""
        return {"images": variables["x_syn"], "labels": self._labels()}


class DC(GradientMatching[DCConfig]):
    """Gradient matching."""


class DSA(GradientMatching[DSAConfig]):
    """Gradient matching under one augmentation of both batches, drawn a class."""

    @property
    def strategy(self) -> str | None:
        """See the base class."""
        return self.config.augment
