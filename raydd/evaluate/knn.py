"""Nearest neighbours: what a set is worth without any training.

Wang et al., "Dataset Distillation", 2018, score random images and k-means centroids this way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from raydd.errors import ConfigError, DataError


def knn_accuracy(
    images: Tensor,
    labels: Tensor,
    test: Iterable[tuple[Tensor, Tensor]],
    preprocessing: Callable[[Tensor], Tensor],
    *,
    k: int = 1,
) -> float:
    """Return the share of test images whose class most of their `k` nearest images of a set have, in percent.

    Distances are L2 between normalised pixels. Of classes with equally many neighbours the one with the nearest wins.

    Args:
        images: The set, float32 `(N, C, H, W)`, normalised.
        labels: int64 `(N,)` or soft `(N, classes)`, whose strongest class counts.
        test: Batches of real images as `preprocessing` takes them, and their labels int64 `(b,)`; `RealData.stream` gives them.
        preprocessing: Makes real images comparable with the set's, float32 `(b, C, H, W)`.
        k: Neighbours, 1 to N.

    Raises:
        ConfigError: `k` is out of range.
        DataError: There are no test images.
    """
    if not 1 <= k <= len(images):
        raise ConfigError(f"k must be between 1 and the set's {len(images)} images, got {k}")
    hard = labels.argmax(1) if labels.ndim == 2 else labels
    correct = total = 0
    for batch, truth in test:
        distances = torch.cdist(preprocessing(batch).flatten(1), images.flatten(1))
        nearest = distances.topk(k, largest=False).indices
        correct += int((_vote(hard[nearest]).cpu() == truth).sum())
        total += len(truth)
    if total == 0:
        raise DataError("expected test images to score nearest neighbours on, got none")
    return 100.0 * correct / total


def _vote(classes: Tensor) -> Tensor:
    """Return the winners, int64 (b,), of neighbours' classes (b, k) in the order of distance."""
    k = classes.shape[1]
    votes = F.one_hot(classes).float()
    # Less than one vote, and more of it the nearer a class's nearest neighbour is.
    nearness = (k - torch.arange(k, dtype=torch.float32, device=classes.device)) / (k + 1)
    return (votes.sum(1) + (votes * nearness[:, None]).amax(1)).argmax(1)
