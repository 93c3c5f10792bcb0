"""FRePo: dataset distillation using neural feature regression with pooling.

Zhou, Nezhadarya and Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, https://arxiv.org/abs/2206.00719.

Objective (Eq. 4 with Eq. 3), for a network theta of the pool, features f, and the synthetic set S = (X_s, Y_s) of m rows:

    mean over real (x, y) of  1/2 || K_xs (K_ss + lambda I)^-1 Y_s - y ||^2  +  mean over S of  -min(top1 - top2 of y_s, 1/C)
    K_ab = f(a) f(b)^T,   lambda = ridge * trace(K_ss) / m

A round is one step of Algorithm 1: the gradient of S at a pool member, one LAMB step, then one Adam step of that member on the
new S, or a fresh member where it has done its `max_online_updates`. Reference implementation for facts: yongchaoz/FRePo at
9b98c65 (JAX); nothing of it is copied.

What its authors' own PyTorch port got wrong and is done here as in the paper: LAMB with an unclipped trust ratio a tensor and a
cosine to `lr_syn_final`; labels centred, and scaled by 1/sqrt(C/10); the factor 1/2; a ridge scaled by the trace; the label
margin, which stays when labels are frozen; features in evaluation mode with running statistics that synthetic batches dominate
(momentum 0.9 in PyTorch's sense); norm before the convolution and none in the first block; LeCun initialisation; counters
staggered by floor(max_online_updates / pool_size), so that a member lives max_online_updates + 1 steps; mirrored copies by table.

Slots are the pool's members; `models_per_round` of them are active in a round.

Memory: of real images autograd holds features only, however large `real_batch` is; where there are more than `chunk` synthetic
ones, mirrored copies included, `chunk` of them at a time go through the network with a tape.

Deviations:
1. With `models_per_round` > 1 the members' gradients are averaged before LAMB, and one member is drawn from each of as many equal
   ranges of the pool, so that workers are equally busy. With 1 this is the paper's uniform choice.
2. The member of a round and every batch are keyed by the round; the published code draws members from an unseeded generator.
3. Real batches are consecutive parts of a shuffled sequence of epochs, one sequence for all members.

Open points: the width of the paper's network at 64 pixels (Tiny ImageNet, ImageNet-1K) is 128 here as at 32; its appendix is not
at hand, and the settings for 64 pixels in its authors' PyTorch port have 64. The paper's ImageNette and ImageWoof were made from
fastai's imagenette2-160 (the central square, resized by area); raydd's recipes take the same classes from ImageNet itself, whose
images are larger and more. That download as `folder:...`, without `data.classes`, is known by its classes and has the same
defaults.
"""

from __future__ import annotations

import torch
from torch import Tensor

from raydd import nets
from raydd.config import FRePoConfig
from raydd.functional import lamb
from raydd.functional.krr import krr_predict
from raydd.functional.losses import centred_labels, label_margin, mse, scaled_labels
from raydd.functional.optim import OptimState, adam_init, adam_step
from raydd.functional.schedules import cosine
from raydd.methods.base import Contribution, Labels, Method, Problem, Slot, Tensors
from raydd.nets import NetState

# Shapes: N synthetic images, m = N or 2N with mirrored copies, B real images, C classes, D features.


class FRePo(Method[FRePoConfig]):
    """Neural feature regression with pooling."""

    bounded_in = ("real_batch",)

    labels = Labels(
        kind="soft",
        convention="centred one-hot (1 - 1/C and -1/C) over sqrt(C/10), then learned; train with half the summed squared "
        "error, argmax is the class",
    )

    def __init__(self, config: FRePoConfig, net: object, problem: Problem) -> None:
        super().__init__(config, net, problem)
        self.epochs = problem.epochs(config.real_batch, config.models_per_round)
        members, ranges = config.pool_size, config.models_per_round
        self.edges = [members * i // ranges for i in range(ranges + 1)]

    def all_slots(self) -> tuple[Slot, ...]:
        """Return one slot a member of the pool."""
        return tuple(Slot(index=member, unit=member) for member in range(self.config.pool_size))

    def slots(self, round: int) -> tuple[Slot, ...]:
        """Return one member, uniformly drawn, of each of `models_per_round` ranges of the pool."""
        gen = self.problem.generator("member", round)
        ranges = zip(self.edges[:-1], self.edges[1:], strict=True)
        members = [int(torch.randint(low, high, (1,), generator=gen)) for low, high in ranges]
        return tuple(self.slots_all[member] for member in members)

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return the next `real_batch` ids of the sequence of shuffled epochs."""
        place = next(i for i, edge in enumerate(self.edges[1:]) if slot.index < edge)
        return self.epochs.batch(round, place)

    def init(self, x_real: Tensor) -> Tensors:
        """Return real images or noise, and centred and scaled labels; see the base class."""
        classes, ipc = self.problem.facts.num_classes, self.config.ipc
        size = (classes * ipc, *self.problem.shape)
        noise = self.config.init == "noise"
        x_syn = torch.randn(size, generator=self.problem.generator("noise")) if noise else x_real.clone()
        targets = torch.arange(classes).repeat_interleave(ipc)
        return {"x_syn": x_syn, "y_syn": scaled_labels(targets, classes)}

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return LAMB's moments and step count."""
        return lamb.init(variables).tensors()

    def unit_state(self, unit: int) -> Tensors:
        """Return a fresh member whose counter is staggered."""
        return self._fresh(unit, "start", counter=unit * (self.config.max_online_updates // self.config.pool_size))

    def _fresh(self, unit: int, born: int | str, counter: int) -> Tensors:
        net = nets.initialise(self.net, self.problem.generator("net", unit, born), self.problem.device)
        return _pack(net, adam_init(net.params), counter)

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: None, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Return the gradient of the regression's error at one member; see the base class."""
        member = _Member(self, state)
        f_real = member.features_of(x_real)
        target = centred_labels(y_real, self.problem.facts.num_classes)
        x_syn = variables["x_syn"]
        y_syn = variables["y_syn"].clone().requires_grad_(True)
        if self._rows <= self.config.chunk:
            x_syn = x_syn.clone().requires_grad_(True)
            loss = self._loss(member.features(self._mirrored(x_syn)), y_syn, f_real, target)
            gradients = torch.autograd.grad(loss, (x_syn, y_syn))
        else:
            f_syn = member.features_of(self._mirrored(x_syn)).requires_grad_(True)
            loss = self._loss(f_syn, y_syn, f_real, target)
            f_gradient, y_gradient = torch.autograd.grad(loss, (f_syn, y_syn))
            gradients = (self._pull_back(member, x_syn, f_gradient), y_gradient)
        named = {"x_syn": gradients[0].contiguous()}
        if self.config.learn_labels:
            named["y_syn"] = gradients[1]
        return Contribution(slot, named, {"loss": float(loss.detach())})

    @property
    def _rows(self) -> int:
        return self.problem.facts.num_classes * self.config.ipc * (2 if self.config.flip else 1)

    def _mirrored(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.flip(-1)]) if self.config.flip else x

    def _loss(self, f_syn: Tensor, y_syn: Tensor, f_real: Tensor, target: Tensor) -> Tensor:
        y_rows = torch.cat([y_syn, y_syn]) if self.config.flip else y_syn
        prediction = krr_predict(f_syn, y_rows, f_real, ridge=self.config.ridge)
        return mse(prediction, target) + label_margin(y_syn)

    def _pull_back(self, member: _Member, x_syn: Tensor, f_gradient: Tensor) -> Tensor:
        """Carry the loss's derivative by the features back to the images, chunk by chunk: exact, in bounded memory."""
        per_copy = f_gradient.split(len(x_syn))
        total = torch.zeros_like(x_syn)
        for copy, gradient in enumerate(per_copy):
            for rows in torch.arange(len(x_syn)).split(self.config.chunk):
                x = x_syn[rows].clone().requires_grad_(True)
                features = member.features(x.flip(-1) if copy else x)
                total[rows] += torch.autograd.grad(features, x, gradient[rows])[0]
        return total

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Take one LAMB step with the cosine's rate."""
        lr = cosine(round, self.config.rounds, self.config.lr_syn, self.config.lr_syn_final)
        after, state = lamb.step(variables, gradients, OptimState.from_tensors(optimiser), lr)
        return after, state.tensors()

    def after_update(self, round: int, unit: int, state: Tensors, variables: Tensors) -> Tensors:
        """Renew the member where its counter has passed `max_online_updates`, else train it one step on the new S."""
        counter = int(state["counter"])
        if counter > self.config.max_online_updates:
            return self._fresh(unit, round, counter=0)
        x, y = variables["x_syn"], variables["y_syn"]
        if len(x) > self.config.online_batch:
            order = torch.randperm(len(x), generator=self.problem.generator("online", round, unit))
            rows = order[: self.config.online_batch]
            x, y = x[rows], y[rows]
        net = NetState.from_tensors(state).clone().channels_last()
        for value in net.params.values():
            value.requires_grad_(True)
        loss = mse(nets.apply(self.net, net.params, net.buffers, x, train=True), y)
        gradients = dict(zip(net.params, torch.autograd.grad(loss, list(net.params.values())), strict=True))
        params = {name: value.detach() for name, value in net.params.items()}
        params, adam = adam_step(params, gradients, _adam(state), self.config.lr_net)
        return _pack(NetState(params, net.buffers), adam, counter + 1)

    def distilled(self, variables: Tensors) -> Tensors:
        """Return the images and their soft labels, class by class."""
        return {"images": variables["x_syn"], "labels": variables["y_syn"]}


class _Member:
    """A pool member in evaluation mode, its weights not differentiated."""

    def __init__(self, method: FRePo, state: Tensors) -> None:
        self.module, self.chunk = method.net, method.config.chunk
        self.net = NetState.from_tensors(state).channels_last()

    def features(self, x: Tensor) -> Tensor:
        """Return features (n, D) with their tape."""
        return nets.apply(self.module, self.net.params, self.net.buffers, x, features=True)

    def features_of(self, x: Tensor) -> Tensor:
        """Return features (n, D) without a tape, chunk by chunk."""
        with torch.no_grad():
            return torch.cat([self.features(part) for part in x.split(self.chunk)])


def _pack(net: NetState, adam: OptimState, counter: int) -> Tensors:
    """Return a member as the flat tensors of a checkpoint."""
    optimiser = {f"adam.{name}": value for name, value in adam.tensors().items()}
    return {**net.tensors(), **optimiser, "counter": torch.tensor(counter)}


def _adam(state: Tensors) -> OptimState:
    prefix = "adam."
    return OptimState.from_tensors({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
