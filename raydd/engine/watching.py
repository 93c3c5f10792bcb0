"""What others see of a run while it goes on: `status.json`, TensorBoard's events, trackers, Ray's metrics.

The round loop only counts. Whatever is slow or may fail happens in threads behind it, and ends no run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from raydd.engine.behind import Behind
from raydd.engine.checkpoint import Checkpoints
from raydd.engine.executor import Executor
from raydd.engine.job import Job
from raydd.engine.tracking import EventFolder, Line, Tracking
from raydd.errors import EngineError, IntegrityError, StoreError
from raydd.pace import Pace
from raydd.store import Folder, Lease, utc

if TYPE_CHECKING:
    from raydd.engine.telemetry import Meter

STATUS_EVERY_S = 10.0
CLOSE_S = 60.0
# slots: from the variables' leaving to the last contribution's coming, or whole rounds where workers keep the variables;
# update: reduction and the optimiser's step; checkpoint: what the round loop waits for one; rest: whatever else is in it.
Phase = Literal["slots", "update", "checkpoint", "rest"]
PHASES: tuple[Phase, ...] = get_args(Phase)
_log = logging.getLogger("raydd")


class Watching:
    """Counts what a run does, and tells of it.

    Args:
        job: The job.
        run: The run's folder.
        lease: The right to write to it.
        executor: Who does the slots.
        checkpoints: Those of the run.
    """

    def __init__(self, job: Job, run: Folder, lease: Lease, executor: Executor, checkpoints: Checkpoints) -> None:
        self.job, self.run, self.lease, self.executor, self.checkpoints = job, run, lease, executor, checkpoints
        self.rounds = job.config.method.rounds
        # Workers lost under other drivers, and under this one.
        self.before, self.lost = _faults_before(run), 0
        self.reached, self.done = 0, 0
        self.loss: float | None = None
        self.phases: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self._pace = Pace()
        self._events = EventFolder(run) if "tensorboard" in job.config.track else None
        self._tracking = Tracking(run, job.config, lambda: checkpoints.committed)
        self._lap = self._started = time.monotonic()
        self._seconds = 0.0
        self._nodes: dict[str, int] = {}
        self._meter: Meter | None = None
        self._behind: Behind | None = None
        self._warned: set[str] = set()

    def enter(self, round: int, seconds: float) -> None:
        """Begin, or begin once more, at a round, after so many seconds of the run."""
        self._pace, self.reached = Pace(round), round
        self._seconds = seconds
        self._lap = self._started = time.monotonic()
        if self._events is not None:
            self._try("the events", lambda events=self._events: events.enter(round))
        self._tracking.enter()
        if self._behind is None:
            if self.executor.workers:
                from raydd.engine.telemetry import Meter

                self._meter = Meter(self.job.config.method.name)
            self._behind = Behind("status", STATUS_EVERY_S, self._tell)

    def seconds(self) -> float:
        """Return what the run has taken."""
        return self._seconds + time.monotonic() - self._started

    @property
    def _began(self) -> float:
        return time.time() - self.seconds()

    def lap(self, phase: Phase) -> None:
        """Say what the time since the last lap was spent on."""
        now = time.monotonic()
        self.phases[phase] += now - self._lap
        self._lap = now

    def round(self, round: int, loss: float | None) -> None:
        """Say that there are `round` rounds done now."""
        self.reached, self.done, self.loss = round, self.done + 1, loss
        self._pace.tell(round)

    def checkpoint(self, round: int, lines: list[Line]) -> None:
        """Write what is to lie beside a checkpoint before it is committed: events and status.

        Args:
            round: The checkpoint's.
            lines: All lines of the metrics before that round; not changed any more.
        """
        if self._events is not None:
            self._try("the events", lambda events=self._events: events.write(round, lines, self._began))
        self._tracking.offer(round, lines, self._began)
        self._try("the status", lambda: self.run.write_json("status.json", self.status("running")))

    def finish(self, scores: list[Line]) -> dict[str, Any]:
        """End it for a run whose rounds are done; returns the last status, which nothing overwrites any more.

        Args:
            scores: Lines of scores on the validation part.
        """
        if self._events is not None and scores:
            self._try("the events", lambda events=self._events: events.scores(scores, self._began))
        self.close(scores, finished=True)
        return self.status("distilled")

    def close(self, scores: list[Line] | None = None, *, finished: bool = False) -> None:
        """End it, whatever became of the run."""
        if self._behind is not None:
            self._behind.stop(CLOSE_S)
        if self._meter is not None:
            self._meter.tell(self)
        self._tracking.close(scores or [], finished=finished)

    def status(self, state: str) -> dict[str, Any]:
        """Return what `status.json` says; of a run that is not running any more the rate is that of the whole of it."""
        seconds, running = self.seconds(), state == "running"
        rate = self._pace.per_second() if running else self.reached / seconds if self.reached else None
        left = self._pace.seconds_left(self.rounds) if running else None
        return {
            "state": state,
            "hash": self.job.hash,
            "index_hash": self.job.index_hash,
            "round": self.reached,
            "rounds": self.rounds,
            "rounds_per_second": None if rate is None else _short(rate),
            "seconds_left": None if left is None else _short(left),
            "seconds": _short(seconds),
            "loss": self.loss,
            "workers": self.executor.workers,
            "nodes": self._nodes,
            "last_checkpoint": self.checkpoints.committed,
            "faults": self.before + self.lost,
            "phase_seconds": {phase: _short(seconds) for phase, seconds in self.phases.items()},
            "exchanged_bytes": self.executor.exchanged,
            "time": utc(time.time()),
        }

    def _tell(self, last: bool) -> None:
        self._nodes = self.executor.where()
        if self._meter is not None:
            self._meter.tell(self)
        try:
            self.lease.check()
        except (EngineError, StoreError):
            return  # Whoever holds it writes the status; the round loop finds out by itself.
        self._try("the status", lambda: self.run.write_json("status.json", self.status("running")))

    def _try(self, what: str, do: Callable[[], None]) -> None:
        """Do what the run can do without; a failure is told once."""
        try:
            do()
        except (StoreError, IntegrityError) as error:
            if what not in self._warned:
                self._warned.add(what)
                _log.warning("cannot write %s of the run, which goes on without: %s", what, error)


def _short(value: float) -> float:
    """Return a number without digits that mean nothing."""
    return round(value, 3) if value >= 1 else float(f"{value:.4g}")


def _faults_before(run: Folder) -> int:
    """Return what other drivers of a run have counted."""
    try:
        faults = run.record("status.json").get("faults") if run.exists("status.json") else 0
    except IntegrityError:
        return 0
    return faults if isinstance(faults, int) else 0
