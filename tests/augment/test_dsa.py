import math

import pytest
import torch
import torch.nn.functional as F

from raydd.augment import Params, dsa
from raydd.errors import ConfigError, DataError

ALL = "color_crop_cutout_flip_scale_rotate"
SHAPE = (3, 9, 12)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=4, shape=SHAPE, dtype=torch.float32):
    return torch.randn(n, *shape, generator=gen(99), dtype=dtype)


def param(op, **values):
    return Params(op, {name: torch.tensor(value) for name, value in values.items()})


def test_one_operation_a_draw_each_about_as_often():
    ops = [dsa.draw(ALL, gen(seed), None, SHAPE).op for seed in range(600)]
    assert set(ops) == set(ALL.split("_"))
    assert all(70 <= ops.count(op) <= 130 for op in set(ops))


def test_draw_is_a_function_of_the_generator():
    for seed in range(12):
        a, b = (dsa.draw(ALL, gen(seed), 5, SHAPE) for _ in range(2))
        assert a.op == b.op
        assert a.count == 5
        assert all(torch.equal(a.values[name], b.values[name]) for name in a.values)


def test_draw_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    for seed in range(12):
        dsa.apply(images(), dsa.draw(ALL, gen(seed), 4, SHAPE))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("op", "name", "low", "high"),
    [
        ("color", "brightness", -0.5, 0.5),
        ("color", "saturation", 0.0, 2.0),
        ("color", "contrast", 0.5, 1.5),
        ("scale", "x", 1 / 1.2, 1.2),
        ("scale", "y", 1 / 1.2, 1.2),
        ("rotate", "degrees", -15.0, 15.0),
    ],
)
def test_continuous_ranges(op, name, low, high):
    drawn = dsa.draw(op, gen(), 4000, SHAPE).values[name]
    assert low <= drawn.min().item() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < drawn.max().item() <= high
    assert drawn.mean().item() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


@pytest.mark.parametrize(
    ("op", "shape", "y", "x"),
    [
        ("crop", (3, 32, 32), (-4, 4), (-4, 4)),
        ("crop", (1, 28, 28), (-4, 4), (-4, 4)),  # int(3.5 + 0.5)
        ("crop", (1, 8, 64), (-1, 1), (-8, 8)),
        ("cutout", (3, 32, 32), (0, 32), (0, 32)),  # even hole: the far border is a centre too
        ("cutout", (3, 9, 10), (0, 8), (0, 9)),  # holes of 5 and 5: it is not
    ],
)
def test_integer_ranges_are_reached(op, shape, y, x):
    values = dsa.draw(op, gen(), 4000, shape).values
    assert set(values["y"].tolist()) == set(range(y[0], y[1] + 1))
    assert set(values["x"].tolist()) == set(range(x[0], x[1] + 1))


def test_flip_is_a_fair_coin():
    assert 0.45 < dsa.draw("flip", gen(), 2000, SHAPE).values["flip"].float().mean().item() < 0.55


def test_scale_axes_are_independent():
    values = dsa.draw("scale", gen(), 4000, SHAPE).values
    assert abs(torch.corrcoef(torch.stack((values["x"], values["y"])))[0, 1].item()) < 0.06


@pytest.mark.parametrize("op", dsa.OPS)
def test_siamese_is_the_same_operation_for_any_batch(op):
    x = images(6)
    params = dsa.draw(op, gen(3), None, SHAPE)
    assert params.count == 1
    whole = dsa.apply(x, params)
    assert torch.equal(dsa.apply(x[:2], params), whole[:2])
    assert torch.equal(dsa.apply(x[5:], params), whole[5:])


@pytest.mark.parametrize("op", dsa.OPS)
def test_per_image_parameters_are_those_of_each_image(op):
    x = images(6)
    params = dsa.draw(op, gen(3), 6, SHAPE)
    whole = dsa.apply(x, params)
    for i in range(6):
        row = Params(op, {name: v[i : i + 1] for name, v in params.values.items()})
        torch.testing.assert_close(dsa.apply(x[i : i + 1], row), whole[i : i + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("op", dsa.OPS)
def test_gradient(op):
    x = images(2, (2, 4, 5), torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dsa.apply(x, dsa.draw(op, gen(1), 2, (2, 4, 5))), (x,))


@pytest.mark.parametrize("op", dsa.OPS)
def test_layout_and_input_are_kept(op):
    x = images()
    before = x.clone()
    params = dsa.draw(op, gen(1), 4, SHAPE)
    last = dsa.apply(x.contiguous(memory_format=torch.channels_last), params)
    torch.testing.assert_close(last, dsa.apply(x, params), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, before)
    assert last.dtype == x.dtype


def test_color_by_hand():
    """Brightness, then saturation about each pixel's mean over channels, then contrast about the image's mean."""
    x = torch.tensor([[[[1.0, 3.0]], [[3.0, 5.0]]]])  # one image, two channels, 1x2
    out = dsa.apply(x, param("color", brightness=[0.5], saturation=[2.0], contrast=[0.5]))
    # +0.5: 1.5 3.5 | 3.5 5.5; pixel means 2.5 4.5, deviations doubled: 0.5 2.5 | 4.5 6.5; image mean 3.5, halved.
    torch.testing.assert_close(out, torch.tensor([[[[2.0, 3.0]], [[4.0, 5.0]]]]))


def test_crop_shifts_and_fills_with_zero():
    x = torch.arange(1.0, 13).reshape(1, 1, 3, 4)
    out = dsa.apply(x, param("crop", y=[1], x=[-2]))
    assert out[0, 0].tolist() == [[0, 0, 5, 6], [0, 0, 9, 10], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("y", "x", "rows", "cols"),
    [
        (4, 4, range(2, 6), range(2, 6)),
        (0, 8, range(0, 2), range(6, 8)),  # cut by the border: the hole is smaller
        (8, 1, range(6, 8), range(0, 3)),
    ],
)
def test_cutout_hole(y, x, rows, cols):
    out = dsa.apply(torch.ones(1, 2, 8, 8), param("cutout", y=[y], x=[x]))
    expected = [[0.0 if r in rows and c in cols else 1.0 for c in range(8)] for r in range(8)]
    assert out[0, 0].tolist() == expected
    assert out[0, 1].tolist() == expected


def test_cutout_equals_scatter_with_clamped_indices():
    """The authors' form: zero the pixels at clamp(arange(side) + centre - side // 2)."""
    for height, width in ((7, 10), (9, 6)):
        params = dsa.draw("cutout", gen(), 60, (1, height, width))
        side_y, side_x = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        expected = torch.ones(60, 1, height, width)
        for i, (cy, cx) in enumerate(zip(params.values["y"].tolist(), params.values["x"].tolist(), strict=True)):
            for a in range(side_y):
                for b in range(side_x):
                    row = min(max(a + cy - side_y // 2, 0), height - 1)
                    expected[i, 0, row, min(max(b + cx - side_x // 2, 0), width - 1)] = 0
        assert torch.equal(dsa.apply(torch.ones(60, 1, height, width), params), expected)


def test_flip_mirrors_the_chosen_ones():
    x = images(2)
    out = dsa.apply(x, param("flip", flip=[True, False]))
    assert torch.equal(out[0], x[0].flip(-1))
    assert torch.equal(out[1], x[1])


def sampled(x, theta, corners=True):
    grid = F.affine_grid(theta, list(x.shape), align_corners=corners)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=corners)


def scaling(params):
    theta = torch.zeros(5, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = params.values["x"], params.values["y"]
    return theta


def rotation(params):
    angle = params.values["degrees"] / 180 * math.pi
    theta = torch.zeros(5, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos(), -angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), angle.cos()
    return theta


@pytest.mark.parametrize(("op", "matrix"), [("scale", scaling), ("rotate", rotation)])
def test_scale_and_rotate_are_the_corner_aligned_grid_sample(op, matrix):
    x, params = images(5), dsa.draw(op, gen(2), 5, SHAPE)
    torch.testing.assert_close(dsa.apply(x, params), sampled(x, matrix(params)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(("op", "matrix"), [("scale", scaling), ("rotate", rotation)])
def test_alignment_of_corners_does_not_matter_for_squares(op, matrix, size):
    x, params = images(5, (3, size, size)), dsa.draw(op, gen(2), 5, (3, size, size))
    torch.testing.assert_close(dsa.apply(x, params), sampled(x, matrix(params), False), rtol=1e-5, atol=1e-5)


def test_scale_above_one_shrinks():
    out = dsa.apply(torch.ones(1, 1, 9, 9), param("scale", x=[1.2], y=[1.0]))
    # The first column reads from 4 - 4 * 1.2 = -0.8: a fifth of the first pixel, the rest is outside.
    torch.testing.assert_close(out[0, 0, 0], torch.tensor([0.2, *[1.0] * 7, 0.2]))


@pytest.mark.parametrize(("op", "values"), [("scale", {"x": [1.0], "y": [1.0]}), ("rotate", {"degrees": [0.0]})])
def test_neutral_warps_change_nothing(op, values):
    x = images()
    torch.testing.assert_close(dsa.apply(x, param(op, **values)), x, rtol=1e-5, atol=1e-5)


def test_warps_work_on_a_single_row():
    x = torch.ones(1, 1, 1, 4)
    assert dsa.apply(x, param("scale", x=[1.0], y=[1.2])).shape == x.shape


def test_per_image_is_a_draw_for_the_batch_at_hand():
    x = images()
    out = dsa.per_image(ALL)(x, gen(5))
    assert torch.equal(out, dsa.apply(x, dsa.draw(ALL, gen(5), 4, SHAPE)))


@pytest.mark.parametrize("strategy", ["", "none", "color_", "Color", "color crop", "color_zoom"])
def test_unknown_operations_are_refused(strategy):
    with pytest.raises(ConfigError, match=r"must be one or more of color, crop, .* joined by '_', got '"):
        dsa.draw(strategy, gen(), None, SHAPE)
    with pytest.raises(ConfigError, match="joined by"):
        dsa.per_image(strategy)


def test_parameters_for_another_batch_are_refused():
    with pytest.raises(DataError, match=r"drawn for 3 images cannot be applied to 4"):
        dsa.apply(images(4), dsa.draw("crop", gen(), 3, SHAPE))
