"""A trial: one ordinary run of raydd inside Ray Tune, from its last checkpoint if it has one, telling its scores on the way.

With workers they are in the trial's placement group: its first bundle is the process that drives the run, the last one is for
scoring, and the rounds never wait for a score. Without workers all is done in one process, scores too, one after the other:
the rounds wait for them, since another process beside would take the same cores and load torch for every score.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from raydd.config import Config, EngineConfig, config_from, parse_yaml
from raydd.distilled import DistilledSet
from raydd.engine.cluster import keep_workers
from raydd.engine.coordinator import Progress
from raydd.engine.executor import Executor, LocalExecutor, open_executor
from raydd.engine.metrics import read_metrics
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import Plan, distil, is_finished, plan_run
from raydd.engine.validation import Ask, score_of
from raydd.engine.validation import Score as Found
from raydd.errors import ConfigError, Diverged, RaydError, RunError
from raydd.store import Folder, Lease

Report = Callable[[dict[str, Any]], None]
# A driver that was killed may still be seen for a while after it.
PATIENCE_S = 120.0
LOOK_S = 1.0


def bundles(engine: EngineConfig) -> list[dict[str, float]]:
    """Return the resources of a trial's placement group, bundle by bundle."""
    worker = {
        "CPU": float(engine.cpus_per_worker),
        **({"GPU": engine.gpus_per_worker} if engine.gpus_per_worker else {}),
    }
    if not engine.workers:
        return [worker]
    return [{"CPU": 1.0}, *[dict(worker) for _ in range(engine.workers + 1)]]


def tune_trial(told: dict[str, Any]) -> None:
    """Do a trial for Ray Tune.

    Args:
        told: `config`, the trial's config as YAML, and `train`, the URL of the packed training split.
    """
    from ray import tune

    # How long Tune waits for a stopped trial to leave before it takes another process for the next one.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    _keep()
    config = config_from(parse_yaml(told["config"], "a trial"))
    try:
        run_trial(config, told["train"], tune.report)
    except RaydError as error:
        # Not raised, as Tune would try again at once. Only what the point is to blame for is for good: stores and nodes mend.
        tune.report({"failed": str(error), "mistake": isinstance(error, ConfigError | Diverged)})


_kept: list[Any] = []


def _keep() -> None:
    """Keep workers from one trial of this process to the next, for as long as it lives."""
    if not _kept:
        keep_heap()
        block = keep_workers()
        block.__enter__()
        _kept.append(block)


def run_trial(config: Config, train: str, report: Report) -> None:
    """Distil a config and report every score of its sets on the validation part, and at last what it counts for.

    Args:
        config: The trial's.
        train: URL of the packed training split; no other split is known here.
        report: Takes `round`, `share`, `accuracy`, `std` and `storage_bytes` of a score, and with the last one `final`.

    Raises:
        RaydError: When it cannot be done.
    """
    plan = plan_run(config, train, None)
    scores = Scores(plan, report)
    finished = is_finished(plan, "auto")
    if not finished:
        with (
            _lease(plan.run.folder("lease")) as lease,
            numerics(config.engine),
            _open(config.engine, scores) as executor,
        ):
            watch = scores.watch if config.engine.workers else scores.wait
            distil(plan, executor, lease, watch, lambda done, total: scores.tell(), scores.take, scores.fail)
            _close(plan.run)
    else:
        for line in read_metrics(plan.run):
            if "val_accuracy" in line:
                scores.take(int(line["round"]) + 1, {key: line[key] for key in ("val_accuracy", "val_std")})
    scores.end()


def _lease(folder: Folder) -> Lease:
    began = time.monotonic()
    while True:
        try:
            return Lease.acquire(folder)
        except RunError:
            if time.monotonic() - began > PATIENCE_S:
                raise
            time.sleep(LOOK_S)


def _close(run: Folder) -> None:
    run.write_json("status.json", {**run.record("status.json"), "state": "finished"})


def _open(engine: EngineConfig, scores: Scores) -> Executor:
    return open_executor(engine) if engine.workers else _Inside(engine, scores)


class _Inside(LocalExecutor):
    """All in this process, scores too."""

    def __init__(self, engine: EngineConfig, scores: Scores) -> None:
        super().__init__(torch.device("cuda" if engine.gpus_per_worker else "cpu"))
        self.threads, self.scores = engine.cpus_per_worker, scores

    def score_beside(self, ask: Ask, url: str, stop: threading.Event) -> Found | None:
        """See the base class."""
        # OpenMP keeps the number of threads per calling thread.
        torch.set_num_threads(self.threads)
        return score_of(ask, url)


@dataclass(slots=True)
class Scores:
    """The scores of a trial: taken from whatever thread they come in, reported by the one that does the rounds.

    Tune ends a stopped trial in `report`, which has to be the thread that is to be ended.
    """

    plan: Plan
    report: Report
    _waiting: list[tuple[int, Found]] = field(default_factory=list)
    _known: dict[int, Found] = field(default_factory=dict)
    _came: threading.Condition = field(default_factory=threading.Condition)
    _size: int = 0
    _fault: Exception | None = None

    def fail(self, fault: Exception) -> None:
        """Say that a score will not come, and why; from any thread."""
        with self._came:
            self._fault = fault
            self._came.notify_all()

    def take(self, round: int, found: Found) -> None:
        """Take a score; from any thread."""
        with self._came:
            if round not in self._known:
                self._known[round] = found
                self._waiting.append((round, found))
            self._came.notify_all()

    def tell(self) -> None:
        """Report what has come."""
        with self._came:
            waiting, self._waiting = sorted(self._waiting), []
        for round, found in waiting:
            self.report(self._line(round, found))

    def watch(self, progress: Progress) -> None:
        """Report what has come by a round's end."""
        self.tell()

    def wait(self, progress: Progress) -> None:
        """Wait for the scores of all sets before this round's, and report them."""
        every = self.plan.config.evaluate.every
        due = (progress.round - 1) // every if every else 0
        with self._came:
            while sum(round < progress.round for round in self._known) < due:
                if self._fault is not None:
                    raise self._fault
                self._came.wait(LOOK_S)
        self.tell()

    def end(self) -> None:
        """Report what is left, and what the trial counts for."""
        self.tell()
        config, rounds = self.plan.config, self.plan.config.method.rounds
        if not self._known:
            # A coreset has no rounds on the way.
            with numerics(config.engine):
                url = self.plan.run.folder("distilled").url
                self._known[rounds] = score_of(Ask.of(config, self.plan.job.shards), url)
        best = config.evaluate.select == "val"
        last = max(self._known, key=lambda round: (self._known[round]["val_accuracy"] if best else 0.0, round))
        line = self._line(max(self._known), self._known[max(self._known)])
        self.report({**line, "final": self._known[last]["val_accuracy"]})

    def _line(self, round: int, found: Found) -> dict[str, Any]:
        rounds = self.plan.config.method.rounds
        share = 100.0 * round / rounds if rounds else 100.0
        return {
            "round": round,
            "share": share,
            "accuracy": found["val_accuracy"],
            "std": found["val_std"],
            "storage_bytes": self._stored(round),
        }

    def _stored(self, round: int) -> int:
        """Return the bytes of a set of this trial; all of them have as many."""
        if not self._size:
            run = self.plan.run
            on_the_way = run.folder("validation", f"{round:08d}")
            place = on_the_way if on_the_way.exists("manifest.json") else run.folder("distilled")
            self._size = DistilledSet.load(place.url).storage_bytes
        return self._size
