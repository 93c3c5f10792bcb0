"""The augmentation that FRePo's networks are evaluated with.

Zhou, Nezhadarya & Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, and the authors' code: one
operation is drawn uniformly for a batch, its parameters for each image; warps are bilinear and replicate the edge. Not
interchangeable with DSA.

The paper does not say how the crop's centre is drawn. Here the window of side size/zoom is placed uniformly where it
lies within the image, or, when it is the larger of the two (zoom < 1), where the image lies within it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from raydd.augment import warp
from raydd.augment.params import Params, choose, parse, rows, uniform

OPS = ("flip", "color", "crop", "rotate", "translate", "cutout")


def draw(strategy: str, gen: torch.Generator, count: int | None, shape: tuple[int, int, int]) -> Params:
    """Draw one operation of the strategy and its parameters.

    Args:
        strategy: Operations joined by "_", such as "flip_color_crop_rotate_translate_cutout"; no flip for handwriting.
        gen: CPU generator; it advances.
        count: A set of parameters for each of so many images; None for one that all images of any batch share.
        shape: Channels, height and width of an image.

    Raises:
        ConfigError: The strategy names an unknown operation.
    """
    op = choose(parse(strategy, OPS), gen)
    return Params(op, _DRAW[op](gen, 1 if count is None else count, shape[1], shape[2]))


def apply(x: Tensor, params: Params) -> Tensor:
    """Apply a drawn operation to images `x` `(N, C, H, W)`, normalised floats; differentiable in `x`.

    Raises:
        DataError: The parameters were drawn for another number of images.
    """
    return _APPLY[params.op](x, rows(x, params))


def per_image(strategy: str) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return the augmentation for training a network: an operation a batch, parameters an image."""
    parse(strategy, OPS)
    return lambda x, gen: apply(x, draw(strategy, gen, len(x), (x.shape[1], x.shape[2], x.shape[3])))


def _log_uniform(gen: torch.Generator, n: int, low: float, high: float) -> Tensor:
    return uniform(gen, n, math.log(low), math.log(high)).exp()


def _draw_flip(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    return {"flip": torch.rand(n, generator=gen) < 0.5}


def _draw_color(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    low, high = math.exp(-0.25), math.exp(0.25)
    brightness, contrast = uniform(gen, n, -0.25, 0.25), _log_uniform(gen, n, low, high)
    return {"brightness": brightness, "contrast": contrast, "saturation": _log_uniform(gen, n, low, high)}


def _draw_crop(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    zoom, x = _log_uniform(gen, n, 0.8, 1.25), uniform(gen, n, -1.0, 1.0)
    return {"zoom": zoom, "x": x, "y": uniform(gen, n, -1.0, 1.0)}


def _draw_rotate(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    return {"degrees": uniform(gen, n, -15.0, 15.0)}


def _draw_translate(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    x = uniform(gen, n, -0.125, 0.125)
    return {"x": x, "y": uniform(gen, n, -0.125, 0.125)}


def _draw_cutout(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    y = torch.randint(height - _hole(height) + 1, (n,), generator=gen)
    return {"y": y, "x": torch.randint(width - _hole(width) + 1, (n,), generator=gen)}


def _flip(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return warp.flip(x, p["flip"])


def _color(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    # Contrast is about the image's mean, saturation about each pixel's; the three commute.
    brightness, contrast, saturation = (p[k][:, None, None, None] for k in ("brightness", "contrast", "saturation"))
    x = x + brightness
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * contrast + mean
    mean = x.mean(1, keepdim=True)
    return (x - mean) * saturation + mean


def _crop(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    side = 1 / p["zoom"]
    room = (1 - side).abs()[:, None] * torch.stack((p["x"], p["y"]), 1)
    return warp.affine(x, side[:, None, None] * torch.eye(2, dtype=x.dtype, device=x.device), room, edge=True)


def _rotate(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return warp.rotate(x, p["degrees"], edge=True)


def _translate(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    height, width = x.shape[2:]
    ys = torch.arange(height, device=x.device)[None, :, None] + (p["y"] * height)[:, None, None]
    xs = torch.arange(width, device=x.device)[None, None, :] + (p["x"] * width)[:, None, None]
    return warp.bilinear(x, ys, xs, edge=True)


def _cutout(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return warp.erase(x, p["y"], p["x"], (_hole(x.shape[2]), _hole(x.shape[3])))


def _hole(size: int) -> int:
    return max(1, size // 4)


_DRAW: dict[str, Callable[[torch.Generator, int, int, int], dict[str, Tensor]]] = {
    "flip": _draw_flip,
    "color": _draw_color,
    "crop": _draw_crop,
    "rotate": _draw_rotate,
    "translate": _draw_translate,
    "cutout": _draw_cutout,
}
_APPLY: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
    "flip": _flip,
    "color": _color,
    "crop": _crop,
    "rotate": _rotate,
    "translate": _translate,
    "cutout": _cutout,
}
