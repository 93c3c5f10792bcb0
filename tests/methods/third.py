"""A third party's methods, to show that they pass the battery by being registered: class means of pixels are matched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from raydd.config import MethodConfig, MethodSpec
from raydd.methods.base import Contribution, Method, Slot, Tensors, by_class


class PullConfig(MethodConfig):
    name: Literal["toy_pull"] = "toy_pull"
    lr_syn: float = 0.1


class Pull(Method[PullConfig]):
    def all_slots(self) -> tuple[Slot, ...]:
        return tuple(Slot(c, classes=(c,)) for c in range(self.problem.facts.num_classes))

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        return self.problem.round_ids("real", slot.classes[0], 4, round)

    def init(self, x_real: Tensor) -> Tensors:
        return {"x_syn": x_real.clone()}

    def optimiser(self, variables: Tensors) -> Tensors:
        return {}

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: Any, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        ipc = self.config.ipc
        gap = variables["x_syn"][slot.index * ipc : (slot.index + 1) * ipc].mean(0) - x_real.mean(0)
        gradient = (gap / ipc).expand(ipc, *gap.shape).contiguous()
        return Contribution(slot, {"x_syn": gradient}, {"loss": 0.5 * float(gap.square().sum())})

    def reduce(self, variables: Tensors, contributions: Sequence[Contribution]) -> Tensors:
        return {"x_syn": torch.cat([c.gradients["x_syn"] for c in contributions])}

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        return {"x_syn": variables["x_syn"] - self.config.lr_syn * gradients["x_syn"]}, optimiser

    def distilled(self, variables: Tensors) -> Tensors:
        labels = torch.arange(self.problem.facts.num_classes).repeat_interleave(self.config.ipc)
        return {"images": variables["x_syn"], "labels": labels}


class PullAllConfig(PullConfig):
    name: Literal["toy_pull_all"] = "toy_pull_all"
    lr_syn: float = 1e-9


class PullAll(Pull):
    """The same in one slot."""

    def all_slots(self) -> tuple[Slot, ...]:
        return (Slot(0),)

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        return torch.cat([self.problem.round_ids("real", c, 4, round) for c in range(self.problem.facts.num_classes)])

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: Any, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        ipc, means = self.config.ipc, torch.stack([x.mean(0) for x in by_class(x_real, y_real)])
        gap = variables["x_syn"].unflatten(0, (-1, ipc)).mean(1) - means
        gradient = (gap / ipc).repeat_interleave(ipc, 0)
        return Contribution(slot, {"x_syn": gradient}, {"loss": 0.5 * float(gap.square().sum())})


SPECS = (
    MethodSpec(
        config=PullConfig, implementation="tests.methods.third:Pull", paper="none", learns="images", slots="class"
    ),
    MethodSpec(
        config=PullAllConfig,
        implementation="tests.methods.third:PullAll",
        paper="none",
        learns="images",
        slots="everything",
        small={"ipc": 3, "lr_syn": 0.2},
    ),
)
