"""Where the next trial is: keyed draws, or by Optuna through Ray Tune, from what the records say.

Every suggestion of Optuna comes of a study of its own that is told the recorded points and scores again, so no state of it is
ever kept. Accuracy alone would always pick the largest set: what decides a set's size is drawn, and a study looks only at
trials where it was the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import islice
from typing import Any

from raydd.config import Dimension, SweepConfig
from raydd.errors import ConfigError
from raydd.seeding import derive
from raydd.sweep.plan import SweepPlan
from raydd.sweep.records import Trial, goes_on
from raydd.sweep.space import Draw, draw, rounded

# Which key decides how much a set stores; grids are gone through in turn as they were said.
APART = ("method.name", "method.ipc", "method.num_bases", "method.downsample")


def check_search(sweep: SweepConfig) -> None:
    """Check that what the search needs is installed.

    Raises:
        ConfigError: When it is not.
    """
    if sweep.search == "optuna":
        _optuna()


def _optuna() -> Any:
    try:
        optuna: Any = import_module("optuna")
    except ImportError:
        raise ConfigError(
            "sweep.search optuna needs the package optuna, which is not installed; "
            "pip install 'raydd[optuna]', or set sweep.search to random"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def next_draws(plan: SweepPlan, trials: dict[int, Trial]) -> Iterator[tuple[int, Draw]]:
    """Yield number and draw of every trial that was not begun yet, up to as many as are asked for.

    Args:
        plan: The sweep.
        trials: All that were begun; read anew before each draw of Optuna's.
    """
    if plan.sweep.search == "optuna":
        for index in range(plan.count):
            if index not in trials:
                yield index, suggest(plan, index, list(trials.values()))
        return
    for index, drawn in enumerate(islice(plan.draws(), plan.count)):
        if index not in trials:
            yield index, drawn


def anything_left(plan: SweepPlan, trials: Sequence[Trial]) -> bool:
    """Whether a trial goes on, or is still to begin."""
    if any(goes_on(trial) for trial in trials):
        return True
    if plan.sweep.search == "optuna":
        return len(trials) < plan.count
    return next(next_draws(plan, {trial.index: trial for trial in trials}), None) is not None


def suggest(plan: SweepPlan, index: int, trials: Sequence[Trial]) -> Draw:
    """Return the draw of a trial by Optuna's sampler, from the scores of those where the same keys decide the size."""
    from ray.tune.search.optuna import OptunaSearch

    optuna = _optuna()
    seed = plan.config.seed
    drawn = draw(plan.sweep, seed, index)
    free = {key: d for key, d in plan.sweep.space.items() if key not in APART and d.grid is None}
    if not free:
        return drawn
    alike = [
        trial
        for trial in trials
        if trial.state in ("finished", "stopped")
        and trial.reached is not None
        and all(_same(trial.drawn.get(key), drawn[key]) for key in drawn if key not in free)
    ]
    # Other keys may decide it as well: only the size that most of them have is compared.
    sizes = Counter(trial.storage_bytes for trial in alike).most_common(1)
    alike = [trial for trial in alike if trial.storage_bytes == sizes[0][0]]
    found = OptunaSearch(
        {key: _distribution(optuna, dimension) for key, dimension in free.items()},
        metric="val_accuracy",
        mode="max",
        points_to_evaluate=[{key: _told(d, trial.drawn[key]) for key, d in free.items()} for trial in alike],
        evaluated_rewards=[trial.reached for trial in alike],
        # Another one each time: a study that is made anew would else begin with the same draws.
        seed=derive(seed, "optuna", index) % 2**32,
    ).suggest(str(index))
    if not isinstance(found, dict):
        return drawn
    return {**drawn, **{key: _meant(dimension, found[key]) for key, dimension in free.items()}}


def _distribution(optuna: Any, dimension: Dimension) -> Any:
    kinds = optuna.distributions
    if dimension.values is not None:
        # By number: a value may be anything that YAML has.
        return kinds.CategoricalDistribution(list(range(len(dimension.values))))
    assert dimension.bounds is not None
    if dimension.integer is not None:
        return kinds.IntDistribution(*dimension.integer)
    return kinds.FloatDistribution(*dimension.bounds, log=dimension.loguniform is not None)


def _told(dimension: Dimension, value: Any) -> Any:
    if dimension.values is None:
        return value
    return next(i for i, one in enumerate(dimension.values) if _same(one, value))


def _meant(dimension: Dimension, found: Any) -> Any:
    if dimension.values is not None:
        return dimension.values[found]
    return found if dimension.integer is not None else rounded(float(found), dimension.bounds)


def _same(a: Any, b: Any) -> bool:
    return json.dumps(a, sort_keys=True, default=str) == json.dumps(b, sort_keys=True, default=str)
