"""What a sweep found: the best of every size, what no smaller set reaches, and which keys mattered."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from raydd.sweep.records import Trial

LEAST_TRIALS = 3


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial of the highest accuracy; of equals the smallest set, then the earliest."""
    finished = [trial for trial in trials if trial.state == "finished" and trial.accuracy is not None]
    return min(finished, key=lambda t: (-(t.accuracy or 0.0), t.storage_bytes or 0, t.index), default=None)


def by_storage(trials: Sequence[Trial]) -> dict[int, list[Trial]]:
    """Return trials that have a score by the bytes of their sets, ascending."""
    scored = sorted((t for t in trials if t.storage_bytes is not None), key=lambda t: (t.storage_bytes or 0, t.index))
    return {size: list(some) for size, some in groupby(scored, key=lambda t: t.storage_bytes or 0)}


def best_by_storage(trials: Sequence[Trial]) -> list[Trial]:
    """Return the best finished trial of every storage, ascending."""
    bests = [best_of(some) for some in by_storage(trials).values()]
    return [best for best in bests if best is not None]


def front(bests: Sequence[Trial]) -> list[Trial]:
    """Return those of the best trials, ascending by storage, that beat every smaller set."""
    found: list[Trial] = []
    for trial in bests:
        if not found or (trial.accuracy or 0.0) > (found[-1].accuracy or 0.0):
            found.append(trial)
    return found


def config_names(bests: Sequence[Trial]) -> dict[int, str]:
    """Return what the config of each is called, by trial: `ipc10`, with the bytes where several sizes have one ipc."""
    ipcs = [trial.ipc for trial in bests]
    return {
        trial.index: f"ipc{trial.ipc}" + (f"-{trial.storage_bytes}bytes" if ipcs.count(trial.ipc) > 1 else "")
        for trial in bests
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """How accuracy went with one key, among trials that reached their end and are of equal storage.

    Attributes:
        key: The dotted key.
        storage_bytes: Of the trials.
        ipc: Their images per class.
        trials: How many there are.
        rank: Spearman's rank correlation with accuracy, in [-1, 1]; None where values are no numbers.
        values: For few different values, each with the mean accuracy of its trials and how many these are.
    """

    key: str
    storage_bytes: int
    ipc: int
    trials: int
    rank: float | None
    values: tuple[tuple[str, float, int], ...]


def influences(trials: Sequence[Trial], most_values: int = 8) -> list[Influence]:
    """Return how each key went with accuracy, size by size; nothing where fewer than three trials or one value are there."""
    found = []
    for size, some in by_storage([trial for trial in trials if trial.state == "finished"]).items():
        for key in dict.fromkeys(key for trial in some for key in trial.point):
            pairs = [(trial.point[key], trial.accuracy or 0.0) for trial in some if key in trial.point]
            groups = _grouped(pairs)
            if len(pairs) < LEAST_TRIALS or len(groups) < 2:
                continue
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in pairs)
            rank = _spearman([(float(value), accuracy) for value, accuracy in pairs]) if numbers else None
            means = tuple((text, statistics.fmean(of), len(of)) for text, of in groups.items())
            shown = means if len(means) <= most_values else ()
            found.append(
                Influence(key=key, storage_bytes=size, ipc=some[0].ipc, trials=len(pairs), rank=rank, values=shown)
            )
    return found


def _grouped(pairs: Sequence[tuple[Any, float]]) -> dict[str, list[float]]:
    ordered = sorted(
        pairs,
        key=lambda pair: (
            not isinstance(pair[0], int | float),
            pair[0] if isinstance(pair[0], int | float) else str(pair[0]),
        ),
    )
    groups: dict[str, list[float]] = {}
    for value, accuracy in ordered:
        groups.setdefault(shown_value(value), []).append(accuracy)
    return groups


def shown_value(value: Any) -> str:
    """Return a value as people read it."""
    return f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def shown_point(trial: Trial) -> str:
    """Return the point of a trial in a line."""
    return ", ".join(f"{key} {shown_value(value)}" for key, value in trial.point.items()) or "as the config has it"


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    xs, ys = (_ranks(column) for column in zip(*pairs, strict=True))
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return statistics.correlation(xs, ys)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [(ordered.index(value) + len(ordered) - 1 - ordered[::-1].index(value)) / 2 for value in values]
