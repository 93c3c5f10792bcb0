"""The coordinator: owns the variables, the optimiser's state and the round number, and survives its workers.

It trains no network and reads no real image. A round is: variables out, contributions in, reduce in the order of slots, one
optimiser step. When workers are lost it goes back to the last committed checkpoint; since every round is a pure function
of the state before it, the result is the same as if nothing had happened.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import safetensors.torch

from raydd.engine.checkpoint import Checkpoint, Checkpoints
from raydd.engine.executor import Executor
from raydd.engine.faults import Doubts, Losses, NotFinite, WorkersLost, explain, out_of_memory
from raydd.engine.held import Exchange, choose_exchange
from raydd.engine.job import Job
from raydd.engine.metrics import mean_metrics, read_metrics, write_metrics
from raydd.engine.validation import Validation
from raydd.engine.watching import Watching
from raydd.engine.work import Arrays, Reply, to_arrays, to_tensors
from raydd.errors import RunError, StoreFault
from raydd.methods import Contribution, Method, Tensors
from raydd.store import Folder, Lease

_HISTORY = re.compile(r"(\d{8})\.safetensors")
LOGGED_ROUNDS = 2000
STORE_TIMEOUT_S = 1800.0
SPAN_S = 0.5
STORE_PATIENCE_S = 1800.0
# Between two tries of a checkpoint: each keeps the rounds waiting for what the store's client does to get through, some 16 s.
STORE_REST_S = 60.0
# Of one step in the row of images that the report shows; the first images of the set.
HISTORY_BYTES = 4 * 2**20
_log = logging.getLogger("raydd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a watcher is told after each round.

    Attributes:
        round: Rounds done.
        rounds: Rounds in all.
        metrics: The last round's.
        workers: How many there are.
    """

    round: int
    rounds: int
    metrics: dict[str, float]
    workers: int


@dataclass(slots=True)
class Clock:
    """Seconds that a run has taken, over all its processes."""

    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Return them."""
        return self.before + time.monotonic() - self.started


class Coordinator:
    """Runs the rounds of one job.

    Args:
        job: The job.
        method: Its method.
        executor: Who does the slots.
        whitening: Tensors of the fitted whitening, where the config has one.
        run: The run's folder.
        lease: The right to write to it.
        validation: Takes the sets that are to be scored on the way.
        watch: Called after each round.
    """

    def __init__(
        self,
        job: Job,
        method: Method[Any],
        executor: Executor,
        whitening: Arrays | None,
        run: Folder,
        lease: Lease,
        validation: Validation,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self.job, self.method, self.executor, self.whitening = job, method, executor, whitening
        self.validation = validation
        self.run, self.lease, self.watch = run, lease, watch
        self.engine = job.config.engine
        self.rounds = job.config.method.rounds
        self.checkpoints = Checkpoints(run, job.hash, self.engine.keep_checkpoints, lease.generation, lease.check)
        self.round = 0
        self.variables: Tensors = {}
        self.optimiser: Tensors = {}
        self.lines: list[dict[str, float]] = []
        self.kept: list[int] = []
        self.losses, self.doubts = Losses(), Doubts()
        # The newest checkpoint when the store began to fail, and when that was.
        self._failing: tuple[int | None, float] = (None, math.inf)
        # When a checkpoint that could not be written is tried again; None where none is owed.
        self._again_at: float | None = None
        self.clock = Clock()
        self._last: tuple[float, float] = (-math.inf, -math.inf)
        self.watching = Watching(job, run, lease, executor, self.checkpoints)
        self.exchange: Exchange = "store"
        # Whether `variables` and `optimiser` are those of `round`; workers may be ahead of them.
        self._home = True
        self._stride = 1

    def distil(self) -> Tensors:
        """Run all rounds, from the last checkpoint if there is one; return the final variables.

        Raises:
            EngineError: When a slot gives NaN, or too few workers are left.
            StoreError: When a checkpoint cannot be written.
        """
        try:
            self._try(self._begin)
            while self.round < self.rounds:
                self._try(self._rounds)
            self.checkpoints.close()
            return self.variables
        except BaseException:
            self.validation.close()
            self.checkpoints.close()
            self.watching.close()
            raise

    def _try(self, step: Callable[[], None]) -> None:
        """Do something for which workers are needed; after what can be mended, go back to the last checkpoint."""
        while True:
            try:
                return step()
            except WorkersLost as loss:
                self.watching.lost += 1
                self.losses.count(loss, self.round, self.checkpoints.committed)
                _log.warning("round %d failed (%s); going back to the last checkpoint", self.round, loss)
                step = partial(self._recover, turn=isinstance(loss, NotFinite))
            except StoreFault as fault:
                self._endure(fault)
                step = self._recover
            except (MemoryError, RuntimeError) as error:
                if out_of_memory(error):
                    raise explain(error, "this process", f"round {self.round}") from error
                raise

    def _endure(self, fault: StoreFault) -> None:
        """Let a fault of the store pass, if a checkpoint shows that the store has worked before and it is not long ago."""
        newest = self.checkpoints.committed
        if self._failing[0] != newest:
            self._failing = (newest, time.monotonic())
        if newest is None or time.monotonic() - self._failing[1] > STORE_PATIENCE_S:
            raise fault
        _log.warning("the store fails in round %d (%s); trying on", self.round, fault)

    def _put_off(self, fault: StoreFault) -> None:
        """Go on without a checkpoint for a while."""
        self._endure(fault)
        self._again_at = time.monotonic() + STORE_REST_S

    def _begin(self) -> None:
        self.executor.begin(self.job, self.method.slots_all, self.whitening)
        self._enter(self.checkpoints.latest())

    def _enter(self, checkpoint: Checkpoint | None) -> None:
        """Take up the run where a checkpoint has it, or begin it."""
        if checkpoint is None:
            self.round, self.clock = 0, Clock()
            self.variables = dict(sorted(to_tensors(self.executor.initial()).items()))
            self.optimiser = self.method.optimiser(self.variables)
            self.executor.fresh()
        else:
            if checkpoint.round > self.rounds:
                raise RunError(
                    f"method.rounds must be >= {checkpoint.round}, which {self.run.url} has done, got {self.rounds}"
                )
            self.round, self.clock = checkpoint.round, Clock(checkpoint.seconds)
            self.variables, self.optimiser = checkpoint.variables, checkpoint.optimiser
            self.executor.restore(checkpoint.url, checkpoint.entries)
        self.exchange = choose_exchange(self.engine, self.method, self.variables, self.executor.workers)
        self.executor.hold(to_arrays(self.variables), to_arrays(self.optimiser), self.exchange)
        self._home, self._stride = True, 1
        self.validation.enter()
        names = [_HISTORY.fullmatch(name) for name in self.run.folder("history").list()]
        self.kept = [int(name[1]) for name in names if name]
        self.lines = [line for line in read_metrics(self.run) if line["round"] < self.round]
        self._last = (self.round, time.monotonic()) if checkpoint is not None else (-math.inf, -math.inf)
        self._again_at = None
        self.watching.enter(self.round, self.clock.seconds())

    def _recover(self, *, turn: bool = False) -> None:
        self._settle()
        self.executor.recover(turn=turn)
        self._enter(self.checkpoints.latest())

    def _settle(self) -> None:
        """Let a checkpoint that is being written end; without all of its workers it never gets its manifest."""
        try:
            self.checkpoints.wait(STORE_TIMEOUT_S)
        except (WorkersLost, StoreFault):
            _log.warning("the checkpoint that was being written is given up")

    def _rounds(self) -> None:
        """Do all rounds that are left, and a checkpoint after the last."""
        while self.round < self.rounds:
            self.watching.lap("rest")
            if self._due():
                self._save()
                self.watching.lap("checkpoint")
            if self.exchange == "store":
                self._done(self._one_round())
            else:
                self._span()
            last = self.round == self.rounds
            if self.validation.wants(self.round, last=last):
                self._bring_home()
                self.validation.offer(self.variables, self.round)
        self._commit()

    def _done(self, metrics: dict[str, float]) -> None:
        """Note that a round is done."""
        stride = max(1, self.rounds // LOGGED_ROUNDS)
        if self.round % stride == 0 or self.round == self.rounds - 1:
            self.lines.append({"round": self.round, "seconds": round(self.clock.seconds(), 3), **metrics})
        self.round += 1
        self.watching.round(self.round, metrics.get("loss"))
        if self.watch is not None:
            workers = self.executor.workers
            self.watch(Progress(round=self.round, rounds=self.rounds, metrics=metrics, workers=workers))

    def _span(self) -> None:
        """Let the workers do rounds by themselves, about `SPAN_S` long, but none beyond what must see the variables."""
        ends: list[float] = [self.rounds, self.round + self._stride]
        if self._again_at is None:
            ends.append(self._last[0] + self.engine.checkpoint_every)
        if self.validation.every:
            ends.append((self.round // self.validation.every + 1) * self.validation.every)
        # A checkpoint that is due while the one before is being written waits for the next span.
        count = max(1, int(min(ends)) - self.round)
        started, self._home = time.monotonic(), False
        rounds = self.executor.advance_held(self.round, count)
        self.watching.lap("slots")
        for replies in rounds:
            self._check(replies)
            self._done(mean_metrics(replies))
        if time.monotonic() - started < SPAN_S and count == self._stride:
            self._stride *= 2

    def _bring_home(self) -> None:
        """Have the variables and the optimiser's state here as they are now."""
        if not self._home:
            self.variables, self.optimiser = self.executor.bring()
            self._home = True

    def _one_round(self) -> dict[str, float]:
        slots = [slot.index for slot in self.method.slots(self.round)]
        replies = self.executor.advance(self.round, to_arrays(self.variables), slots)
        self.watching.lap("slots")
        self._check(replies)
        contributions = [
            Contribution(self.method.slots_all[reply.slot], to_tensors(reply.gradients), reply.metrics)
            for reply in replies
        ]
        gradients = self.method.reduce(self.variables, contributions)
        self.variables, self.optimiser = self.method.update(self.round, self.variables, self.optimiser, gradients)
        self.watching.lap("update")
        return mean_metrics(replies)

    def _check(self, replies: Sequence[Reply]) -> None:
        for reply in replies:
            if not reply.finite:
                self.doubts.meet(self.round, reply.slot, workers=self.executor.workers)

    def _due(self) -> bool:
        try:
            if self.checkpoints.busy:
                return False
        except StoreFault as fault:
            self._put_off(fault)
        if self._again_at is not None:
            return time.monotonic() >= self._again_at
        rounds, seconds = self.round - self._last[0], time.monotonic() - self._last[1]
        return rounds >= self.engine.checkpoint_every or (rounds > 0 and seconds >= self.engine.checkpoint_every_s)

    def _save(self) -> None:
        """Begin to write a checkpoint; where workers have come, wait for it and give them their share."""
        gained = self.executor.gained()
        try:
            self._checkpoint()
            if gained:
                self.checkpoints.wait(STORE_TIMEOUT_S)
        except StoreFault as fault:
            return self._put_off(fault)
        if gained:
            _log.info("taking up new workers in round %d", self.round)
            self._recover()

    def _commit(self) -> None:
        """Write a checkpoint and wait for it."""
        while True:
            try:
                self._checkpoint()
                return self.checkpoints.wait(STORE_TIMEOUT_S)
            except StoreFault as fault:
                self._endure(fault)

    def _checkpoint(self) -> None:
        """Begin to write a checkpoint of the state as it is now."""
        self.checkpoints.wait(STORE_TIMEOUT_S)
        self.lease.check()
        self._bring_home()
        units = self.executor.snapshot(to_arrays(self.variables), self.checkpoints.url(self.round))
        round, lines, seconds = self.round, list(self.lines), self.clock.seconds()
        history = self._history()

        def extras() -> None:
            self.lease.check()
            self.validation.settle(round, STORE_TIMEOUT_S)
            write_metrics(self.run, lines)
            for name, data in history.items():
                self.run.folder("history").write(name, data)
            self.watching.checkpoint(round, lines)

        self.checkpoints.write(self.round, self.variables, self.optimiser, units, extras, seconds)
        self._last, self._again_at = (self.round, time.monotonic()), None

    def _history(self) -> dict[str, bytes]:
        """Return the images as they are now, for the report, where this checkpoint is a step in a log-spaced row."""
        if self.kept and self.round < self.rounds and self.round < 1.5 * max(self.kept):
            return {}
        self.kept.append(self.round)
        images = self.method.distilled(self.variables)["images"]
        images = images[: max(1, HISTORY_BYTES // images[0].nbytes)].contiguous()
        return {f"{self.round:08d}.safetensors": safetensors.torch.save({"images": images})}
