"""What the networks share: blocks under a linear classifier, the norms, and the padding of 28-pixel images."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from raydd.errors import ConfigError
from raydd.nets.instance import InstanceNorm

GROUPS = 4  # of norm "group", the DC family's GN


class NetConfig(Protocol):
    """What every network's config says: which one it is. The rest is between it and its module."""

    @property
    def name(self) -> str: ...  # noqa: D102


class BlockNet(nn.Module):
    """Blocks, and a linear classifier on their flattened output."""

    blocks: nn.Sequential
    classifier: nn.Linear

    def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor:
        """Return logits `(N, classes)`, or the classifier's input `(N, d)`, of images `x` `(N, C, H, W)`."""
        # flatten follows the logical (C, H, W) order, so that channels_last does not change the order of the features.
        flat = self.blocks(x).flatten(1)
        return flat if features else self.classifier(flat)


class LocalResponseNorm(nn.Module):
    """Divide by `(k + alpha / size * sum of squares of `size` neighbouring channels) ** beta`.

    The arithmetic of `torch.nn.LocalResponseNorm`, whose derivative has no deterministic form on CUDA.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise `(N, C, H, W)`; same shape."""
        squares = F.pad(x.square(), (0, 0, 0, 0, self.size // 2, (self.size - 1) // 2))
        total = squares[:, : x.shape[1]]
        for first in range(1, self.size):
            total = total + squares[:, first : first + x.shape[1]]
        return x / (self.k + self.alpha / self.size * total) ** self.beta


class GlobalAverage(nn.Module):
    """Mean of each map; `AdaptiveAvgPool2d`'s derivative has no deterministic form on CUDA."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Bring `(N, C, H, W)` to `(N, C)`."""
        return x.mean((2, 3))


def norm(name: str, shape: tuple[int, int, int], momentum: float = 0.1) -> list[nn.Module]:
    """Return the norm layer of maps of this shape (channels, height, width); nothing for "none"."""
    channels = shape[0]
    if name == "batch":
        return [nn.BatchNorm2d(channels, eps=1e-5, momentum=momentum)]
    if name == "layer":
        return [nn.LayerNorm(list(shape))]
    if name == "instance":
        # The DC family's "InstanceNorm": affine, and no running statistics.
        return [InstanceNorm(channels)]
    return [nn.GroupNorm(GROUPS, channels)] if name == "group" else []


def relu() -> nn.Module:
    """Return a ReLU in place: it saves a full-size map, and no layer in front of one needs its output again."""
    return nn.ReLU(inplace=True)


def pad28(shape: tuple[int, int, int]) -> int:
    """Return what the first convolution pads on top of its own padding: images of 28 pixels become 32."""
    return 2 if shape[1:] == (28, 28) else 0


def check_size(net: NetConfig, shape: tuple[int, int, int], least: int) -> None:
    """Refuse images that a network's pooling would leave nothing of.

    Raises:
        ConfigError: They have fewer than `least` pixels along an edge.
    """
    size = min(shape[1:])
    if size < least:
        raise ConfigError(
            f"net.name {net.name} takes images of at least {least} pixels, got {size}; "
            "choose another network or set data.size"
        )
