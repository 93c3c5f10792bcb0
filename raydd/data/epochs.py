"""Batches of all real images for a training, in keyed epochs, each made ready when it is its turn."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from raydd.data.plan import EpochPlan
from raydd.data.reader import RealData


def real_batches(
    real: RealData,
    size: int,
    seed: int,
    *,
    image: Callable[[Tensor], Tensor],
    target: Callable[[Tensor], Tensor],
    ids: Tensor | None = None,
) -> Callable[[int], tuple[Tensor, Tensor]]:
    """Return `batches(step)` for `raydd.functional.train.train_on`: pairs of what a network is shown and what it should say.

    Args:
        real: The images.
        size: Images a batch.
        seed: Names the epochs' orders (`EpochPlan`).
        image: Turns uint8 images (b, C, H, W) on the CPU into a network's input on its device.
        target: Turns their int64 labels (b,) into targets on that device.
        ids: int64 (n,), the images to go over; None for all.
    """
    plan = EpochPlan(seed, len(real) if ids is None else len(ids), size)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        rows = plan.batch(step)
        chosen = rows if ids is None else ids[rows]
        return image(real.images(chosen)), target(real.labels[chosen])

    return batches
