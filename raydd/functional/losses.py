"""Losses and labels of the methods."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def mse(pred: Tensor, target: Tensor) -> Tensor:
    """Return FRePo's squared error: the mean over the batch of `0.5 * sum_c (pred - target)^2`.

    Args:
        pred: `(b, c)`.
        target: `(b, c)`.
    """
    return 0.5 * (pred - target).square().sum(1).mean()


def label_margin(y_syn: Tensor) -> Tensor:
    """Return FRePo's label term: the mean over images of `-min(top1 - top2, 1/c)`; it keeps learned labels apart.

    Args:
        y_syn: Soft labels `(m, c)` with c >= 2.
    """
    top = y_syn.topk(2, dim=1).values
    return -(top[:, 0] - top[:, 1]).clamp(max=1 / y_syn.shape[1]).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy of logits `(b, c)` with hard labels int64 `(b,)` or probabilities `(b, c)`."""
    return F.cross_entropy(logits, target)


def centred_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Return FRePo's targets, `onehot - 1/c`: int64 `(n,)` in [0, c) to float32 `(n, c)`."""
    return F.one_hot(labels, num_classes).float() - 1 / num_classes


def scaled_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Return what FRePo's synthetic labels start at, `(onehot - 1/c) / sqrt(c / 10)`: int64 `(n,)` to `(n, c)`."""
    return centred_labels(labels, num_classes) / math.sqrt(num_classes / 10)
