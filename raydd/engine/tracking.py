"""Where a run's metrics go besides `metrics.jsonl`: TensorBoard's events in the run's folder, MLflow, Weights & Biases.

`track: [tensorboard, mlflow, wandb]` in a config names them. They get the lines of `metrics.jsonl` under the names that these
have there, at the step of their round, and only lines that a checkpoint stands for: what a run does once more after it was
interrupted is told once. Servers and keys come from the environment, as each tracker's own documents say. A tracker that
fails is told of once and never ends a run.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raydd.config import Config, TrackerName, flat
from raydd.engine.behind import Behind
from raydd.engine.events import event_file, restart, scalars
from raydd.errors import ConfigError, StoreError
from raydd.store import Folder

PROJECT = "raydd"
FILE = "tracking.json"
TRACK_EVERY_S = 2.0
LAST_WORD_S = 60.0
MOST_IN_A_BATCH = 500
LONGEST_TEXT = 500
_CHUNK = re.compile(r"events\.out\.tfevents\.(\d{8})\.raydd")
_log = logging.getLogger("raydd")

Line = dict[str, float]


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Check that the packages of the trackers that are named are installed.

    Raises:
        ConfigError: When one is not.
    """
    for name in names:
        if name in TRACKERS:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ConfigError(
                    f"track names {name}, so its package must be installed, got {error}; `pip install {name}`, or take it "
                    "out of track"
                ) from None


class EventFolder:
    """TensorBoard's events of a run: `tensorboard/`, a file a checkpoint, so that none is ever written again.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: Folder) -> None:
        self.folder = run.folder("tensorboard")
        self._next, self._restart = 0, False

    def enter(self, round: int) -> None:
        """Cut back what was told of rounds from `round` on: they are done once more."""
        chunks = {name: int(found[1]) for name in self.folder.list() if (found := _CHUNK.fullmatch(name))}
        self.folder.delete(*(name for name, upto in chunks.items() if upto > round))
        self._next = max((upto for upto in chunks.values() if upto <= round), default=0)
        self._restart = bool(chunks)

    def write(self, round: int, lines: Sequence[Line], began: float) -> None:
        """Write the lines of the rounds before `round` that are not written yet.

        Args:
            round: That of a checkpoint.
            lines: All lines, ascending.
            began: When the run would have begun, had it never been interrupted: seconds since 1970.
        """
        new = [line for line in lines if self._next <= line["round"] < round]
        if not new:
            return
        records = [_scalars(line, began) for line in new]
        if self._restart:
            records.insert(0, restart(began + new[0]["seconds"], self._next))
        self.folder.write(f"events.out.tfevents.{round:08d}.raydd", event_file(time.time(), records))
        self._next, self._restart = round, False

    def scores(self, lines: Sequence[Line], began: float) -> None:
        """Write scores on the validation part, whole."""
        records = [_scalars(line, began) for line in lines]
        self.folder.write("events.out.tfevents.validation.raydd", event_file(time.time(), records))


def _scalars(line: Line, began: float) -> bytes:
    return scalars(began + line.get("seconds", 0.0), int(line["round"]), values_of(line))


def values_of(line: Line) -> dict[str, float]:
    """Return a line's metrics."""
    return {name: value for name, value in line.items() if name not in ("round", "seconds")}


class Tracker(ABC):
    """A service that keeps metrics. `faults` is what its calls may raise that is not a mistake of ours."""

    faults: tuple[type[Exception], ...]

    @abstractmethod
    def open(self, known: str | None, name: str, params: dict[str, Any]) -> str:
        """Begin a record, or go on with one; return what names it."""

    @abstractmethod
    def log(self, lines: Sequence[Line], began: float) -> None:
        """Take lines."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """End it; an unfinished one may be gone on with."""


class Mlflow(Tracker):
    """MLflow, by its client: nothing global of a user's process is touched. MLFLOW_EXPERIMENT_NAME is honoured."""

    def __init__(self) -> None:
        # Not `import mlflow`: whoever checks types need not have it.
        self.module: Any = importlib.import_module("mlflow")
        self.entities: Any = importlib.import_module("mlflow.entities")
        self.faults = (importlib.import_module("mlflow.exceptions").MlflowException, OSError, RuntimeError, ValueError)

    def open(self, known: str | None, name: str, params: dict[str, Any]) -> str:
        """See the base class."""
        self.client = self.module.MlflowClient()
        if known is not None:
            self.id = known
            self.client.update_run(known, status="RUNNING")
            return known
        wanted = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self.client.get_experiment_by_name(wanted)
        experiment = found.experiment_id if found is not None else self.client.create_experiment(wanted)
        self.id = self.client.create_run(experiment, run_name=name).info.run_id
        pairs = [self.entities.Param(key, str(value)[:LONGEST_TEXT]) for key, value in params.items()]
        for i in range(0, len(pairs), 100):
            self.client.log_batch(self.id, params=pairs[i : i + 100])
        return self.id

    def log(self, lines: Sequence[Line], began: float) -> None:
        """See the base class."""
        metrics = [
            self.entities.Metric(name, value, int(1000 * (began + line.get("seconds", 0.0))), int(line["round"]))
            for line in lines
            for name, value in values_of(line).items()
        ]
        for i in range(0, len(metrics), MOST_IN_A_BATCH):
            self.client.log_batch(self.id, metrics=metrics[i : i + MOST_IN_A_BATCH])

    def close(self, *, finished: bool) -> None:
        """See the base class."""
        self.client.set_terminated(self.id, status="FINISHED" if finished else "KILLED")


class Wandb(Tracker):
    """Weights & Biases. The step is the metric `round`: its own counter refuses whatever comes late, as scores do."""

    def __init__(self) -> None:
        self.module: Any = importlib.import_module("wandb")
        self.faults = (self.module.Error, OSError, RuntimeError, ValueError)

    def open(self, known: str | None, name: str, params: dict[str, Any]) -> str:
        """See the base class."""
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        again = {} if known is None else {"id": known, "resume": "allow"}
        self.run = self.module.init(project=project, name=name, config=params, **again)
        self.run.define_metric("round")
        self.run.define_metric("*", step_metric="round")
        return str(self.run.id)

    def log(self, lines: Sequence[Line], began: float) -> None:
        """See the base class."""
        for line in lines:
            self.run.log({"round": int(line["round"]), **values_of(line)})

    def close(self, *, finished: bool) -> None:
        """See the base class."""
        self.run.finish(exit_code=0 if finished else 1)


TRACKERS: dict[str, type[Tracker]] = {"mlflow": Mlflow, "wandb": Wandb}


@dataclass(slots=True)
class _Told:
    """A tracker and how far it has been told."""

    tracker: Tracker
    id: str | None = None
    next: int = 0
    is_open: bool = False
    failed_at: int | None = None


class Tracking:
    """Tells trackers of a run, behind its rounds: a server that does not answer holds nothing up.

    How far each has been told stands in `tracking.json`, so that a run that goes on elsewhere goes on in the same records.

    Args:
        run: The run's folder.
        config: Its config.
        committed: Returns the last round that a checkpoint stands for; None before the first.
    """

    def __init__(self, run: Folder, config: Config, committed: Callable[[], int | None]) -> None:
        self.run, self.config, self.committed = run, config, committed
        self._told = {name: _Told(TRACKERS[name]()) for name in config.track if name in TRACKERS}
        self._lines: list[Line] = []
        self._scores: list[Line] = []
        self._round, self._began, self._finished = 0, 0.0, False
        self._behind: Behind | None = None

    def enter(self) -> None:
        """Find where a run that goes on was."""
        if self._told and self._behind is None:
            known = self.run.record(FILE) if self.run.exists(FILE) else {}
            for name, told in self._told.items():
                if name in known:
                    told.id, told.next = str(known[name]["id"]), int(known[name]["next"])
            self._behind = Behind("tracking", TRACK_EVERY_S, self._tell)

    def offer(self, round: int, lines: list[Line], began: float) -> None:
        """Hand over all lines before `round`, of which a checkpoint is about to be committed; returns at once.

        Args:
            round: The checkpoint's.
            lines: Ascending.
            began: When the run would have begun, had it never been interrupted: seconds since 1970.
        """
        self._lines, self._began, self._round = lines, began, round

    def close(self, scores: list[Line], *, finished: bool) -> None:
        """Tell what is left, and scores on the validation part; waits for it, though not for ever."""
        self._scores, self._finished = scores, finished
        limit_s = LAST_WORD_S if finished else LAST_WORD_S / 6
        if self._behind is not None and not self._behind.stop(limit_s, last=True):
            _log.warning("%s did not take the last metrics within %g s", ", ".join(self._told), limit_s)

    def _tell(self, last: bool) -> None:
        round, lines = self._round, self._lines
        committed = self.committed()
        if committed is None or committed < round:
            round, lines = 0, []
        for name, told in self._told.items():
            if told.failed_at == round and not last:
                continue  # Once more with the next checkpoint.
            try:
                self._send(name, told, round, lines)
                if last and told.is_open:
                    told.tracker.log(self._scores, self._began)
                    told.tracker.close(finished=self._finished)
            except (*told.tracker.faults, StoreError) as error:
                if told.failed_at is None:
                    _log.warning("%s takes no metrics (%s); the run goes on", name, " ".join(str(error).split())[:200])
                told.failed_at = round

    def _send(self, name: str, told: _Told, round: int, lines: list[Line]) -> None:
        new = [line for line in lines if told.next <= line["round"] < round]
        if not new:
            return
        if not told.is_open:
            params = flat(self.config.model_dump(mode="json"))
            told.id = told.tracker.open(told.id, self.config.name, params)
            told.is_open = True
        told.tracker.log(new, self._began)
        told.next = round
        known = {name: {"id": each.id, "next": each.next} for name, each in self._told.items() if each.id is not None}
        self.run.write_json(FILE, known)
