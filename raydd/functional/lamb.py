"""LAMB, as FRePo optimises its images and labels.

You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR 2020, Algorithm 2, with the
identity for phi: the trust ratio `|p| / |u|` is not clipped (many PyTorch versions clip it at 10), and there is no
weight decay. Each named tensor is one layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raydd.functional.optim import OptimState, adam_init, update_moments

init = adam_init


def step(
    tensors: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    state: OptimState,
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
) -> tuple[dict[str, Tensor], OptimState]:
    """Do one step: `u = m' / (sqrt(v') + eps)`, m' and v' the bias-corrected moments; `p <- p - lr * |p| / |u| * u`.

    The ratio is 1 where the tensor or its update is zero.

    Args:
        tensors: What is optimised; nothing is changed in place.
        grads: Their gradients, by the same names.
        state: From `init` or the step before.
        lr: Learning rate.
        betas: Decay of the first and second moment.
        eps: Added to the root of the corrected second moment.
    """
    state = update_moments(grads, state, betas)
    first, second = (1 - beta**state.step for beta in betas)
    moved = {}
    for name, tensor in tensors.items():
        mean, square = state.moments["first"][name] / first, state.moments["second"][name] / second
        update = mean / (square.sqrt() + eps)
        ratio = tensor.norm() / update.norm()
        ratio = torch.where((tensor.norm() > 0) & (update.norm() > 0), ratio, 1.0)
        moved[name] = tensor - lr * ratio * update
    return moved, state
