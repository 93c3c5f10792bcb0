"""The space of a sweep: points drawn by keyed generators, and configs made of them.

A draw is a value for every key of the space, whether it matters at that point or not; it is a pure function of the seed and
the trial's number (`optuna` apart), so that a sweep that goes on elsewhere draws the same ones.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import torch

from raydd.config import Dimension, SweepConfig
from raydd.seeding import generator

DEFAULT_TRIALS = 16
DIGITS = 4
MOST_ATTEMPTS = 200

Draw = dict[str, Any]


def points(sweep: SweepConfig, seed: int, told: Callable[[Draw], Any]) -> Iterator[Draw]:
    """Yield the draws of random and grid search in order; ends where the space has no more that differ.

    Args:
        sweep: The section.
        seed: Root of all draws.
        told: Returns what a draw amounts to, as plain data: draws that come to the same are one point.
    """
    seen: set[str] = set()
    for index in range(count(sweep)):
        if sweep.search == "grid":
            draws: Iterator[Draw] = iter([_combination(sweep, index)])
        else:
            draws = (draw(sweep, seed, index, attempt) for attempt in range(MOST_ATTEMPTS))
        fresh = next((one for one in draws if _key(told(one)) not in seen), None)
        if fresh is not None:
            seen.add(_key(told(fresh)))
            yield fresh
        elif sweep.search != "grid":
            return


def count(sweep: SweepConfig) -> int:
    """Return the number of trials that are asked for."""
    if sweep.search == "grid":
        whole = math.prod(len(dimension.values or ()) for dimension in sweep.space.values())
        return whole if sweep.trials == "auto" else min(whole, sweep.trials)
    return DEFAULT_TRIALS if sweep.trials == "auto" else sweep.trials


def draw(sweep: SweepConfig, seed: int, index: int, attempt: int = 0) -> Draw:
    """Return the draw of a trial: keys of kind grid go through their combinations, all others are drawn each by itself."""
    grids = {key: d.grid for key, d in sweep.space.items() if d.grid is not None}
    turns = list(product(*grids.values()))
    # After another attempt the next combination is as good.
    turn = dict(zip(grids, turns[(index + attempt) % len(turns)], strict=True))
    return {
        key: turn[key] if key in turn else value_at(dimension, _uniform(seed, index, key, attempt))
        for key, dimension in sweep.space.items()
    }


def _combination(sweep: SweepConfig, index: int) -> Draw:
    """Return one of all combinations; the last key varies fastest."""
    found: Draw = {}
    for key, dimension in reversed(sweep.space.items()):
        values = dimension.values or []
        index, at = divmod(index, len(values))
        found[key] = values[at]
    return {key: found[key] for key in sweep.space}


def _uniform(seed: int, *where: int | str) -> float:
    return float(torch.rand((), generator=generator(seed, "sweep", *where), dtype=torch.float64))


def value_at(dimension: Dimension, share: float) -> Any:
    """Return the value of a dimension at a share of the way through it, in [0, 1)."""
    if dimension.values is not None:
        return dimension.values[int(share * len(dimension.values))]
    if dimension.integer is not None:
        low, high = dimension.integer
        return low + int(share * (high - low + 1))
    assert dimension.bounds is not None
    low, high = dimension.bounds
    if dimension.loguniform is not None:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    return rounded(value, dimension.bounds)


def rounded(value: float, bounds: tuple[float, float] | None) -> float:
    """Return a number with few digits, since people read it and type it again; never beyond its bounds."""
    low, high = bounds or (-math.inf, math.inf)
    return min(high, max(low, float(f"{value:.{DIGITS}g}")))


def applied(base: Mapping[str, Any], space: Mapping[str, Dimension], drawn: Draw) -> tuple[dict[str, Any], Draw]:
    """Return a raw config with the values of a draw in it, and those of them that matter: their `when` holds.

    Args:
        base: The raw config, without its sweep.
        space: The dimensions, in the order in which conditions are looked at.
        drawn: A value for each.
    """
    raw = copy.deepcopy(dict(base))
    active: Draw = {}
    conditional = [key for key in space if space[key].when]
    for key in [*(key for key in space if key not in conditional), *conditional]:
        if all(_holds(raw, other, wanted) for other, wanted in space[key].when.items()):
            active[key] = drawn[key]
            _put(raw, key, drawn[key])
    return raw, {key: active[key] for key in space if key in active}


def _holds(raw: Mapping[str, Any], key: str, wanted: Any) -> bool:
    value: Any = raw
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value in wanted if isinstance(wanted, list) else value == wanted


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = raw.get(section)
        # `net: auto` and a network's name are sections too, once a key of theirs is varied.
        raw[section] = inner = inner if isinstance(inner, dict) else {"name": inner} if _named(inner) else {}
        raw = inner
    raw[last] = value


def _named(value: Any) -> bool:
    return isinstance(value, str) and value != "auto"


def probes(space: Mapping[str, Dimension], draws: Sequence[Draw]) -> Iterator[tuple[str, Draw]]:
    """Yield draws in which every listed value and every bound of every key occurs, each with the key that it tries."""
    for key, dimension in space.items():
        values = dimension.values if dimension.values is not None else dimension.bounds or ()
        for value in values:
            for drawn in draws:
                yield key, {**drawn, key: value}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
