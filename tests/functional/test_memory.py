from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from raydd.functional.memory import enlarge, recall
from raydd.seeding import generator


@pytest.mark.parametrize(("size", "factor"), [((4, 4), 2), ((7, 3), 2), ((5, 5), 3), ((1, 2), 4), ((6, 6), 1)])
def test_enlarge_is_bilinear_interpolation(size: tuple[int, int], factor: int) -> None:
    x = torch.randn(2, 3, *size, generator=generator(0, "x"), dtype=torch.float64)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert torch.allclose(enlarge(x, factor), expected, rtol=1e-12, atol=1e-12)


def test_enlarge_by_hand() -> None:
    """A row 0, 4 twice as long: its pixels lie at -1/4, 1/4, 3/4 and 5/4 of the way from one to the other."""
    assert enlarge(torch.tensor([[[[0.0, 4.0]]]]), 2)[0, 0].tolist() == [[0, 1, 3, 4], [0, 1, 3, 4]]


def test_recall_by_hand() -> None:
    """y = (2, 1), two addresses, two bases of one pixel: x_i = sum over c of y_c (A_i B)_c."""
    bases = torch.tensor([1.0, 10.0]).view(2, 1, 1, 1)
    # By class, then by address: A_0 = [[1, 0], [0, 1]], A_1 = [[1, 1], [-1, 0]].
    addresses = torch.tensor([[[1.0, 0], [1, 1]], [[0, 1], [-1, 0]]])
    images = recall(bases, addresses, torch.tensor([[2.0, 1.0], [0.0, 1.0]]), 2)
    assert images.shape == (2, 2, 1, 2, 2)
    assert images[:, :, 0, 0, 0].tolist() == [[12, 21], [10, -1]]
    assert torch.equal(images, images[..., :1, :1].expand_as(images))
