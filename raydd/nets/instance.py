"""Instance norm whose derivatives take as few passes over the maps as they can.

PyTorch's `native_group_norm` is quick forward, but on the CPU its backward goes through channels_last maps number by
number, and its second derivative is composed of dozens of full passes. Here both are written out: with M pixels a map,
mean m, r = 1 / sqrt(variance + eps), h = r (x - m) and P(g) = g - mean(g) - h mean(g h) for each image and channel,

    y = w h + b,    dx = w r P(g),    dw = sum of g h,    db = sum of g,

and the derivatives of <v, dx> + <v_w, dw> + <v_b, db>, with u = w r, a = mean(v h), c = mean(g h), q = (v_w - u a) g - u c v,

    by g: u P(v) + v_w h + v_b,    by w: sum of r <v, P(g)>,    by x: r P(q) - h u r <v, P(g)> / M.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function

_PIXELS = (2, 3)


class InstanceNorm(nn.GroupNorm):
    """Affine instance norm without running statistics: `GroupNorm` of one channel a group.

    Differentiable any number of times, also under `torch.func`'s transforms.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise each map of `(N, C, H, W)`; same shape, float32 for a half precision."""
        if input.dtype in (torch.bfloat16, torch.float16):
            input = input.float()
        if not torch.is_grad_enabled():
            # The same kernel, without what autograd does in Python at each call.
            return _Norm.forward(input, self.weight, self.bias, self.eps)[0]
        return _Norm.apply(input, self.weight, self.bias, self.eps)[0]


class _Norm(Function):
    """(x `(N, C, H, W)`, w `(C,)`, b `(C,)`, eps) -> (y, m `(N, C)`, r `(N, C)`)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        n, c, height, width = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, height * width, c, eps)
        return y, mean, rstd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, _, _ = inputs
        _, mean, rstd = output
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.eps = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return *_Slope.apply(grad_outputs[0], *ctx.saved_tensors, ctx.eps), None


class _Slope(Function):
    """(g, x, w, m, r, eps) -> (dx, dw, db); m and r are functions of x, and what they contribute counts as x's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        pixels = x.shape[2] * x.shape[3]
        u, by_g = weight * rstd, g.sum(_PIXELS)
        by_h = _along(g, x, by_g, mean, rstd)
        by_x = -u * rstd * by_h / pixels
        dx = _plus(_affine(by_x, x, -u * by_g / pixels - by_x * mean), u, g)
        return dx, by_h.sum(0), by_g.sum(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:5])
        ctx.eps = inputs[5]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        v, v_weight, v_bias = grad_outputs
        g, x, weight, mean, rstd = ctx.saved_tensors
        if torch.is_grad_enabled():
            # For a derivative beyond the second these must be functions of x.
            variance, mean = torch.var_mean(x, _PIXELS, correction=0)
            rstd = (variance + ctx.eps).rsqrt()
        pixels = x.shape[2] * x.shape[3]
        u, sum_v, sum_g = weight * rstd, v.sum(_PIXELS), g.sum(_PIXELS)
        a = _along(v, x, sum_v, mean, rstd) / pixels
        c = _along(g, x, sum_g, mean, rstd) / pixels
        mean_v, mean_g = sum_v / pixels, sum_g / pixels
        projected = (v * g).sum(_PIXELS) / pixels - mean_v * mean_g - a * c
        by_h = v_weight - u * a
        dg = _plus(_affine(by_h * rstd, x, v_bias - u * mean_v - by_h * rstd * mean), u, v)
        by_x = rstd * rstd * (u * a * c - by_h * c - u * projected)
        shift = rstd * (u * c * mean_v - by_h * mean_g) - by_x * mean
        dx = _plus(_plus(_affine(by_x, x, shift), rstd * by_h, g), -rstd * u * c, v)
        return dg, dx, (rstd * projected).sum(0) * pixels, None, None, None


def _map(t: Tensor) -> Tensor:
    return t[:, :, None, None]


def _affine(scale: Tensor, x: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(_map(shift), _map(scale), x)


def _plus(total: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    # Not in place, for which vmap has no rule.
    return torch.addcmul(total, _map(scale), x)


def _along(t: Tensor, x: Tensor, total: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Return the sum of t h over each map, given that of t."""
    return rstd * ((t * x).sum(_PIXELS) - total * mean)
