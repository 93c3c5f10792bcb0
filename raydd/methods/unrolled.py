"""What DD and RTP have in common: a slot is one sampled network, trained and walked back through; gradients are averaged."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from raydd.config.methods.unrolled import UnrolledConfig
from raydd.methods.base import Method, Slot, Tensors

Config = TypeVar("Config", bound=UnrolledConfig)


class Unrolled(Method[Config]):
    """A method whose gradient goes through the whole training of sampled networks."""

    def all_slots(self) -> tuple[Slot, ...]:
        """Return one slot a network of the round."""
        return tuple(Slot(index) for index in range(self.config.inits_per_round))


def clip(gradients: Tensors, most: float) -> Tensors:
    """Return gradients shortened to `most` where they are longer, by their norm over all tensors together."""
    norm = torch.stack([value.square().sum() for value in gradients.values()]).sum().sqrt()
    share: Tensor = (most / (norm + 1e-6)).clamp(max=1)
    return {name: value * share for name, value in gradients.items()}
