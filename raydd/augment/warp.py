"""Geometric operations as fixed linear operators: which pixels are read, with which weights.

`grid_sample` and `interpolate` are not used, since their backward has no deterministic form on CUDA. That of `gather`
has one, and is deterministic on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def take(x: Tensor, ys: Tensor, xs: Tensor) -> Tensor:
    """Read whole pixels; those outside of the image are zero.

    Args:
        x: Images `(N, C, H, W)`.
        ys: Row read by each output pixel, int64, broadcastable to `(R, H, W)` with R = 1 (for all images) or N.
        xs: Column, likewise.

    Returns:
        Images `(N, C, H, W)`.
    """
    height, width = x.shape[-2:]
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    index = (ys.clamp(0, height - 1) * width + xs.clamp(0, width - 1)).flatten(1)
    flat = x.flatten(2)
    pixels = flat.gather(2, index[:, None].expand(flat.shape))
    return pixels.view(x.shape) * inside[:, None].to(x.dtype)


def bilinear(x: Tensor, ys: Tensor, xs: Tensor, *, edge: bool = False) -> Tensor:
    """Read between pixels, bilinearly.

    Args:
        x: Images `(N, C, H, W)`.
        ys: Row in pixels, 0 being the centre of the first, read by each output pixel: floats,
            broadcastable to `(R, H, W)` with R = 1 (for all images) or N.
        xs: Column, likewise.
        edge: Outside of the image, read the nearest pixel of its edge instead of zero.

    Returns:
        Images `(N, C, H, W)`.
    """
    height, width = x.shape[-2:]
    if edge:
        ys, xs = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
    top, left = ys.floor(), xs.floor()
    down, right = ys - top, xs - left
    row, column = top.long(), left.long()
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for dy, wy in ((0, 1 - down), (1, down)):
        for dx, wx in ((0, 1 - right), (1, right)):
            total = total + take(x, row + dy, column + dx) * (wy * wx)[:, None]
    return total


def affine(x: Tensor, matrix: Tensor, shift: Tensor | None = None, *, edge: bool = False) -> Tensor:
    """Warp images by the map from an output pixel to the place that it is read from.

    Places are in the coordinates of `align_corners=True`: -1 is the centre of the first pixel of an axis, 1 that of the
    last. The place read by output pixel (x, y) is `matrix @ (x, y) + shift`.

    Args:
        x: Images `(N, C, H, W)`.
        matrix: `(R, 2, 2)` with R = 1 (for all images) or N; first row and column are the horizontal axis.
        shift: `(R, 2)`, horizontal first; none is zero.
        edge: As in `bilinear`.

    Returns:
        Images `(N, C, H, W)`.
    """
    height, width = x.shape[-2:]
    grid_y = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)[:, None]
    grid_x = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)[None, :]
    m = matrix[:, :, :, None, None]
    xs = m[:, 0, 0] * grid_x + m[:, 0, 1] * grid_y
    ys = m[:, 1, 0] * grid_x + m[:, 1, 1] * grid_y
    if shift is not None:
        xs, ys = xs + shift[:, 0, None, None], ys + shift[:, 1, None, None]
    return bilinear(x, (ys + 1) * ((height - 1) / 2), (xs + 1) * ((width - 1) / 2), edge=edge)


def rotate(x: Tensor, degrees: Tensor, *, edge: bool = False) -> Tensor:
    """Rotate images `(N, C, H, W)` about their centre by `degrees` `(R,)`, R = 1 (for all) or N; see `affine`."""
    angle = degrees * (math.pi / 180)
    matrix = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    return affine(x, matrix, edge=edge)


def flip(x: Tensor, chosen: Tensor) -> Tensor:
    """Mirror, left to right, those of the images `(N, C, H, W)` whose `chosen` is true: `(R,)`, R = 1 or N."""
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def erase(x: Tensor, top: Tensor, left: Tensor, sides: tuple[int, int]) -> Tensor:
    """Set a rectangle of each image to zero; what of it sticks out of the image lands on the border.

    Args:
        x: Images `(N, C, H, W)`.
        top: First row of the rectangle, int64 `(R,)`, R = 1 (for all images) or N.
        left: First column, likewise.
        sides: Height and width of the rectangle, >= 1.
    """
    hole = _span(top, sides[0], x.shape[2])[:, :, None] & _span(left, sides[1], x.shape[3])[:, None, :]
    return x * (~hole)[:, None].to(x.dtype)


def _span(first: Tensor, side: int, size: int) -> Tensor:
    """Mark the pixels, of `size` in a row, that are in the hole: bool `(R, size)`."""
    pixel, first = torch.arange(size, device=first.device)[None], first[:, None]
    return (pixel >= first.clamp(0, size - 1)) & (pixel <= (first + side - 1).clamp(0, size - 1))
