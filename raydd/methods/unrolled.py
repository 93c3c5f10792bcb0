"""What DD and RTP have in common: a slot is one sampled network, trained and walked back through; gradients are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from raydd.config.methods.unrolled import UnrolledConfig
from raydd.methods.base import Contribution, Method, Slot, Tensors

Config = TypeVar("Config", bound=UnrolledConfig)


class Unrolled(Method[Config]):
    """A method whose gradient goes through the whole training of sampled networks."""

    def all_slots(self) -> tuple[Slot, ...]:
        """Return one slot a network of the round."""
        return tuple(Slot(index) for index in range(self.config.inits_per_round))

    def reduce(self, variables: Tensors, contributions: Sequence[Contribution]) -> Tensors:
        """Average over networks, added in the order of slots."""
        total = {name: torch.zeros_like(value) for name, value in variables.items()}
        for contribution in contributions:
            for name, gradient in contribution.gradients.items():
                total[name] += gradient
        return {name: value / len(contributions) for name, value in total.items()}


def clip(gradients: Tensors, most: float) -> Tensors:
    """Return gradients shortened to `most` where they are longer, by their norm over all tensors together."""
    norm = torch.stack([value.square().sum() for value in gradients.values()]).sum().sqrt()
    share: Tensor = (most / (norm + 1e-6)).clamp(max=1)
    return {name: value * share for name, value in gradients.items()}
