"""The field's networks: a module says the shape of the computation, a `NetState` holds the numbers.

A network is built on the meta device, so that building it costs nothing and draws nothing; `initialise` gives it
numbers from a keyed generator; `apply` runs it. Third parties announce networks by the entry-point group `raydd.nets`:
a callable `(net config, image shape, number of classes) -> module` whose module's `forward(x, features=False)` returns
logits, or the flattened input of the classifier.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import torch
from torch import nn

from raydd.errors import ConfigError
from raydd.nets.convnet import ConvNet, FRePoConvNet, NetConfig
from raydd.nets.state import NetState, apply, initialise

__all__ = ["NETS", "NetConfig", "NetState", "apply", "available", "build", "initialise"]

GROUP = "raydd.nets"

NETS: dict[str, str] = {
    "convnet": "ConvNet of DC, DSA and DM: blocks of 3x3 convolution, norm, activation, 2x2 pooling; constant width",
    "frepo_convnet": "ConvNet of FRePo: norm before the convolution and none in the first block; width doubles",
}

Builder = Callable[[NetConfig, tuple[int, int, int], int], nn.Module]
_BUILDERS: dict[str, Builder] = {"convnet": ConvNet, "frepo_convnet": FRePoConvNet}


def available() -> dict[str, str]:
    """Return the name and one-line description of every network, announced ones included; imports none of them."""
    announced = {point.name: f"announced by {point.value}" for point in entry_points(group=GROUP)}
    return {**announced, **NETS}


def build(net: NetConfig, shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Build the network that `net` describes, on the meta device: no memory, no random draw.

    Args:
        net: Name, width, depth, norm, activation and pooling.
        shape: Channels, height and width of an image, all >= 1.
        num_classes: Number of logits.

    Returns:
        A module whose parameters have shapes but no numbers; `initialise` makes those.

    Raises:
        ConfigError: The name is unknown, or width, depth or norm is impossible for images of this shape.
    """
    with torch.device("meta"):
        return _builder(net.name)(net, shape, num_classes)


def _builder(name: str) -> Builder:
    if name in _BUILDERS:
        return _BUILDERS[name]
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    raise ConfigError(f"net.name must be one of {', '.join(available())}, got {name!r} (see `raydd nets`)")
