"""Learning rates as functions of the step; without torch."""

from __future__ import annotations

import math


def cosine(step: int, total: int, lr: float, final: float) -> float:
    """Return the rate at `step`, going from `lr` at 0 to `final * lr` at `total` and staying there.

    Args:
        step: Updates done before this one, >= 0.
        total: Updates of the whole descent, >= 1.
        lr: Rate at step 0.
        final: Fraction of `lr` that is left at the end, in [0, 1].
    """
    half = 0.5 * (1 + math.cos(math.pi * min(step, total) / total))
    return lr * ((1 - final) * half + final)


def warmup_cosine(step: int, total: int, lr: float, final: float, warmup: int) -> float:
    """Return the rate at `step`: linear from 0 to `lr` over `warmup` updates, then cosine to `final * lr` at `total`.

    Args:
        step: Updates done before this one, >= 0.
        total: All updates, the warm-up's included, >= 1.
        lr: Rate at the end of the warm-up.
        final: Fraction of `lr` that is left at the end, in [0, 1].
        warmup: Updates of the warm-up, >= 0; no more than `total` are done.
    """
    warmup = min(warmup, total)
    if step < warmup:
        return lr * step / warmup
    return cosine(step - warmup, max(total - warmup, 1), lr, final)
