"""Updates of one network whose batches several processes share.

Every process holds the whole network and the same numbers. Of each batch, drawn by key out of all images, it takes its
contiguous share; gradients are added up over processes, weighted by the shares, and each does the same step. Running
statistics of BatchNorm, which each sees of its own share, are averaged likewise, so that numbers stay the same everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from raydd.augment import per_image
from raydd.data.plan import EpochPlan
from raydd.data.reader import RealData
from raydd.functional.optim import OptimState, adam_step, sgd_step
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import LOSSES, init_optimiser
from raydd.nets import NetState, apply
from raydd.seeding import derive, generator
from raydd.training.data import Data
from raydd.training.networks import Network

SCORE_BATCH = 500


class Group(Protocol):
    """The processes that train together.

    Attributes:
        rank: Which of them this is.
        size: How many there are.
    """

    rank: int
    size: int

    def add(self, flat: Tensor) -> Tensor:
        """Return the sum over all processes, the same bits in each; all call it equally often."""
        ...


@dataclass(slots=True)
class Alone:
    """A process that trains on its own."""

    rank: int = 0
    size: int = 1

    def add(self, flat: Tensor) -> Tensor:
        """Return it as it is."""
        return flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a training is: updates done, the network's numbers, and the optimiser's."""

    step: int
    state: NetState
    optim: OptimState


class Loop:
    """The updates of one training, a pure function of seed, data, recipe and number of processes.

    Args:
        network: The network.
        data: What it is trained on.
        recipe: How; its length counts updates.
        seed: Root of all draws.
        augmentation: Such as `dsa:crop_flip`; None for none.
        group: The processes that train together.
        device: Where the arithmetic is done.

    Raises:
        ConfigError: When the augmentation is unknown.
    """

    def __init__(
        self,
        network: Network,
        data: Data,
        recipe: TrainRecipe,
        *,
        seed: int,
        augmentation: str | None,
        group: Group,
        device: torch.device,
    ) -> None:
        self.network, self.data, self.recipe, self.seed = network, data, recipe, seed
        self.group, self.device = group, device
        self.augment = None if augmentation is None else per_image(augmentation)
        self.plan = EpochPlan(seed, len(data), recipe.batch)
        self.updates = recipe.num_updates(len(data))
        self._names = sorted(network.state.params)
        self._averaged = sorted(name for name, b in network.state.buffers.items() if b.is_floating_point())
        data.to(device)

    def start(self) -> Position:
        """Return where a training begins."""
        return self._at(0, self.network.state, init_optimiser(self.network.state, self.recipe))

    def restore(self, step: int, net: dict[str, Tensor], optim: dict[str, Tensor]) -> Position:
        """Return a position from what `tensors` gave."""
        return self._at(step, NetState.from_tensors(net), OptimState.from_tensors(optim))

    def _at(self, step: int, state: NetState, optim: OptimState) -> Position:
        moments = {k: {n: t.to(self.device) for n, t in named.items()} for k, named in optim.moments.items()}
        # A copy: buffers are changed in place.
        state = state.clone().to(self.device).channels_last()
        return Position(step=step, state=state, optim=OptimState(optim.step, moments))

    def tensors(self, position: Position) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of the network's and the optimiser's tensors, on the CPU."""
        net, optim = position.state.tensors(), position.optim.tensors()
        return {n: t.cpu().clone() for n, t in net.items()}, {n: t.cpu().clone() for n, t in optim.items()}

    def step(self, position: Position) -> tuple[Position, Tensor]:
        """Do one update; returns the next position and the batch's mean loss, a scalar on the device."""
        step, state = position.step, position.state
        ids = self.plan.batch(step)
        first, last = (len(ids) * place // self.group.size for place in (self.group.rank, self.group.rank + 1))
        x, y = self.data.batch(ids[first:last])
        if self.augment is not None:
            x = self.augment(x, generator(self.seed, "augment", step, self.group.rank))
        params = {name: state.params[name].detach().requires_grad_() for name in self._names}
        with self._draws(step):
            logits = apply(self.network.module, params, state.buffers, x, train=True)
        loss = LOSSES[self.recipe.loss](logits, y)
        grads = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
        with torch.no_grad():
            grads, buffers, loss = self._together(grads, state.buffers, loss.detach(), (last - first) / len(ids))
            moved, optim = self._update(state.params, grads, position.optim, self.recipe.lr_at(step, len(self.data)))
        return Position(step=step + 1, state=NetState(moved, buffers), optim=optim), loss

    def _update(
        self, params: dict[str, Tensor], grads: dict[str, Tensor], optim: OptimState, lr: float
    ) -> tuple[dict[str, Tensor], OptimState]:
        recipe = self.recipe
        if recipe.optimiser == "adam":
            return adam_step(params, grads, optim, lr, weight_decay=recipe.weight_decay)
        return sgd_step(params, grads, optim, lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)

    def _together(
        self, grads: dict[str, Tensor], buffers: dict[str, Tensor], loss: Tensor, share: float
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Return the means over processes, weighted by their shares of the batch, in one exchange."""
        if self.group.size == 1:
            return grads, buffers, loss
        parts = [*(grads[n] for n in self._names), *(buffers[n] for n in self._averaged), loss]
        # In an order and a size that never change: what a sum's bits are may depend on where in it a number stands.
        flat = self.group.add(torch.cat([part.reshape(-1) for part in parts]).mul_(share))
        means = [m.view(p.shape) for p, m in zip(parts, flat.split([p.numel() for p in parts]), strict=True)]
        averaged = dict(zip(self._averaged, means[len(self._names) : -1], strict=True))
        return dict(zip(self._names, means, strict=False)), {**buffers, **averaged}, means[-1]

    @contextlib.contextmanager
    def _draws(self, step: int) -> Iterator[None]:
        """Key what a foreign network draws from the global generator, as dropout does, and put that back afterwards."""
        if not self.network.foreign:
            yield
            return
        on_gpu = self.device.type == "cuda"
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu else []):
            torch.set_rng_state(generator(self.seed, "dropout", step, self.group.rank).get_state())
            if on_gpu:
                torch.cuda.manual_seed(derive(self.seed, "dropout", step, self.group.rank))
            yield

    @torch.no_grad()
    def score(self, position: Position, test: RealData) -> float:
        """Return the share of test images whose strongest logit is their class, in percent; processes share the work."""
        correct = torch.zeros((), dtype=torch.float64, device=self.device)
        module, state = self.network.module, position.state
        # Batches of the same images whoever does them.
        for ids in list(torch.arange(len(test)).split(SCORE_BATCH))[self.group.rank :: self.group.size]:
            x = self.data.transform(test.images(ids).to(self.device))
            logits = apply(module, state.params, state.buffers, x)
            correct += (logits.argmax(1) == test.labels[ids].to(self.device)).sum()
        return 100.0 * float(self.group.add(correct)) / len(test)
