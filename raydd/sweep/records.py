"""What is known of a sweep's trials: one JSON record each, in the sweep's folder. No Ray, and no pickle.

A trial is `running` from its first start to its end, whoever drives it then; `finished` when all its rounds are done and
scored, `stopped` when a rule ended it, `failed` when it cannot be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from raydd.errors import IntegrityError
from raydd.store import Folder
from raydd.sweep.space import Draw
from raydd.sweep.stopping import Rule

State = Literal["running", "finished", "stopped", "failed"]
ENDED: tuple[State, ...] = ("finished", "stopped", "failed")
PLACE = "records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A score of a trial on the validation part.

    Attributes:
        round: Rounds done.
        share: Their share of all its rounds, in percent.
        accuracy: Mean percent of the networks trained on the set of that round.
        std: Their deviation.
    """

    round: int
    share: float
    accuracy: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial, as its record tells.

    Attributes:
        index: Its number, from 0.
        drawn: A value for every key of the space.
        point: Those that matter.
        ipc: Its images per class.
        state: See above.
        scores: Ascending by round.
        storage_bytes: Of its set; None before the first score.
        accuracy: What it counts for once it is finished: of its last set, or of the best where the config selects; None before.
        seconds: How long it was worked on.
        mistake: Of a failed one: whether the config is to blame, so that trying again would end the same.
        error: Of a failed one: why.
    """

    index: int
    drawn: Draw
    point: Draw
    ipc: int
    state: State = "running"
    scores: tuple[Score, ...] = ()
    storage_bytes: int | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    mistake: bool = False
    error: str = ""

    @property
    def name(self) -> str:
        """The name of its run."""
        return name_of(self.index)

    @property
    def best(self) -> Score | None:
        """Its best score, of equals the earliest; None before the first."""
        return max(self.scores, key=lambda score: score.accuracy, default=None)

    @property
    def reached(self) -> float | None:
        """What it counts for so far: its accuracy, or else its last score."""
        return self.accuracy if self.accuracy is not None else self.scores[-1].accuracy if self.scores else None

    @property
    def curve(self) -> list[tuple[float, float]]:
        """Its scores as stopping rules see them."""
        return [(score.share, score.accuracy) for score in self.scores]

    def to_json(self) -> dict[str, Any]:
        """Return the record."""
        return asdict(self)


_TRIAL = TypeAdapter(Trial)


def name_of(index: int) -> str:
    """Return the name of a trial's run."""
    return f"{index:04d}"


def read_trials(sweep: Folder) -> list[Trial]:
    """Return all trials that a sweep's folder knows, by number.

    Raises:
        IntegrityError: When a record was altered.
    """
    folder = sweep.folder(PLACE)
    trials = []
    for name in folder.list():
        try:
            trials.append(_TRIAL.validate_python(folder.record(name)))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise IntegrityError(
                f"{folder.url}/{name}: {key}: {first['msg']}; delete it to do the trial again"
            ) from None
    return sorted(trials, key=lambda trial: trial.index)


@dataclass(slots=True)
class Book:
    """The records of a sweep that is driven here. Every change is written before anyone hears of it.

    Attributes:
        folder: The sweep's.
        rule: Which trials are to be stopped.
        guard: Called before each write; raises where the sweep is no longer ours.
        told: Called with every trial that has ended, or whose score is new.
        trials: By number.
    """

    folder: Folder
    rule: Rule
    guard: Callable[[], None]
    told: Callable[[Trial], None]
    trials: dict[int, Trial] = field(default_factory=dict)
    _began: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trials = {trial.index: trial for trial in read_trials(self.folder)}

    def begin(self, trial: Trial) -> None:
        """Note that a trial starts, or goes on."""
        self._began[trial.index] = time.monotonic()
        self._write(replace(trial, state="running", error="", mistake=False))

    def score(self, index: int, score: Score, storage_bytes: int) -> bool:
        """Note a score; return whether the trial is to be stopped, which then is noted too.

        A trial that goes on tells its first scores again; they are known, and were decided on.
        """
        trial = self.trials[index]
        if trial.state == "stopped":
            return True
        if any(score.round == known.round for known in trial.scores):
            return False
        scores = tuple(sorted((*trial.scores, score), key=lambda one: one.round))
        trial = replace(trial, scores=scores, storage_bytes=storage_bytes, seconds=self._seconds(trial))
        others = [other.curve for other in self.alike(trial)]
        stop = trial.scores[-1] == score and self.rule(trial.curve, others)
        self._write(replace(trial, state="stopped") if stop else trial)
        self.told(self.trials[index])
        return stop

    def alike(self, trial: Trial) -> list[Trial]:
        """Return all other trials of equal storage."""
        return [
            other
            for other in self.trials.values()
            if other.index != trial.index and other.storage_bytes == trial.storage_bytes
        ]

    def finish(self, index: int, accuracy: float, storage_bytes: int) -> None:
        """Note that a trial is done."""
        trial = self.trials[index]
        done = replace(trial, state="finished", accuracy=accuracy, storage_bytes=storage_bytes)
        self._write(replace(done, seconds=self._seconds(trial)))
        self.told(self.trials[index])

    def fail(self, index: int, error: str, *, mistake: bool) -> None:
        """Note that a trial cannot be done."""
        trial = self.trials[index]
        if trial.state == "running":
            self._write(replace(trial, state="failed", error=error, mistake=mistake, seconds=self._seconds(trial)))
            self.told(self.trials[index])

    def to_do(self) -> list[Trial]:
        """Return trials that go on, by number."""
        return [self.trials[index] for index in sorted(self.trials) if goes_on(self.trials[index])]

    def _seconds(self, trial: Trial) -> float:
        began = self._began.get(trial.index)
        if began is None:
            return trial.seconds
        now = time.monotonic()
        self._began[trial.index] = now
        return round(trial.seconds + now - began, 3)

    def _write(self, trial: Trial) -> None:
        self.guard()
        self.folder.folder(PLACE).write_json(f"{trial.name}.json", trial.to_json())
        self.trials[trial.index] = trial


def goes_on(trial: Trial) -> bool:
    """Whether a sweep that goes on starts a trial again: one that was interrupted, or that the cluster failed."""
    return trial.state == "running" or (trial.state == "failed" and not trial.mistake)


def ended(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that are not started again, or only if the cluster failed them."""
    return [trial for trial in trials if trial.state in ENDED]
