import math

import pytest
import torch
import torch.nn.functional as F

from raydd.augment import Params, frepo
from raydd.errors import ConfigError, DataError

ALL = "flip_color_crop_rotate_translate_cutout"
SHAPE = (3, 9, 12)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, shape=SHAPE, dtype=torch.float32):
    return torch.randn(n, *shape, generator=gen(99), dtype=dtype)


def param(op, **values):
    return Params(op, {name: torch.tensor(value) for name, value in values.items()})


def test_one_operation_a_draw_of_those_named():
    assert {frepo.draw(ALL, gen(seed), 2, SHAPE).op for seed in range(100)} == set(ALL.split("_"))
    assert "flip" not in {frepo.draw("color_crop_cutout", gen(seed), 2, SHAPE).op for seed in range(100)}


@pytest.mark.parametrize(
    ("op", "name", "low", "high"),
    [
        ("color", "brightness", -0.25, 0.25),
        ("color", "contrast", math.exp(-0.25), math.exp(0.25)),
        ("color", "saturation", math.exp(-0.25), math.exp(0.25)),
        ("crop", "zoom", 0.8, 1.25),
        ("rotate", "degrees", -15.0, 15.0),
        ("translate", "x", -0.125, 0.125),
        ("translate", "y", -0.125, 0.125),
    ],
)
def test_ranges(op, name, low, high):
    drawn = frepo.draw(op, gen(), 4000, SHAPE).values[name]
    slack = 0.01 * (high - low)
    assert low - 1e-6 <= drawn.min().item() < low + slack
    assert high - slack < drawn.max().item() <= high + 1e-6


@pytest.mark.parametrize(("op", "name"), [("color", "contrast"), ("color", "saturation"), ("crop", "zoom")])
def test_factors_are_uniform_in_the_logarithm(op, name):
    drawn = frepo.draw(op, gen(), 4000, SHAPE).values[name].log()
    assert abs(drawn.mean().item()) < 0.01
    assert drawn.std().item() == pytest.approx((drawn.max() - drawn.min()).item() / math.sqrt(12), rel=0.03)


@pytest.mark.parametrize("op", frepo.OPS)
def test_per_image_parameters_are_those_of_each_image(op):
    x = images(6)
    params = frepo.draw(op, gen(3), 6, SHAPE)
    whole = frepo.apply(x, params)
    for i in range(6):
        row = Params(op, {name: v[i : i + 1] for name, v in params.values.items()})
        torch.testing.assert_close(frepo.apply(x[i : i + 1], row), whole[i : i + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("op", frepo.OPS)
def test_gradient(op):
    x = images(2, (2, 4, 5), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: frepo.apply(x, frepo.draw(op, gen(1), 2, (2, 4, 5))), (x,))


def test_color_by_hand():
    x = torch.tensor([[[[1.0, 3.0]], [[3.0, 5.0]]]])
    out = frepo.apply(x, param("color", brightness=[0.5], contrast=[0.5], saturation=[2.0]))
    # +0.5: 1.5 3.5 | 3.5 5.5; image mean 3.5, halved: 2.5 3.5 | 3.5 4.5; pixel means 3 4, deviations doubled.
    torch.testing.assert_close(out, torch.tensor([[[[2.0, 3.0]], [[4.0, 5.0]]]]))


def sampled(x, theta):
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def test_rotate_replicates_the_edge():
    x, params = images(5), frepo.draw("rotate", gen(2), 5, SHAPE)
    angle = params.values["degrees"] / 180 * math.pi
    theta = torch.zeros(5, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos(), -angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), angle.cos()
    torch.testing.assert_close(frepo.apply(x, params), sampled(x, theta), rtol=1e-5, atol=1e-5)


def test_translate_is_a_shift_by_a_share_of_the_size():
    x, params = images(5), frepo.draw("translate", gen(2), 5, SHAPE)
    theta = torch.zeros(5, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1
    # One pixel is 2 / (size - 1) of the corner-aligned range.
    theta[:, 0, 2] = params.values["x"] * 12 * 2 / 11
    theta[:, 1, 2] = params.values["y"] * 9 * 2 / 8
    torch.testing.assert_close(frepo.apply(x, params), sampled(x, theta), rtol=1e-5, atol=1e-5)


def test_translate_by_hand():
    x = torch.tensor([[[[0.0, 10.0, 20.0, 30.0]]]])
    out = frepo.apply(x, param("translate", x=[0.125], y=[0.0]))
    assert out[0, 0, 0].tolist() == [5, 15, 25, 30]


@pytest.mark.parametrize(
    ("zoom", "place", "first", "last"),
    [
        (1.25, -1.0, 0.0, 6.4),  # a window of 0.8 of the image, pressed to its left end
        (1.25, 1.0, 1.6, 8.0),
        (1.0, 0.3, 0.0, 8.0),
        (0.8, 1.0, 0.0, 8.0),  # a window of 1.25 with the image at its left end: the right edge is replicated
        (0.8, -1.0, 0.0, 8.0),
    ],
)
def test_crop_window(zoom, place, first, last):
    ramp = torch.arange(9.0).expand(1, 1, 9, 9)
    out = frepo.apply(ramp, param("crop", zoom=[zoom], x=[place], y=[0.0]))[0, 0, 4]
    assert out[0].item() == pytest.approx(first, abs=1e-5)
    assert out[-1].item() == pytest.approx(last, abs=1e-5)
    if zoom < 1:
        outside = out[-2:] if place > 0 else out[:2]
        assert outside.tolist() == pytest.approx([out[-1 if place > 0 else 0].item()] * 2, abs=1e-5)


def test_cutout_lies_within_the_image():
    params = frepo.draw("cutout", gen(), 500, (1, 9, 12))
    out = frepo.apply(torch.ones(500, 1, 9, 12), params)
    assert out.eq(0).sum((1, 2, 3)).eq(2 * 3).all()
    assert set(params.values["y"].tolist()) == set(range(8))
    assert set(params.values["x"].tolist()) == set(range(10))
    assert out[7, 0, int(params.values["y"][7]), int(params.values["x"][7])] == 0


def test_flip_mirrors_the_chosen_ones():
    x = images(2)
    out = frepo.apply(x, param("flip", flip=[False, True]))
    assert torch.equal(out[0], x[0])
    assert torch.equal(out[1], x[1].flip(-1))


def test_per_image_is_a_draw_for_the_batch_at_hand():
    x = images()
    assert torch.equal(
        frepo.per_image(ALL)(x, gen(5)),
        frepo.apply(x, frepo.draw(ALL, gen(5), 4, SHAPE)),
    )


def test_the_impossible_is_refused():
    with pytest.raises(ConfigError, match=r"must be one or more of flip, color, .* got 'scale' in 'flip_scale'"):
        frepo.draw("flip_scale", gen(), None, SHAPE)
    with pytest.raises(DataError, match=r"drawn for 3 images cannot be applied to 4"):
        frepo.apply(images(4), frepo.draw("color", gen(), 3, SHAPE))
