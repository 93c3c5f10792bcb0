"""The exact gradient of an outer loss through many steps of inner training, by reverse replay.

The inner training of a network w is SGD with momentum m and a rate of its own for each step t,

    v_{t+1} = m v_t + g_t,    w_{t+1} = w_t - eta_t v_{t+1},    g_t = dL(w_t; x_t, y_t)/dw,    v_0 = 0,

and the outer loss is a function of w_T. `train` keeps the weights of every step and no tape. `replay` walks back with the
adjoints a of w and b of v, from a_T = d(outer loss)/dw_T and b_T = 0:

    b <- b - eta_t a,    da/d(data of step t) = d<g_t, b>/d(x_t, y_t),    a <- a + H_t b,    b <- m b,

where H_t b = d<g_t, b>/dw_t is a Hessian-vector product. One step is recomputed and differentiated twice at a time, so that the
tape does not grow with T; only the weights do. Without momentum this is the scheme of Wang et al., "Dataset Distillation",
2018, Algorithm 1 and Section 3.3; with it that of Deng & Russakovsky, "Remember the Past", NeurIPS 2022, Section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydd.functional.losses import cross_entropy
from raydd.nets import NetState, apply

# Images in one pass on a CPU of a network in which none sees another: their maps stay near the processor. A GPU wants them all.
CHUNK = 64

Params = dict[str, Tensor]
Batch = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """The inner training: cross entropy, SGD, BatchNorm by the statistics of its batch.

    Attributes:
        module: From `raydd.nets.build`.
        batch: Gives images `(n, C, H, W)` and labels, int64 `(n,)` or float `(n, classes)`, of a step from 0. Asked twice for
            each step, and gives the same both times.
        rates: The rate of each step; its length is the number of steps T.
        momentum: m.
        keep_on: Where the weights of all steps are kept; the network's own device if None. The bits are the same.
    """

    module: nn.Module
    batch: Batch
    rates: Sequence[float]
    momentum: float = 0.0
    keep_on: torch.device | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGradient:
    """The derivatives of the outer loss by what one step was given.

    Attributes:
        step: t.
        x: By the images of the step `(n, C, H, W)`.
        y: By its labels `(n, classes)`; None where those are hard.
        rate: By eta_t, a scalar; None with momentum.
    """

    step: int
    x: Tensor
    y: Tensor | None
    rate: Tensor | None


def train(inner: Inner, state: NetState) -> list[Params]:
    """Train a network and return its weights before each step and after the last, T + 1 in all; the state is left as it is."""
    device = inner.keep_on
    buffers = {name: value.clone() for name, value in state.buffers.items()}
    weights = {name: value.detach() for name, value in state.params.items()}
    kept = [_to(weights, device)]
    velocity: Params = {}
    for step, rate in enumerate(inner.rates):
        x, y = inner.batch(step)
        _, gradient = _gradient(inner.module, weights, buffers, x, y, _size(inner.module, x))
        if inner.momentum and velocity:
            gradient = {name: value.add(velocity[name], alpha=inner.momentum) for name, value in gradient.items()}
        velocity = gradient
        weights = {name: value.add(velocity[name], alpha=-rate) for name, value in weights.items()}
        kept.append(_to(weights, device))
    return kept


def outer(
    module: nn.Module, weights: Params, buffers: Params, x: Tensor, y: Tensor, chunk: int
) -> tuple[Tensor, Params]:
    """Return the mean cross entropy of a network on a batch, a detached scalar, and its gradient by the weights.

    Args:
        module: From `raydd.nets.build`; BatchNorm uses the statistics of each chunk.
        weights: Its parameters.
        buffers: Its buffers; left as they are.
        x: Images `(n, C, H, W)`.
        y: int64 `(n,)`.
        chunk: Most images in one pass; bounds the memory.
    """
    buffers = {name: value.clone() for name, value in buffers.items()}
    return _gradient(module, weights, buffers, x, y, min(chunk, _size(module, x)))


def replay(inner: Inner, kept: Sequence[Params], buffers: Params, adjoint: Params) -> Iterator[StepGradient]:
    """Walk back through an inner training, from its last step to its first.

    Args:
        inner: The training.
        kept: What `train` returned for it.
        buffers: The network's buffers; left as they are.
        adjoint: The outer loss's gradient by the last weights.

    Yields:
        The derivatives by what each step was given.
    """
    device = next(iter(adjoint.values())).device
    buffers = {name: value.clone() for name, value in buffers.items()}
    by_weights = dict(adjoint)
    by_velocity = {name: torch.zeros_like(value) for name, value in adjoint.items()}
    for step in reversed(range(len(inner.rates))):
        rate = inner.rates[step]
        by_velocity = {name: b.add(by_weights[name], alpha=-rate) for name, b in by_velocity.items()}
        weights = _to(kept[step], device)
        hessian, given = _step_back(inner, step, weights, buffers, by_weights, by_velocity)
        by_weights = {name: a + hessian[name] for name, a in by_weights.items()}
        by_velocity = {name: b * inner.momentum for name, b in by_velocity.items()}
        yield given


def _step_back(
    inner: Inner, step: int, weights: Params, buffers: Params, by_weights: Params, by_velocity: Params
) -> tuple[Params, StepGradient]:
    """Differentiate <g_t, b> once more: by the weights of a step, and by what it was given."""
    x, y = inner.batch(step)
    hessian = {name: torch.zeros_like(value) for name, value in weights.items()}
    by_x, by_y, rate = [], [], torch.zeros((), dtype=x.dtype, device=x.device)
    for part, labels in _chunks(x, y, _size(inner.module, x)):
        params = {name: value.detach().requires_grad_() for name, value in weights.items()}
        given = [part.detach().requires_grad_()]
        if labels.is_floating_point():
            given.append(labels.detach().requires_grad_())
        share = len(part) / len(x)
        loss = cross_entropy(
            apply(inner.module, params, buffers, given[0], train=True), given[-1] if given[1:] else labels
        )
        gradient = torch.autograd.grad(loss * share, list(params.values()), create_graph=True)
        second = torch.autograd.grad(
            gradient, [*params.values(), *given], list(by_velocity.values()), materialize_grads=True
        )
        for sum_, value in zip(hessian.values(), second, strict=False):
            sum_ += value
        by_x.append(second[len(params)])
        by_y += second[len(params) + 1 :]
        if not inner.momentum:
            rate -= sum((a * g.detach()).sum() for a, g in zip(by_weights.values(), gradient, strict=True))
    return hessian, StepGradient(
        step=step, x=torch.cat(by_x), y=torch.cat(by_y) if by_y else None, rate=None if inner.momentum else rate
    )


def _gradient(
    module: nn.Module, weights: Params, buffers: Params, x: Tensor, y: Tensor, size: int
) -> tuple[Tensor, Params]:
    """Return the mean cross entropy of images, a detached scalar, and its gradient, `size` images at a time."""
    loss = torch.zeros((), dtype=x.dtype, device=x.device)
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    for part, labels in _chunks(x, y, size):
        params = {name: value.detach().requires_grad_() for name, value in weights.items()}
        share = cross_entropy(apply(module, params, buffers, part, train=True), labels) * (len(part) / len(x))
        for sum_, value in zip(total.values(), torch.autograd.grad(share, list(params.values())), strict=True):
            sum_ += value
        loss += share.detach()
    return loss, total


def _chunks(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(x.split(size), y.split(size), strict=True)


def _size(module: nn.Module, x: Tensor) -> int:
    """Return how many images of a step go through the network in one pass."""
    return CHUNK if x.device.type == "cpu" and not _mixes(module) else len(x)


def _mixes(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())


def _to(weights: Params, device: torch.device | None) -> Params:
    return weights if device is None else {name: value.to(device) for name, value in weights.items()}
