"""What networks trained on a distilled set score on the validation part of the training split; for choices, never for results."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from raydd.config import NetConfig
from raydd.distilled import DistilledSet
from raydd.evaluate.items import accuracies, real_data
from raydd.evaluate.request import Cell, Request, Task, prepare
from raydd.evaluate.score import group_size


def validate(
    ds: DistilledSet,
    *,
    train: str,
    protocol: str,
    nets: Sequence[NetConfig | Mapping[str, Any] | str] | None = None,
    repeats: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> list[float]:
    """Train networks on a set and score them on the validation part that its run kept; no test split is read.

    Args:
        ds: A set whose recipe has `data.val_fraction` > 0.
        train: URL of packed training shards.
        protocol: Name of a protocol.
        nets: Networks; None for the one that the set was distilled with.
        repeats: Networks trained of each.
        seed: Root of all draws.
        device: As torch names it.

    Returns:
        Percent of each network; at the rate with the best mean where the protocol leaves the learning rate open.
    """
    request = Request(ds=ds, protocol=protocol, nets=nets)
    # The training split stands in for the test split, of which the check of shapes and classes wants a URL.
    task = prepare(request, test=train, train=train, whole_epochs=0, seed=seed, device=device)
    try:
        return [percent for cell in task.cells for percent in _best(task, cell, repeats, group_size(None, device))]
    finally:
        real_data.cache_clear()


def _best(task: Task, cell: Cell, repeats: int, size: int) -> list[float]:
    rates = task.protocol.rates if task.is_open(cell) else (cell.lr,)
    trials = [
        [
            percent
            for item in replace(cell, lr=rate).items(task.repeats(cell, repeats), size, "val")
            for percent in accuracies(task.shared, item)
        ]
        for rate in rates
    ]
    return max(trials, key=statistics.fmean)
