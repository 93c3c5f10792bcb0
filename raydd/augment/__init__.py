"""Differentiable augmentation: parameters are drawn first (`draw`), then applied to any batch (`apply`).

`dsa` holds the operations of DSA, used by DSA, DM and MTT; `dc` and `frepo` those of DC's and FRePo's evaluation. They are
not interchangeable.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raydd.augment import dc, dsa, frepo
from raydd.augment.params import Params

__all__ = ["Params", "dc", "dsa", "frepo", "per_image"]


def per_image(text: str) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Return the augmentation that a text such as `dsa:color_crop` names, for training: parameters an image.

    Raises:
        ConfigError: It names an unknown operation.
    """
    family, _, operations = text.partition(":")
    return {"dc": dc, "dsa": dsa, "frepo": frepo}[family].per_image(operations)
