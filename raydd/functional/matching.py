"""Distances between two gradients of a network's parameters.

Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, Eq. (10), and the two alternatives of the
authors' code. Gradients are matched per parameter, in the same order in both sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

EPS = 1e-6

Distance = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def layerwise(g_real: Sequence[Tensor], g_syn: Sequence[Tensor]) -> Tensor:
    """Return the sum over parameters, and over each one's output units i, of `1 - <A_i, B_i> / (|A_i| |B_i| + 1e-6)`.

    A unit's part of a convolution's kernel `(out, in, h, w)`, of a linear layer's weight `(out, in)` or of LayerNorm's
    weight `(C, H, W)` is all that has its index in the first dimension. Parameters of one dimension, such as biases and
    the affine part of other norms, contribute nothing.

    Args:
        g_real: Gradients on real images, by parameter.
        g_syn: Gradients on synthetic ones, of the same shapes.

    Returns:
        A scalar in [0, 2 * output units], differentiable by both.
    """
    total = g_syn[0].new_zeros(())
    for real, syn in zip(g_real, g_syn, strict=True):
        if syn.ndim > 1:
            total = total + _cosine(real.flatten(1), syn.flatten(1)).sum()
    return total


def mse(g_real: Sequence[Tensor], g_syn: Sequence[Tensor]) -> Tensor:
    """Return the squared distance of all parameters' gradients, taken as one vector: a sum, as in the authors' code."""
    return (_vector(g_syn) - _vector(g_real)).square().sum()


def cos(g_real: Sequence[Tensor], g_syn: Sequence[Tensor]) -> Tensor:
    """Return the cosine distance of all parameters' gradients, taken as one vector; in [0, 2]."""
    return _cosine(_vector(g_real), _vector(g_syn))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Return `1 - <a, b> / (|a| |b| + 1e-6)` along the last dimension."""
    return 1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + EPS)


def _vector(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


DISTANCES: dict[str, Distance] = {"layerwise": layerwise, "mse": mse, "cos": cos}
