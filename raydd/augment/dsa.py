"""Differentiable Siamese Augmentation.

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, Section 3.3 and the
authors' code in its mode "S": one operation is drawn uniformly and applied to the whole batch. Siamese: the same
operation with one set of parameters for all images, of the real batch and of the synthetic one. When a network is
trained each image has parameters of its own.

Scale and rotate are about the centre of a square, where both values of grid_sample's `align_corners`, and so the torch
releases whose defaults differ, give the same places.

Deviations from the authors' code: draws come from the generator given, not from a global one reseeded with the clock.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.augment import warp
from raydd.augment.params import Params, choose, parse, rows, uniform

OPS = ("color", "crop", "cutout", "flip", "scale", "rotate")


def draw(strategy: str, gen: torch.Generator, count: int | None, shape: tuple[int, int, int]) -> Params:
    """Draw one operation of the strategy and its parameters.

    Args:
        strategy: Operations joined by "_", such as "color_crop_cutout_flip_scale_rotate".
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


def _draw_color(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    brightness, saturation = uniform(gen, n, -0.5, 0.5), uniform(gen, n, 0.0, 2.0)
    return {"brightness": brightness, "saturation": saturation, "contrast": uniform(gen, n, 0.5, 1.5)}


def _draw_crop(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    most_y, most_x = int(0.125 * height + 0.5), int(0.125 * width + 0.5)
    y = torch.randint(-most_y, most_y + 1, (n,), generator=gen)
    return {"y": y, "x": torch.randint(-most_x, most_x + 1, (n,), generator=gen)}


def _draw_cutout(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    # A hole of even side may be centred on the far border as well, one of odd side may not.
    y = torch.randint(0, height + 1 - _hole(height) % 2, (n,), generator=gen)
    return {"y": y, "x": torch.randint(0, width + 1 - _hole(width) % 2, (n,), generator=gen)}


def _draw_flip(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    return {"flip": torch.rand(n, generator=gen) < 0.5}


def _draw_scale(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    x = uniform(gen, n, 1 / 1.2, 1.2)
    return {"x": x, "y": uniform(gen, n, 1 / 1.2, 1.2)}


def _draw_rotate(gen: torch.Generator, n: int, height: int, width: int) -> dict[str, Tensor]:
    return {"degrees": uniform(gen, n, -15.0, 15.0)}


def _color(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    brightness, saturation, contrast = (p[k][:, None, None, None] for k in ("brightness", "saturation", "contrast"))
    x = x + brightness
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * saturation + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * contrast + mean


def _crop(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    ys = torch.arange(x.shape[2], device=x.device)[None, :, None] + p["y"][:, None, None]
    xs = torch.arange(x.shape[3], device=x.device)[None, None, :] + p["x"][:, None, None]
    return warp.take(x, ys, xs)


def _cutout(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    sides = (_hole(x.shape[2]), _hole(x.shape[3]))
    return warp.erase(x, p["y"] - sides[0] // 2, p["x"] - sides[1] // 2, sides)


def _flip(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return warp.flip(x, p["flip"])


def _scale(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return warp.affine(x, torch.diag_embed(torch.stack((p["x"], p["y"]), 1)))


def _rotate(x: Tensor, p: dict[str, Tensor]) -> Tensor:
    return warp.rotate(x, p["degrees"])


def _hole(size: int) -> int:
    return int(0.5 * size + 0.5)


_DRAW: dict[str, Callable[[torch.Generator, int, int, int], dict[str, Tensor]]] = {
    "color": _draw_color,
    "crop": _draw_crop,
    "cutout": _draw_cutout,
    "flip": _draw_flip,
    "scale": _draw_scale,
    "rotate": _draw_rotate,
}
_APPLY: dict[str, Callable[[Tensor, dict[str, Tensor]], Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}
