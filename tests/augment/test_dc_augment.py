from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raydd.augment import Params, dc, per_image
from raydd.errors import ConfigError, DataError

ALL = "crop_scale_rotate"


def images(n: int = 3, channels: int = 1, size: int = 28) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


def params(n: int, op: str, **values: float) -> Params:
    neutral = {"y": 4, "x": 4, "height": 28, "width": 28, "degrees": 0.0, **values}
    tensors = {name: torch.full((n,), value) for name, value in neutral.items()}
    if op == "noise":
        tensors["noise"] = torch.zeros(n, 1, 28, 28)
    return Params(ALL, {"choice": torch.full((n,), dc.OPS.index(op)), **tensors})


@pytest.mark.parametrize("op", dc.OPS)
def test_neutral_parameters_change_nothing(op: str) -> None:
    torch.testing.assert_close(dc.apply(images(), params(3, op)), images(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (7, 3)])
def test_crop_is_a_window_of_the_image_padded_with_the_batchs_mean(y: int, x: int) -> None:
    batch = images(channels=3)
    padded = batch.mean((0, 2, 3))[None, :, None, None].repeat(3, 1, 36, 36)
    padded[:, :, 4:32, 4:32] = batch
    torch.testing.assert_close(dc.apply(batch, params(3, "crop", y=y, x=x)), padded[:, :, y : y + 28, x : x + 28])


@pytest.mark.parametrize(("height", "width"), [(22, 33), (33, 30), (23, 24), (28, 22)])
def test_scale_by_nearest_pixel_keeps_the_middle(height: int, width: int) -> None:
    """Against interpolation onto a canvas that holds both sizes, with zeros around."""
    batch = images()
    scaled = F.interpolate(batch, (height, width), mode="nearest")
    edge = max(height, width, 28)
    canvas = torch.zeros(3, 1, edge, edge)
    top, left, middle = (edge - height) // 2, (edge - width) // 2, (edge - 28) // 2
    canvas[:, :, top : top + height, left : left + width] = scaled
    expected = canvas[:, :, middle : middle + 28, middle : middle + 28]
    assert torch.equal(dc.apply(batch, params(3, "scale", height=height, width=width)), expected)


def test_rotate_by_a_right_angle_and_fill_with_the_mean() -> None:
    batch = images(1, size=9)
    turned = dc.apply(batch, params(1, "rotate", degrees=90.0))
    torch.testing.assert_close(turned, batch.rot90(1, (2, 3)), rtol=0, atol=1e-5)
    corner = dc.apply(batch, params(1, "rotate", degrees=45.0))[0, 0, 0, 0]
    torch.testing.assert_close(corner, batch.mean(), rtol=0, atol=1e-6)


def test_every_image_has_an_operation_of_its_own() -> None:
    drawn = dc.draw(ALL, torch.Generator().manual_seed(0), 900, (1, 28, 28)).values
    assert all(count == pytest.approx(300, abs=60) for count in drawn["choice"].bincount().tolist())
    assert {drawn[axis].unique().numel() for axis in ("y", "x")} == {8}
    for side in ("height", "width"):
        assert (drawn[side].min().item(), drawn[side].max().item()) == (22, 33)
    assert (drawn["degrees"].min().item(), drawn["degrees"].max().item()) == (-45, 44)
    assert not torch.equal(drawn["height"], drawn["width"])


def test_images_get_what_was_drawn_for_them() -> None:
    batch = images(6)
    drawn = dc.draw(ALL, torch.Generator().manual_seed(3), 6, (1, 28, 28))
    mixed = dc.apply(batch, drawn)
    for i, choice in enumerate(drawn.values["choice"].tolist()):
        all_alike = Params(ALL, {**drawn.values, "choice": torch.full((6,), choice)})
        assert torch.equal(mixed[i], dc.apply(batch, all_alike)[i])


def test_per_image_is_a_keyed_draw_for_the_batch() -> None:
    batch = images(5)
    first, again = (per_image(f"dc:{ALL}")(batch, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(
        first, dc.apply(batch, dc.draw(ALL, torch.Generator().manual_seed(2), 5, tuple(batch.shape[1:])))
    )
    assert torch.equal(batch, images(5))


def test_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="one or more of crop, scale, rotate, noise, joined by '_', got 'flip'"):
        dc.per_image("crop_flip")
    with pytest.raises(DataError, match="drawn for 3 images cannot be applied to 2"):
        dc.apply(images(2), params(3, "crop"))


def test_noise_is_small_and_every_pixels_own() -> None:
    batch = images(400, channels=3, size=8)
    drawn = dc.draw("crop_noise", torch.Generator().manual_seed(0), 400, (3, 8, 8))
    noisy = drawn.values["choice"] == dc.OPS.index("noise")
    assert int(noisy.sum()) == pytest.approx(200, abs=40)
    added = dc.apply(batch, drawn)[noisy] - batch[noisy]
    assert float(added.std()) == pytest.approx(1e-3, rel=0.05)
    assert float(added[0, 0, 0, 0]) != float(added[0, 0, 0, 1])
    assert "noise" not in dc.draw(ALL, torch.Generator().manual_seed(0), 5, (1, 28, 28)).values
