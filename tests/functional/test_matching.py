from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raydd.functional.matching import DISTANCES, cos, layerwise, mse

SHAPES = ((3, 2, 3, 3), (3,), (3, 4, 4), (5, 12), (5,))


def pair(seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of a convolution, its bias, LayerNorm's weight, a linear layer and its bias; real, then synthetic."""
    gen = torch.Generator().manual_seed(seed)
    return tuple([torch.randn(shape, generator=gen, dtype=torch.float64) for shape in SHAPES] for _ in range(2))


def test_layerwise_by_hand() -> None:
    kernel = torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=torch.float64).view(2, 1, 1, 2)
    kernel_syn = torch.tensor([[4.0, 3.0], [0.0, 2.0]], dtype=torch.float64).view(2, 1, 1, 2)
    linear, linear_syn = (torch.tensor([row], dtype=torch.float64) for row in ([1.0, 0.0], [-2.0, 0.0]))
    # Units of the kernel: <(3,4),(4,3)> = 24 over 5 * 5, and orthogonal; of the linear layer: opposite.
    expected = (1 - 24 / (25 + 1e-6)) + 1 + (1 + 2 / (2 + 1e-6))
    assert layerwise([kernel, linear], [kernel_syn, linear_syn]).item() == pytest.approx(expected, rel=1e-12)


def test_a_unit_is_all_that_shares_the_first_index() -> None:
    real, syn = pair()
    total = 0.0
    for a, b in zip(real, syn, strict=True):
        if a.ndim == 1:
            continue
        for unit in range(len(a)):
            one, other = a[unit].flatten().tolist(), b[unit].flatten().tolist()
            dot = sum(p * q for p, q in zip(one, other, strict=True))
            total += 1 - dot / (math.hypot(*one) * math.hypot(*other) + 1e-6)
    assert layerwise(real, syn).item() == pytest.approx(total, rel=1e-12)


def test_biases_and_affine_norms_count_in_the_flat_distances_only() -> None:
    real, syn = pair()
    other = [t + 1 if t.ndim == 1 else t for t in syn]
    assert layerwise(real, other) == layerwise(real, syn)
    assert mse(real, other) != mse(real, syn)
    assert cos(real, other) != cos(real, syn)


def test_flat_distances_by_hand() -> None:
    real, syn = [torch.tensor([[3.0]]), torch.tensor([0.0, 4.0])], [torch.tensor([[0.0]]), torch.tensor([2.0, 1.0])]
    # (3, 0, 4) and (0, 2, 1): the difference has length^2 9 + 4 + 9; <,> = 4, lengths 5 and sqrt(5).
    assert mse(real, syn).item() == 22
    assert cos(real, syn).item() == pytest.approx(1 - 4 / (5 * math.sqrt(5)), rel=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_derivative(name: str) -> None:
    real, syn = pair()
    for tensor in syn:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda *g: DISTANCES[name](real, g), tuple(syn))


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_gradients_have_no_distance(name: str) -> None:
    real, _ = pair()
    assert DISTANCES[name](real, [t.clone() for t in real]).item() == pytest.approx(0, abs=1e-5)


def test_a_dead_unit_is_at_distance_one_and_gives_no_nan() -> None:
    real = [torch.tensor([[1.0, 2.0], [0.0, 0.0]])]
    syn = [torch.tensor([[0.0, 0.0], [1.0, 2.0]], requires_grad=True)]
    distance = layerwise(real, syn)
    assert distance.item() == 2
    (gradient,) = torch.autograd.grad(distance, syn)
    assert gradient.isfinite().all()
