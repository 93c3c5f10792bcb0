"""The augmentation that DC's networks are evaluated with on MNIST, and ConvNets with BatchNorm on any data set.

Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, and the authors' code: every image gets an
operation of its own, uniformly drawn. What a crop or a rotation uncovers is filled with the batch's mean, what a shrunk
image leaves with zero, the mean of all real images. Not interchangeable with DSA.

Deviations from the authors' code: draws come from the generator given; a rotation is bilinear, theirs a cubic spline.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.augment import warp
from raydd.augment.params import Params, parse, rows, uniform

OPS = ("crop", "scale", "rotate", "noise")

_PAD, _SCALE, _DEGREES, _NOISE = 4, 0.2, 45, 0.001


def draw(strategy: str, gen: torch.Generator, count: int, shape: tuple[int, int, int]) -> Params:
    """Draw an operation of the strategy, and the parameters of all, for each of `count` images.

    Args:
        strategy: Operations joined by "_", such as "crop_scale_rotate".
        gen: CPU generator; it advances.
        count: Number of images.
        shape: Channels, height and width of an image.

    Returns:
        Row i of `choice` is the place in `OPS` of image i's operation. `y`, `x`: the corner of the window in the image
        padded by 4 pixels, 0 to 7. `height`, `width`: the scaled image's, each 0.8 to 1.2 times the image's, cut to
        whole pixels. `degrees`: whole, -45 to 44. `noise`, where the strategy has it: float32 (count, *shape), N(0, 0.001).

    Raises:
        ConfigError: The strategy names an unknown operation.
    """
    ops = torch.tensor([OPS.index(op) for op in parse(strategy, OPS)])
    values = {"choice": ops[torch.randint(len(ops), (count,), generator=gen)]}
    values |= {axis: torch.randint(2 * _PAD, (count,), generator=gen) for axis in ("y", "x")}
    for side, pixels in (("height", shape[1]), ("width", shape[2])):
        values[side] = (uniform(gen, count, 1 - _SCALE, 1 + _SCALE) * pixels).long()
    values["degrees"] = torch.randint(-_DEGREES, _DEGREES, (count,), generator=gen).float()
    if "noise" in parse(strategy, OPS):
        values["noise"] = _NOISE * torch.randn(count, *shape, generator=gen)
    return Params(strategy, values)


def apply(x: Tensor, params: Params) -> Tensor:
    """Apply the operations drawn to images `x` `(N, C, H, W)`, normalised floats.

    Raises:
        DataError: The parameters were drawn for another number of images.
    """
    p = rows(x, params)
    mean = x.mean((0, 2, 3), keepdim=True)
    moved = (_crop(x - mean, p) + mean, _scale(x, p), warp.rotate(x - mean, p["degrees"]) + mean)
    choice = p["choice"][:, None, None, None]
    done = torch.where(choice == 0, moved[0], torch.where(choice == 1, moved[1], moved[2]))
    return torch.where(choice == OPS.index("noise"), x + p["noise"], done) if "noise" in p else done


def per_image(strategy: str) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return the augmentation for training a network: an operation and its parameters an image."""
    parse(strategy, OPS)
    return lambda x, gen: apply(x, draw(strategy, gen, len(x), (x.shape[1], x.shape[2], x.shape[3])))


def _crop(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    ys = torch.arange(x.shape[2], device=x.device)[None, :, None] + p["y"][:, None, None] - _PAD
    xs = torch.arange(x.shape[3], device=x.device)[None, None, :] + p["x"][:, None, None] - _PAD
    return warp.take(x, ys, xs)


def _scale(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Scale by the nearest pixel and take the middle of the image's size, of a canvas that holds both."""
    canvas = torch.maximum(p["height"], p["width"]).clamp(min=max(x.shape[2:]))
    ys = _nearest(p["height"], x.shape[2], canvas)[:, :, None]
    return warp.take(x, ys, _nearest(p["width"], x.shape[3], canvas)[:, None, :])


def _nearest(side: Tensor, pixels: int, canvas: Tensor) -> Tensor:
    """Return the pixel of an image of `pixels` that each place of the middle reads, int64 (n, pixels), or one outside."""
    start = (canvas - pixels) // 2 - (canvas - side) // 2
    place = torch.arange(pixels, device=side.device) + start[:, None]
    return (place * pixels).div(side[:, None], rounding_mode="floor")
