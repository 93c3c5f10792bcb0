"""The initialisation of networks that DD trains, and is scored, with."""

from __future__ import annotations

import math

import torch
from torch import nn

from raydd.nets import NetState, initialise


def xavier_normal(module: nn.Module, gen: torch.Generator, device: torch.device | str = "cpu") -> NetState:
    """Draw a network whose weights are normal with variance `2 / (fan_in + fan_out)` and whose biases are zero.

    Glorot & Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010, as the code of
    Wang et al., "Dataset Distillation", 2018, uses it (gain 1). Norm layers start as the identity.

    Args:
        module: From `raydd.nets.build`; left as it is.
        gen: A CPU generator; it advances.
        device: Where the numbers go.
    """
    state = initialise(module, gen, device)
    for prefix, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prefix = f"{prefix}." if prefix else ""
            shape = layer.weight.shape
            deviation = math.sqrt(2 / ((shape[0] + shape[1]) * shape[2:].numel()))
            state.params[f"{prefix}weight"] = (torch.randn(shape, generator=gen) * deviation).to(device)
            if layer.bias is not None:
                state.params[f"{prefix}bias"] = torch.zeros(layer.bias.shape, device=device)
    return state
