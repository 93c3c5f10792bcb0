"""Networks of one kind folded into one wide network.

R networks become one: network r has channels r * C to (r + 1) * C of every map, convolutions have R groups, and norms,
activations and poolings do not mind. Every tensor of the folded network is those of its networks one behind the other, so
optimisers need not know. Only modules whose folded form is known are folded; what a foreign `forward` does to its channels
cannot be seen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydd.nets import NetState
from raydd.nets.classic import MLP, VGG11, AlexCifarNet, AlexNet, LeNet
from raydd.nets.convnet import ConvNet, FRePoConvNet
from raydd.nets.instance import InstanceNorm
from raydd.nets.layers import GlobalAverage, LocalResponseNorm
from raydd.nets.resnet import Residual, ResNet18


def fold_images(x: Tensor) -> Tensor:
    """Return images of networks `(R, n, C, H, W)` as maps of the folded one, `(n, R * C, H, W)`."""
    return x.transpose(0, 1).flatten(1, 2)


def fold_states(states: Sequence[NetState]) -> NetState:
    """Return the numbers of a folded network; kernels in the usual memory format, which suits many groups."""

    def join(tensors: list[Tensor]) -> Tensor:
        # BatchNorm's count of batches is one number, the same for networks that train side by side.
        return torch.cat(tensors).contiguous() if tensors[0].ndim else tensors[0].clone()

    def all_of(named: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: join([one[name].detach() for one in named]) for name in named[0]}

    return NetState(all_of([state.params for state in states]), all_of([state.buffers for state in states]))


def unfold_states(state: NetState, count: int) -> list[NetState]:
    """Return the numbers of each network of a folded one, with kernels in channels_last memory format."""

    def part(named: dict[str, Tensor], place: int) -> dict[str, Tensor]:
        return {name: (t.chunk(count)[place] if t.ndim else t).clone() for name, t in named.items()}

    return [NetState(part(state.params, r), part(state.buffers, r)).channels_last() for r in range(count)]


def fold(module: nn.Module, count: int) -> nn.Module | None:
    """Return the network that `count` of `module` are side by side, on the meta device; None where that is not known.

    It takes images `(n, count * C, H, W)` and gives logits `(n, count * classes)`, network after network. Parameters
    and buffers have the names of the module's, and `count` times their first dimension.
    """
    kind = type(module)
    if kind in _SAME:
        return module
    if kind in _WIDER:
        return _widen(module, count)
    if kind in _OTHERS:
        return _OTHERS[kind](module, count)
    if kind not in _CONTAINERS:
        return None
    wide = copy.copy(module)
    wide._modules = {}
    for name, child in module.named_children():
        folded = fold(child, count)
        if folded is None:
            return None
        wide.add_module(name, folded)
    return wide


def _widen(layer: nn.Module, count: int) -> nn.Module:
    wide = copy.copy(layer)
    wide._parameters = {name: nn.Parameter(_times(p, count)) for name, p in layer.named_parameters()}
    wide._buffers = {name: _times(buffer, count) for name, buffer in layer.named_buffers()}
    for name in _WIDER[type(layer)]:
        setattr(wide, name, count * getattr(layer, name))
    return wide


def _times(tensor: Tensor, count: int) -> Tensor:
    # Not by `cat` or `repeat`: on the meta device those import torch's compiler, which takes seconds.
    shape = (count * tensor.shape[0], *tensor.shape[1:]) if tensor.ndim else ()
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


class GroupConv(nn.Module):
    """Convolutions side by side: maps `(n, count * inputs, H, W)` to `(n, count * outputs, H', W')`."""

    def __init__(self, conv: nn.Conv2d, count: int) -> None:
        super().__init__()
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups * count
        self.weight = nn.Parameter(_times(conv.weight, count))
        self.bias = None if conv.bias is None else nn.Parameter(_times(conv.bias, count))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each convolution to the maps of its own network."""
        # cuDNN has slow kernels for many groups of few channels, cuBLAS none for many products of matrices.
        if x.is_cuda and set(self.stride) == {1}:
            return GroupProduct.apply(x, self.weight, self.bias, self.padding, self.groups)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)


class GroupProduct(torch.autograd.Function):
    """A convolution of stride 1 with groups, as a product of matrices a group; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], groups: int
    ) -> Tensor:
        """Return what `conv2d` does."""
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.groups = padding, groups
        return _convolve(x, weight, bias, padding, groups)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of images, kernels and biases."""
        (grad,), (x, weight) = grads, ctx.saved_tensors
        groups, kernel = ctx.groups, weight.shape[2:]
        by_group = grad.unflatten(1, (groups, -1)).permute(1, 2, 0, 3, 4).flatten(2)
        # Again, since kept from the forward pass they would take nine times the memory of the maps.
        columns = _columns(x, kernel, ctx.padding, groups)
        given = torch.bmm(by_group, columns.transpose(1, 2)).view_as(weight)
        back = None
        if ctx.needs_input_grad[0]:
            turned = weight.unflatten(0, (groups, -1)).flip(3, 4).transpose(1, 2).flatten(0, 1)
            rest = (kernel[0] - 1 - ctx.padding[0], kernel[1] - 1 - ctx.padding[1])
            back = _convolve(grad, turned, None, rest, groups)
        return back, given, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int], groups: int) -> Tensor:
    (height, width), kernel = x.shape[2:], weight.shape[2:]
    size = (height + 2 * padding[0] - kernel[0] + 1, width + 2 * padding[1] - kernel[1] + 1)
    product = torch.bmm(weight.flatten(1).unflatten(0, (groups, -1)), _columns(x, kernel, padding, groups))
    maps = product.unflatten(2, (len(x), *size)).permute(2, 0, 1, 3, 4)
    out = x.new_empty(len(x), len(weight), *size)
    # The bias is added on the way into the order of images, which is a copy anyway.
    shift = 0 if bias is None else bias.view(groups, -1, 1, 1)
    torch.add(maps, shift, out=out.unflatten(1, (groups, -1)))
    return out


def _columns(x: Tensor, kernel: Sequence[int], padding: tuple[int, int], groups: int) -> Tensor:
    """Return what each place of a kernel sees, `(groups, C * kh * kw, n * H' * W')`, of maps `(n, groups * C, H, W)`.

    Padding may be negative, which crops.
    """
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    seen = padded.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1).unflatten(1, (groups, -1))
    return seen.permute(1, 2, 5, 6, 0, 3, 4).flatten(4).flatten(1, 3)


class GroupLinear(nn.Module):
    """Linear layers side by side: features `(n, count * inputs)` to `(n, count * outputs)`."""

    def __init__(self, linear: nn.Linear, count: int) -> None:
        super().__init__()
        self.count = count
        self.weight = nn.Parameter(_times(linear.weight, count))
        self.bias = nn.Parameter(_times(linear.bias, count))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each layer to its own features."""
        each = x.unflatten(1, (self.count, -1)).transpose(0, 1)
        weight = self.weight.unflatten(0, (self.count, -1)).transpose(1, 2)
        return torch.baddbmm(self.bias.view(self.count, 1, -1), each, weight).transpose(0, 1).flatten(1)


class GroupLayerNorm(nn.Module):
    """Layer norms side by side: each normalises the maps of its network together."""

    def __init__(self, layer: nn.LayerNorm, count: int) -> None:
        super().__init__()
        self.count, self.eps = count, layer.eps
        self.weight = nn.Parameter(_times(layer.weight, count))
        self.bias = nn.Parameter(_times(layer.bias, count))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(n, count * C, H, W)`; same shape."""
        each = x.unflatten(1, (self.count, -1))
        return F.layer_norm(each, each.shape[2:], eps=self.eps).flatten(1, 2) * self.weight + self.bias


class Apart(nn.Module):
    """A layer without numbers that looks across channels, applied to the maps of each network apart."""

    def __init__(self, layer: nn.Module, count: int) -> None:
        super().__init__()
        self.layer, self.count = layer, count

    def forward(self, x: Tensor) -> Tensor:
        """Apply it to `(n, count * C, H, W)`."""
        each = self.layer(x.unflatten(1, (self.count, -1)).flatten(0, 1))
        return each.unflatten(0, (-1, self.count)).flatten(1, 2)


def _instance_norm(layer: InstanceNorm, count: int) -> nn.Module:
    # The form of two derivatives takes more passes over the maps than PyTorch's of one, which is all that training needs.
    channels = count * layer.num_channels
    return nn.GroupNorm(channels, channels, eps=layer.eps, device="meta")


_SAME = {nn.ReLU, nn.Sigmoid, nn.LeakyReLU, nn.SiLU, nn.MaxPool2d, nn.AvgPool2d, nn.Flatten, GlobalAverage}
# What of a layer counts its channels; it is multiplied.
_WIDER: dict[type, tuple[str, ...]] = {
    nn.GroupNorm: ("num_groups", "num_channels"),
    nn.BatchNorm2d: ("num_features",),
}
_OTHERS: dict[type, Callable[[Any, int], nn.Module]] = {
    nn.Conv2d: GroupConv,
    nn.Linear: GroupLinear,
    nn.LayerNorm: GroupLayerNorm,
    InstanceNorm: _instance_norm,
    LocalResponseNorm: Apart,
}
_CONTAINERS = {nn.Sequential, ConvNet, FRePoConvNet, MLP, LeNet, AlexNet, AlexCifarNet, VGG11, ResNet18, Residual}
