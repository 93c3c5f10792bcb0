"""The two ConvNets of the field.

`ConvNet` is the network of Gidaris & Komodakis 2018 as Zhao, Mopuri & Bilen, "Dataset Condensation with Gradient
Matching", ICLR 2021, and everybody after them use it. `FRePoConvNet` is the one of Zhou, Nezhadarya & Ba, "Dataset
Distillation using Neural Feature Regression", NeurIPS 2022.

Deviations from the authors' networks:

1. Padding 3 in the first convolution (28 -> 32 pixels) is for images of 1x28x28 only. DC's code pads every grey image,
   and then has a classifier of the wrong size at other resolutions.
2. FRePo's BatchNorm is PyTorch's: the running variance takes the unbiased batch variance, flax's the biased one.
   They differ by n/(n-1), n being the pixels of a channel in a batch: 0.05 % at 10 images of 14x14.
"""

from __future__ import annotations

from typing import Protocol

from torch import nn

from raydd.errors import ConfigError
from raydd.nets.layers import GROUPS, BlockNet, NetConfig, norm, relu

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
    "swish": nn.SiLU,
}
POOLINGS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
NORMS = ("none", "batch", "layer", "instance", "group")


class BlockNetConfig(NetConfig, Protocol):
    """What these networks need to know of the config's `net` section."""

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def depth(self) -> int | str: ...  # noqa: D102
    @property
    def norm(self) -> str: ...  # noqa: D102
    @property
    def act(self) -> str: ...  # noqa: D102
    @property
    def pool(self) -> str: ...  # noqa: D102


class ConvNet(BlockNet):
    """ConvNet of the DC family: `depth` blocks of 3x3 convolution, norm, activation and 2x2 pooling.

    320,010 parameters for 10 classes of 3x32x32 images at width 128 and depth 3.

    Args:
        net: See `raydd.nets.build`.
        shape: Channels, height, width of an image.
        num_classes: Number of logits.

    Raises:
        ConfigError: Width, depth or norm is impossible for images of this shape.
    """

    init_law = "torch"

    def __init__(self, net: BlockNetConfig, shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        depth = _check(net, shape)
        channels, height, width = shape
        layers: list[nn.Module] = []
        for i in range(depth):
            pad = 3 if i == 0 and shape == (1, 28, 28) else 1
            height, width = height + 2 * (pad - 1), width + 2 * (pad - 1)
            layers.append(nn.Conv2d(channels, net.width, 3, padding=pad))
            channels = net.width
            layers += norm(net.norm, (channels, height, width))
            layers += [_activation(net.act), *_pooling(net.pool)]
            height, width = _pooled(net.pool, height, width)
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * width, num_classes)


class FRePoConvNet(BlockNet):
    """ConvNet of FRePo: norm (not in the first block), 3x3 convolution to width * 2^i, activation, 2x2 pooling.

    BatchNorm forgets fast: flax's momentum 0.1, `running = 0.1 * old + 0.9 * batch`, is PyTorch's momentum 0.9.
    The evaluation network is the same with norm "none". 1,561,610 parameters for 10 classes of 3x32x32 images at
    width 128 and depth 3.

    Args:
        net: See `raydd.nets.build`; `width` is that of the first block.
        shape: Channels, height, width of an image.
        num_classes: Number of logits.

    Raises:
        ConfigError: Width, depth or norm is impossible for images of this shape.
    """

    init_law = "lecun"

    def __init__(self, net: BlockNetConfig, shape: tuple[int, int, int], num_classes: int):
        super().__init__()
        depth = _check(net, shape)
        channels, height, width = shape
        layers: list[nn.Module] = []
        for i in range(depth):
            if i > 0:
                layers += norm(net.norm, (channels, height, width), momentum=0.9)
            layers.append(nn.Conv2d(channels, net.width * 2**i, 3, padding=1))
            channels = net.width * 2**i
            layers += [_activation(net.act), *_pooling(net.pool)]
            height, width = _pooled(net.pool, height, width)
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * width, num_classes)


def _check(net: BlockNetConfig, shape: tuple[int, int, int]) -> int:
    """Return the depth as a number, once width, depth and the choices are possible for images of this shape."""
    choices = (("norm", net.norm, NORMS), ("act", net.act, ACTIVATIONS), ("pool", net.pool, ("none", *POOLINGS)))
    for key, value, allowed in choices:
        if value not in allowed:
            raise ConfigError(f"net.{key} must be one of {', '.join(allowed)}, got {value!r}")
    if net.width < 1 or (net.norm == "group" and net.width % GROUPS):
        rule = f"a multiple of {GROUPS} with net.norm group" if net.norm == "group" else ">= 1"
        raise ConfigError(f"net.width must be {rule}, got {net.width}")
    if not isinstance(net.depth, int) or net.depth < 1:
        raise ConfigError(f"net.depth must be a number >= 1, got {net.depth!r}")
    size = min(shape[1:])
    if net.pool != "none" and size >> net.depth == 0:
        most = size.bit_length() - 1
        remedy = "lower it or set net.pool to none" if most else "set net.pool to none"
        raise ConfigError(
            f"net.depth must be <= {most} for images of {size} pixels, got {net.depth}: each one halves them; {remedy}"
        )
    return net.depth


def _activation(name: str) -> nn.Module:
    return relu() if name == "relu" else ACTIVATIONS[name]()


def _pooling(name: str) -> list[nn.Module]:
    return [] if name == "none" else [POOLINGS[name](2)]


def _pooled(name: str, height: int, width: int) -> tuple[int, int]:
    return (height, width) if name == "none" else (height // 2, width // 2)
