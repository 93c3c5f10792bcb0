"""Which trials are stopped early: rules over the scores of trials of equal storage, by the share of their rounds done.

Tune has these rules too (`ASHAScheduler`, `MedianStoppingRule`), but keeps what it has seen in objects that only pickles bring
back, and its median rule pauses trials by losing them. Here a rule is a function of the recorded scores: a sweep that goes on
elsewhere decides as if it had never stopped.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

# Successive halving of Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, with quarters by thirds:
# at a ninth and at a third of its rounds a trial must be among the best third of those that came so far.
REDUCTION = 3
RUNGS = (100 / 9, 100 / 3)
# The median rule of Golovin et al., Google Vizier, KDD 2017, asks for some company first.
LEAST_OTHERS = 3
GRACE = 10.0

Curve = Sequence[tuple[float, float]]
"""Shares of the rounds, in percent and ascending, with the accuracies after them."""

Rule = Callable[[Curve, Sequence[Curve]], bool]


def asha(own: Curve, others: Sequence[Curve]) -> bool:
    """Say whether a trial is to be stopped after its last score, by asynchronous successive halving.

    Args:
        own: The trial's scores; the last one is new.
        others: Those of all other trials of equal storage.
    """
    share, value = own[-1]
    before = own[-2][0] if len(own) > 1 else 0.0
    # A score may pass several rungs at once; the highest decides.
    passed = [rung for rung in RUNGS if before < rung <= share]
    if not passed or share >= 100:
        return False
    at_rung = [reached for other in others if (reached := _first_from(other, passed[-1])) is not None]
    return bool(at_rung) and value < np.percentile(at_rung, 100 * (1 - 1 / REDUCTION))


def _first_from(curve: Curve, rung: float) -> float | None:
    return next((value for share, value in curve if share >= rung), None)


def median(own: Curve, others: Sequence[Curve]) -> bool:
    """Say whether a trial's best score so far is below the median of the others' averages up to the same share.

    Args:
        own: The trial's scores; the last one is new.
        others: Those of all other trials of equal storage.
    """
    now = own[-1][0]
    if now < GRACE or now >= 100:
        return False
    as_far = [curve for curve in others if curve and curve[-1][0] >= now]
    averages = [statistics.fmean(value for _, value in so_far) for curve in as_far if (so_far := _until(curve, now))]
    return len(averages) >= LEAST_OTHERS and max(value for _, value in own) < statistics.median(averages)


def _until(curve: Curve, now: float) -> Curve:
    return [(share, value) for share, value in curve if share <= now]


def never(own: Curve, others: Sequence[Curve]) -> bool:
    """Stop nobody."""
    return False


RULES: dict[str, Rule] = {"asha": asha, "median": median, "none": never}
