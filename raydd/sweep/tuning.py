"""A sweep's trials on a Ray cluster, by Ray Tune: it starts trials where there is room, and ends them when told.

What Tune writes goes to a temporary folder and is thrown away; all that matters lies in the sweep's own records, and points,
decisions and budgets are worked out from them. So nothing of Tune's is ever read back.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper
from ray.util.placement_group import placement_group, remove_placement_group

from raydd.config import EngineConfig, dump_config
from raydd.engine.cluster import connect
from raydd.errors import EngineError, RaydError
from raydd.sweep.plan import SweepPlan
from raydd.sweep.records import Book, Score
from raydd.sweep.search import next_draws
from raydd.sweep.trial import bundles, tune_trial

# How often Tune starts a trial again whose process was lost; it goes on from its checkpoint.
MOST_LOSSES = 5
_QUIET = {
    # The older of its two ways of telling can be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Its state is written to be restored from, which nobody will.
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",
    "TUNE_WARN_THRESHOLD_S": "60",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}

# What Tune would put into the runtime environment of trials, which Ray logs and its dashboard shows. Every node has its own.
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")


def run_trials(plan: SweepPlan, book: Book, *, left_s: float | None) -> None:
    """Do all trials that are left.

    Args:
        plan: The sweep.
        book: Its records, which are kept up to date.
        left_s: Seconds after which trials are left as they are; None for no limit.

    Raises:
        ConfigError: When no node could hold a worker, or the search is not installed.
        EngineError: When the cluster has no room for a trial.
        RaydError: When the records cannot be written, or another driver took the sweep over.
    """
    engine = plan.config.engine
    connect(engine, _cpus(plan, engine))
    _check_room(engine)
    referee = Referee(plan, book, left_s)
    factory = tune.PlacementGroupFactory(bundles(engine))
    with _quiet() as folder:
        tuner = tune.Tuner(
            tune.with_resources(tune_trial, factory),
            tune_config=tune.TuneConfig(
                num_samples=len(book.to_do()) + plan.count,
                scheduler=Stops(referee),
                search_alg=Points(referee),
                max_concurrent_trials=plan.sweep.max_concurrent,
                # A process that has loaded torch does the next trial too.
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"trial-{trial.config['index']}",
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=folder,
                verbose=0,
                stop=Ends(referee),
                failure_config=tune.FailureConfig(max_failures=MOST_LOSSES),
            ),
        )
        results = tuner.fit()
    if referee.fault is not None:
        raise referee.fault
    for result in results:
        if result.error is not None and result.config is not None:
            said = str(result.error).strip().splitlines()
            book.fail(result.config["index"], said[-1] if said else "its process was lost", mistake=False)


def _check_room(engine: EngineConfig) -> None:
    """Wait until the cluster has room for one trial, which also makes an autoscaler add nodes.

    Raises:
        EngineError: When it has none in `engine.start_timeout_s`.
    """
    wanted = bundles(engine)
    group = placement_group(wanted)
    try:
        if not group.wait(engine.start_timeout_s):
            cpus, gpus = (sum(bundle.get(kind, 0) for bundle in wanted) for kind in ("CPU", "GPU"))
            raise EngineError(
                f"expected room for a trial of {cpus:g} CPUs and {gpus:g} GPUs in {len(wanted)} parts, got none in "
                f"engine.start_timeout_s ({engine.start_timeout_s:g} s); lower engine.workers, or add nodes"
            )
    finally:
        remove_placement_group(group)


def _cpus(plan: SweepPlan, engine: EngineConfig) -> int:
    """Return how many CPUs a local Ray is to have: enough for the trials that are wanted at a time."""
    each = math.ceil(sum(bundle["CPU"] for bundle in bundles(engine)))
    here = os.cpu_count() or 1
    at_a_time = plan.sweep.max_concurrent or max(1, here // each)
    return each * min(at_a_time, plan.count)


@contextlib.contextmanager
def _quiet() -> Iterator[str]:
    """Keep Tune from telling, secrets too, and from writing anywhere but into the folder yielded, which goes when it is done."""
    before = {key: os.environ.get(key) for key in _QUIET}
    os.environ.update(_QUIET)
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(SECRETS)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(prefix="raydd-tune-", ignore_cleanup_errors=True) as folder:
            yield folder
    finally:
        logger.setLevel(level)
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


class Referee:
    """Decides for Tune, from the records: which trial is next, which one is over, and when all is."""

    def __init__(self, plan: SweepPlan, book: Book, left_s: float | None) -> None:
        self.plan, self.book = plan, book
        self.fault: RaydError | None = None
        self._deadline = math.inf if left_s is None else time.monotonic() + left_s
        self._goes_on = iter(book.to_do())
        self._new = next_draws(plan, book.trials)

    def next(self) -> dict[str, Any] | None:
        """Return what the next trial is told; None where there is no more."""
        trial = next(self._goes_on, None)
        if trial is None:
            drawn = next(self._new, None)
            if drawn is None:
                return None
            trial = self.plan.trial(*drawn)
        self.book.begin(trial)
        config = dump_config(self.plan.trial_config(trial))
        return {"index": trial.index, "config": config, "train": self.plan.train}

    def hear(self, result: dict[str, Any], index: int) -> bool:
        """Take what a trial reports; return whether it is to be stopped."""
        if "failed" in result:
            self.book.fail(index, result["failed"], mistake=result["mistake"])
            return False
        if "round" not in result:
            return False
        found = {key: float(result[key]) for key in ("share", "accuracy", "std")}
        stop = self.book.score(index, Score(round=result["round"], **found), result["storage_bytes"])
        if "final" in result:
            self.book.finish(index, result["final"], result["storage_bytes"])
        return stop

    def over(self) -> bool:
        """Whether all trials are to end now: the time is up, or the records cannot be kept."""
        return self.fault is not None or time.monotonic() > self._deadline


class _Told:
    """Tune writes its parts down with pickle, for a restoration that never comes; of ours there is nothing to write."""

    def __init__(self, referee: Referee) -> None:
        super().__init__()
        self.referee: Any = referee

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Stops(_Told, FIFOScheduler):
    """Ends trials by the sweep's rule."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide after a report."""
        try:
            stop = self.referee.hear(result, trial.config["index"])
        except RaydError as error:
            # Tune would call it the trial's failure.
            self.referee.fault = error
            return TrialScheduler.CONTINUE
        return TrialScheduler.STOP if stop else TrialScheduler.CONTINUE


class Points(_Told, Searcher):
    """Names the next trial."""

    def suggest(self, trial_id: str) -> Any:
        """Return what the next trial is told."""
        try:
            if self.referee.over():
                return Searcher.FINISHED
            return self.referee.next() or Searcher.FINISHED
        except RaydError as error:
            self.referee.fault = error
            return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ignore it: the records know."""

    def save(self, checkpoint_path: str) -> None:
        """Write nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing."""


class Ends(_Told, Stopper):
    """Ends all trials when the time is up."""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is ended here."""
        return False

    def stop_all(self) -> bool:
        """Whether all are."""
        return self.referee.over()
