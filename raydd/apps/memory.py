"""A memory: several distilled sets of different classes as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from raydd.distilled import DistilledSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(DistilledSet):
    """Sets put together. Its bytes are those of its parts: an addressed memory among them counts as what it is made of."""

    parts: tuple[DistilledSet, ...] = field(default=())

    @property
    def storage_bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(part.storage_bytes for part in self.parts)


def together(parts: Sequence[DistilledSet]) -> Memory:
    """Return sets of different classes as one set of all their classes, in their order.

    Images are brought into the first set's normalisation. Hard labels are counted on; a row of soft labels gets, for the
    classes of the other sets, the least of its own values: "not this class", as the set itself says it.

    Args:
        parts: One set or more, made by the same method.
    """
    first, classes = parts[0], tuple(name for part in parts for name in part.classes)
    starts = [sum(len(part.classes) for part in parts[:i]) for i in range(len(parts))]
    images = [part.images if part is first else _alike(first, part) for part in parts]
    labels = [_labels(part, start, len(classes)) for part, start in zip(parts, starts, strict=True)]
    return Memory(
        images=torch.cat(images),
        labels=torch.cat(labels),
        recipe=replace(first.recipe, classes=classes),
        preprocessing=first.preprocessing,
        parts=tuple(parts),
    )


def _alike(first: DistilledSet, part: DistilledSet) -> Tensor:
    if first.preprocessing.to_json() == part.preprocessing.to_json() and all(
        torch.equal(value, part.preprocessing.to_tensors()[name])
        for name, value in first.preprocessing.to_tensors().items()
    ):
        return part.images
    return first.preprocessing(part.preprocessing.inverse(part.images))


def _labels(part: DistilledSet, start: int, classes: int) -> Tensor:
    if part.labels.ndim == 1:
        return part.labels + start
    rows = part.labels.min(1, keepdim=True).values.expand(len(part), classes).clone()
    rows[:, start : start + len(part.classes)] = part.labels
    return rows
