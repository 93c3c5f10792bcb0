"""Coresets: sets of real images, chosen rather than learned. They have no rounds.

Random: `ipc` real images a class without replacement, the baseline of every paper (for example Zhao et al., "Dataset
Condensation with Gradient Matching", ICLR 2021, Table 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raydd.config import RandomConfig
from raydd.methods.base import Contribution, Method, Slot, Tensors


class Random(Method[RandomConfig]):
    """Random real images."""

    def all_slots(self) -> tuple[Slot, ...]:
        """Return no slot: nothing is learned."""
        return ()

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Fail: there is no slot."""
        raise NotImplementedError("a coreset has no rounds")

    def init(self, x_real: Tensor) -> Tensors:
        """Return the chosen images; see the base class."""
        return {"x_syn": x_real.clone()}

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return nothing: there is no optimiser."""
        return {}

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: Any, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Fail: there is no slot."""
        raise NotImplementedError("a coreset has no rounds")

    def reduce(self, variables: Tensors, contributions: Sequence[Contribution]) -> Tensors:
        """Return nothing to change."""
        return {}

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Return the variables as they are."""
        return variables, optimiser

    def distilled(self, variables: Tensors) -> Tensors:
        """Return the images with their labels, class by class."""
        labels = torch.arange(self.problem.facts.num_classes).repeat_interleave(self.config.ipc)
        return {"images": variables["x_syn"], "labels": labels}
