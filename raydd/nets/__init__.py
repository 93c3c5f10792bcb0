"""The field's networks: a module says the shape of the computation, a `NetState` holds the numbers.

A network is built on the meta device, so that building it costs nothing and draws nothing; `initialise` gives it
numbers from a keyed generator; `apply` runs it. Third parties announce networks by the entry-point group `raydd.nets`:
a callable `(net config, image shape, number of classes) -> module` whose module's `forward(x, features=False)` returns
logits, or the flattened input of the classifier. All of its parameters belong to convolutions, linear layers and norms, which
`initialise` knows how to draw.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import torch
from torch import nn

from raydd.errors import ConfigError
from raydd.nets.classic import MLP, VGG11, AlexCifarNet, AlexNet, LeNet
from raydd.nets.convnet import ConvNet, FRePoConvNet
from raydd.nets.layers import NetConfig
from raydd.nets.resnet import ResNet18
from raydd.nets.state import NetState, apply, compute_in, computing_in, fresh_buffers, initialise

__all__ = [
    "NETS",
    "NetConfig",
    "NetState",
    "apply",
    "available",
    "build",
    "compute_in",
    "computing_in",
    "fresh_buffers",
    "initialise",
]

GROUP = "raydd.nets"

NETS: dict[str, str] = {
    "convnet": "ConvNet of DC, DSA and DM: blocks of 3x3 convolution, norm, activation, 2x2 pooling; constant width",
    "frepo_convnet": "ConvNet of FRePo: norm before the convolution and none in the first block; width doubles",
    "mlp": "MLP of DC: two hidden layers of 128 with ReLU",
    "lenet": "LeNet-5 of DD and DC: ReLU, max pooling",
    "alexnet": "AlexNet of DC for small images, with batch norm its AlexNetBN; RTP's with instance norm and average pooling",
    "alexcifarnet": "AlexCifarNet of DD: two 5x5 convolutions with local response norm, Xavier initialisation",
    "vgg11": "VGG11 of DC with instance or batch norm, one linear layer on 512 features",
    "resnet18": "ResNet18 of DC: CIFAR stem, instance or batch norm, global average",
    "resnet18_ap": "ResNet18 of DC for learning images: average pooling in place of strides, no global average",
}

Builder = Callable[[Any, tuple[int, int, int], int], nn.Module]
_BUILDERS: dict[str, Builder] = {
    "convnet": ConvNet,
    "frepo_convnet": FRePoConvNet,
    "mlp": MLP,
    "lenet": LeNet,
    "alexnet": AlexNet,
    "alexcifarnet": AlexCifarNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "resnet18_ap": ResNet18,
}


def available() -> dict[str, str]:
    """Return the name and one-line description of every network, announced ones included; imports none of them."""
    announced = {point.name: f"announced by {point.value}" for point in entry_points(group=GROUP)}
    return {**announced, **NETS}


def build(net: NetConfig, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the network that `net` describes, on the meta device: no memory, no random draw.

    Args:
        net: Its section of a config: the name, and the network's own choices.
        shape: Channels, height and width of an image, all >= 1.
        num_classes: Number of logits.

    Returns:
        A module whose parameters have shapes but no numbers; `initialise` makes those.

    Raises:
        ConfigError: The name is unknown, or its choices are impossible for images of this shape.
    """
    with torch.device("meta"):
        return _builder(net.name)(net, shape, num_classes)


def _builder(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    raise ConfigError(f"net.name must be one of {', '.join(available())}, got {name!r} (see `raydd nets`)")
