"""Addressed memories: images made of shared bases, and how many numbers they take.

Deng & Russakovsky, "Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks", NeurIPS 2022,
Section 3. A memory holds K bases B of `ch x H/s x W/s` and r addressing matrices A_i of C x K; what it holds for a query y is
the r images `x_i = y^T A_i B`, enlarged s times. A class is the query of its one-hot vector.
"""

from __future__ import annotations

import torch
from torch import Tensor


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Enlarge images `(n, C, h, w)` to `(n, C, h * factor, w * factor)`, bilinearly and without aligned corners.

    A product with two fixed matrices, because the backward of `interpolate` has no deterministic form on CUDA.
    """
    if factor == 1:
        return x
    rows, columns = (_bilinear(size, factor).to(x) for size in x.shape[2:])
    return rows @ x @ columns.T


def _bilinear(size: int, factor: int) -> Tensor:
    """Return what each of `size * factor` output pixels takes of each input pixel, float64 (size * factor, size)."""
    places = ((torch.arange(size * factor, dtype=torch.float64) + 0.5) / factor - 0.5).clamp(0, size - 1)
    left = places.floor().clamp(max=max(size - 2, 0)).long()
    share = (places - left)[:, None]
    eye = torch.eye(size, dtype=torch.float64)
    return (1 - share) * eye[left] + share * eye[(left + 1).clamp(max=size - 1)]


def recall(bases: Tensor, addresses: Tensor, queries: Tensor, factor: int) -> Tensor:
    """Return what a memory holds for each query: `x_i = y^T A_i B` for its r addresses.

    Args:
        bases: B, `(K, ch, h, w)`.
        addresses: The A_i, `(d_y, r, K)`; d_y is the number of classes unless queries are something else than classes.
        queries: The y, `(m, d_y)`.
        factor: How many times images are larger than bases.

    Returns:
        `(m, r, ch, h * factor, w * factor)`.
    """
    mixed = torch.einsum("md,drk->mrk", queries, addresses)
    return enlarge((mixed.flatten(0, 1) @ bases.flatten(1)).unflatten(1, bases.shape[1:]), factor).unflatten(
        0, mixed.shape[:2]
    )
