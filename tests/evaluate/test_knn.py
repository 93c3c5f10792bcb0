from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raydd.errors import ConfigError, DataError
from raydd.evaluate.knn import knn_accuracy


def points(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def halved(x: Tensor) -> Tensor:
    return x.float() / 2


SET, LABELS = points(0.0, 1.0, 2.0, 10.0, 11.0), torch.tensor([0, 1, 1, 2, 2])


def test_nearest_neighbour_by_hand() -> None:
    # Halved: 0.4 -> 0, 1.6 -> 2 of class 1, 5.5 -> 2 of class 1, 20 -> 11.
    batches = [(points(0.8, 3.2), torch.tensor([0, 1])), (points(11.0, 40.0), torch.tensor([2, 2]))]
    assert knn_accuracy(SET, LABELS, batches, halved) == 75.0


def test_majority_and_ties_by_hand() -> None:
    # Neighbours of 0.4: classes 0, 1, 1, so three of them say 1; two are a tie, which the nearest decides.
    batch = [(points(0.8), torch.tensor([1]))]
    assert [knn_accuracy(SET, LABELS, batch, halved, k=k) for k in (1, 2, 3)] == [0.0, 0.0, 100.0]
    # All five: class 1 and 2 have two each; 6.5 is nearest to 10, 5.9 to 2.
    batches = [(points(13.0, 11.8), torch.tensor([2, 1]))]
    assert knn_accuracy(SET, LABELS, batches, halved, k=5) == 100.0


def test_soft_labels_count_by_their_strongest_class() -> None:
    soft = torch.nn.functional.one_hot(LABELS, 3) - 0.3
    assert knn_accuracy(SET, soft, [(points(40.0), torch.tensor([2]))], halved) == 100.0


@pytest.mark.parametrize("k", [0, 6])
def test_k_out_of_range(k: int) -> None:
    with pytest.raises(ConfigError, match=f"k must be between 1 and the set's 5 images, got {k}"):
        knn_accuracy(SET, LABELS, [], halved, k=k)


def test_no_test_images() -> None:
    with pytest.raises(DataError, match="expected test images"):
        knn_accuracy(SET, LABELS, [], halved)
