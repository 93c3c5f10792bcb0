"""Optimiser steps as pure functions of named tensors.

`init` gives the state, a step takes tensors, gradients and state and returns new tensors and new state; nothing is
changed in place. SGD and Adam follow the arithmetic of `torch.optim` operation by operation, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_STEP = "step"


@dataclass(frozen=True, slots=True)
class OptimState:
    """What an optimiser remembers.

    Attributes:
        step: Updates done.
        moments: Running tensors by kind and by the name of the tensor they belong to.
    """

    step: int
    moments: dict[str, dict[str, Tensor]]

    def tensors(self) -> dict[str, Tensor]:
        """Return the state under flat names, `kind.name`, and the updates done as int64 `step`, for a checkpoint."""
        flat = {f"{kind}.{name}": t for kind, named in self.moments.items() for name, t in named.items()}
        return {**flat, _STEP: torch.tensor(self.step)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> OptimState:
        """Return the state whose `tensors()` these are; they are not copied."""
        moments: dict[str, dict[str, Tensor]] = {}
        for flat, tensor in tensors.items():
            kind, _, name = flat.partition(".")
            if kind != _STEP:
                moments.setdefault(kind, {})[name] = tensor
        return cls(int(tensors[_STEP]), moments)


def sgd_init(tensors: Mapping[str, Tensor]) -> OptimState:
    """Return the state of an SGD that has done nothing; momentum starts at the first gradient."""
    return OptimState(0, {})


def sgd_step(
    tensors: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: OptimState,
    lr: float,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> tuple[dict[str, Tensor], OptimState]:
    """Do one step of `torch.optim.SGD`: `v <- momentum * v + g`, `p <- p - lr * v`, v being g in the first step.

    Args:
        tensors: What is optimised.
        grads: Their gradients, by the same names.
        state: From `sgd_init` or the step before.
        lr: Learning rate.
        momentum: 0 keeps no momentum.
        weight_decay: Times the tensor, added to its gradient.
    """
    moved, velocity = {}, {}
    for name, tensor in tensors.items():
        grad = grads[name].add(tensor, alpha=weight_decay) if weight_decay else grads[name]
        if momentum:
            before = state.moments.get("momentum")
            grad = grad.clone() if before is None else (before[name] * momentum).add_(grad)
            velocity[name] = grad
        moved[name] = tensor.add(grad, alpha=-lr)
    return moved, OptimState(state.step + 1, {"momentum": velocity} if momentum else {})


def adam_init(tensors: Mapping[str, Tensor]) -> OptimState:
    """Return the state of an Adam or LAMB that has done nothing: both moments zero."""
    moments = {kind: {name: torch.zeros_like(t) for name, t in tensors.items()} for kind in ("first", "second")}
    return OptimState(0, moments)


def adam_step(
    tensors: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: OptimState,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> tuple[dict[str, Tensor], OptimState]:
    """Do one step of `torch.optim.Adam`.

    Kingma & Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, Algorithm 1.

    Args:
        tensors: What is optimised.
        grads: Their gradients, by the same names.
        state: From `adam_init` or the step before.
        lr: Learning rate.
        betas: Decay of the first and second moment.
        eps: Added to the root of the corrected second moment.
        weight_decay: Times the tensor, added to its gradient (L2, not AdamW's).
    """
    if weight_decay:
        grads = {name: grads[name].add(t, alpha=weight_decay) for name, t in tensors.items()}
    state = update_moments(grads, state, betas)
    rate = -(lr / (1 - betas[0] ** state.step))
    root = (1 - betas[1] ** state.step) ** 0.5
    moved = {}
    for name, tensor in tensors.items():
        denominator = (state.moments["second"][name].sqrt() / root).add_(eps)
        moved[name] = tensor.addcdiv(state.moments["first"][name], denominator, value=rate)
    return moved, state


def update_moments(grads: Mapping[str, Tensor], state: OptimState, betas: tuple[float, float]) -> OptimState:
    """Return the state with Adam's running means of the gradient and its square taken one step on, not corrected."""
    first, second = state.moments["first"], state.moments["second"]
    means = {name: m.lerp(grads[name], 1 - betas[0]) for name, m in first.items()}
    squares = {n: (v * betas[1]).addcmul_(grads[n], grads[n], value=1 - betas[1]) for n, v in second.items()}
    return OptimState(state.step + 1, {"first": means, "second": squares})
