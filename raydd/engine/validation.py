"""Scores on the validation part while a run goes on: the round loop hands sets over and never waits for their scores.

A set that is to be scored is written as an artifact, `validation/<round>/`, before the checkpoint that comes after its round,
so that a run that goes on elsewhere finds every set that still lacks its score. Scores are worked out beside the run, by a
process of this machine or a task on the cluster; what is left when the rounds are done is left to the workers.
"""

from __future__ import annotations

import json
import logging
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from raydd.config import Config, EngineConfig
from raydd.distilled import DistilledSet
from raydd.engine.numerics import apply_numerics, keep_heap
from raydd.errors import EngineError, StoreFault
from raydd.evaluate import validate
from raydd.methods import Tensors
from raydd.store import Folder
from raydd.threads import Threads

FOLDER = "validation"
POLL_S = 0.2
# The longest that the store may take for a set, and the pause between two tries; the longest for all that is under way when a
# run ends for another reason.
WRITE_S, AGAIN_S, CLOSE_S = 1800.0, 5.0, 60.0
_ROUND = re.compile(r"\d{8}")
_log = logging.getLogger("raydd")

Score = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """How sets are scored; plain data, since it travels to other processes and is kept beside the scores.

    Attributes:
        train: URL of the packed training shards, of which the validation part is read.
        protocol: Name of the protocol.
        nets: Networks as plain data; None for the set's own.
        repeats: Networks trained on each set.
        seed: Root of their draws.
        engine: What decides the numerics, as plain data.
    """

    train: str
    protocol: str
    nets: list[dict[str, Any]] | None
    repeats: int
    seed: int
    engine: dict[str, Any]

    @classmethod
    def of(cls, config: Config, train: str) -> Ask:
        """Return what a resolved config asks for."""
        wanted, engine = config.evaluate, config.engine
        return cls(
            train=train,
            protocol=wanted.protocol,
            nets=None if wanted.nets == "auto" else [net.model_dump(mode="json") for net in wanted.nets],
            repeats=max(1, wanted.repeats),
            seed=config.seed,
            engine=engine.model_dump(include={"cpus_per_worker", "gpus_per_worker", "deterministic", "precision"}),
        )


def score_of(ask: Ask, url: str) -> Score:
    """Return mean and deviation, in percent, of networks trained on the set at `url` and scored on the validation part.

    The same wherever it is called, and whenever.
    """
    each = validate(
        DistilledSet.load(url),
        train=ask.train,
        protocol=ask.protocol,
        nets=ask.nets,
        repeats=ask.repeats,
        seed=ask.seed,
        device="cuda" if ask.engine["gpus_per_worker"] else "cpu",
    )
    deviation = statistics.stdev(each) if len(each) > 1 else 0.0
    return {"val_accuracy": round(statistics.fmean(each), 4), "val_std": round(deviation, 4)}


def score_in_a_process(ask: Ask, url: str, stop: threading.Event) -> Score | None:
    """Let another Python process of this machine do `score_of`; None when stopped, or when that process fails."""
    command = [sys.executable, "-m", "raydd.engine.validation"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        told = json.dumps({"ask": asdict(ask), "url": url}).encode()
        while True:
            try:
                out, err = process.communicate(told, timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                told = None
                if stop.is_set():
                    process.kill()
    if process.returncode:
        if not stop.is_set():
            _log.warning("a score beside the run failed (%s); it is left to the end", err.decode().strip()[-200:])
        return None
    return json.loads(out)


class Validation:
    """The sets of a run that were handed over, and their scores.

    Args:
        run: The run's folder.
        every: Rounds between two sets; 0 for none.
        ask: How they are scored.
        make: Makes a set of variables and the number of rounds that they have seen.
        beside: Does `score_of` without anybody waiting but the thread that called it; returns None when the event says
            stop, or when it cannot.
        told: Called with the round of each score as it becomes known, from any thread; also of those known from before.
        failed: Called with the fault when a score will not come, from any thread; `settle` raises it as well.
    """

    def __init__(
        self,
        run: Folder,
        every: int,
        ask: Ask,
        make: Callable[[Tensors, int], DistilledSet],
        beside: Callable[[Ask, str, threading.Event], Score | None],
        told: Callable[[int, Score], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        self.folder, self.every, self.ask, self.make, self.beside = run.folder(FOLDER), every, ask, make, beside
        self.scores: dict[int, Score] = {}
        self._told, self._failed = told, failed
        self._written: dict[int, Future[None]] = {}
        self._scored: list[Future[None]] = []
        self._stop = threading.Event()
        # One thread writes and one waits for scores: no set is late because a score is.
        self._writer, self._waiter = Threads("validation-set"), Threads("validation-score")

    def enter(self) -> None:
        """Find what a run that goes on has: sets with their scores, and sets that still lack them."""
        if not self.every:
            return
        for name in self.folder.folders():
            if _ROUND.fullmatch(name) and self._at(int(name)).exists("manifest.json"):
                self._hand_over(int(name), lambda: None)

    def wants(self, round: int, *, last: bool) -> bool:
        """Whether the set after `round` rounds is to be handed over: it is its turn, or the last."""
        return bool(self.every) and (last or round % self.every == 0)

    def offer(self, variables: Tensors, round: int) -> None:
        """Hand over the variables after `round` rounds; returns at once."""
        # No update changes a tensor in place, so they may be read while the rounds go on.
        self._hand_over(round, lambda: self.make(variables, round).save(self._at(round)))

    def _hand_over(self, round: int, write: Callable[[], None]) -> None:
        if round not in self._written:
            self._written[round] = self._writer.submit(partial(self._write, write))
            self._scored.append(self._waiter.submit(partial(self._score, round)))

    def _write(self, write: Callable[[], None]) -> None:
        """Write a set, though the store be away for a while: checkpoints wait for it, rounds do not."""
        deadline = time.monotonic() + WRITE_S
        while True:
            try:
                return write()
            except StoreFault as fault:
                if time.monotonic() > deadline or self._stop.wait(AGAIN_S):
                    raise
                _log.warning("a set for the validation part cannot be written (%s); trying on", fault)

    def settle(self, round: int, timeout_s: float) -> None:
        """Wait until all sets up to a round are written: a checkpoint of that round may then be relied on."""
        _end_well([written for at, written in list(self._written.items()) if at <= round], timeout_s)

    def finish(
        self, map: Callable[..., list[Score]], on_result: Callable[[int, int], None] | None = None
    ) -> dict[int, Score]:
        """Return all scores by round, after letting `map` do what was not done beside the run.

        Args:
            map: As `Executor.map`.
            on_result: Told how many of those that were left are done.
        """
        self._stop.set()
        _end_well(self._scored, WRITE_S)
        left = sorted(self._written.keys() - self.scores.keys())
        if left and on_result is not None:
            on_result(0, len(left))
        scores = map(score_of, [self._at(round).url for round in left], self.ask, on_result)
        for round, score in zip(left, scores, strict=True):
            self._keep(round, score)
        self.close()
        return dict(sorted(self.scores.items()))

    def load(self, round: int) -> DistilledSet:
        """Return the set of a round that was handed over."""
        return DistilledSet.load(self._at(round).url)

    def close(self) -> None:
        """Stop what is under way; what has no score yet gets it when the run goes on."""
        self._stop.set()
        if not all([self._writer.close(CLOSE_S), self._waiter.close(CLOSE_S, drop=True)]):
            _log.warning("a set or a score is given up: the store takes longer than %g s", CLOSE_S)

    def _at(self, round: int) -> Folder:
        return self.folder.folder(f"{round:08d}")

    def _score(self, round: int) -> None:
        try:
            self._work_out(round)
        except Exception as error:
            if self._failed is not None:
                self._failed(error)
            raise

    def _work_out(self, round: int) -> None:
        _end_well([self._written[round]], WRITE_S)
        score = self._known(round)
        if score is not None:
            self._note(round, score)
        elif not self._stop.is_set():
            score = self.beside(self.ask, self._at(round).url, self._stop)
            if score is not None:
                self._keep(round, score)

    def _known(self, round: int) -> Score | None:
        """Return a score that was worked out before, unless it was asked for in another way."""
        if not self._at(round).exists("score.json"):
            return None
        record = self._at(round).record("score.json")
        return record.get("score") if record.get("ask") == asdict(self.ask) else None

    def _keep(self, round: int, score: Score) -> None:
        self._at(round).write_json("score.json", {"ask": asdict(self.ask), "score": score})
        self._note(round, score)

    def _note(self, round: int, score: Score) -> None:
        self.scores[round] = score
        if self._told is not None:
            self._told(round, score)


def _end_well(parts: Sequence[Future[None]], timeout_s: float) -> None:
    """Wait until all of them are done; raise what one of them raised, and EngineError when it takes longer."""
    if wait(parts, timeout_s).not_done:
        raise EngineError(
            f"expected sets for the validation part to be written within {timeout_s:g} s, got none; check the store"
        )
    for part in parts:
        part.result()


def main() -> None:
    """Do one `score_of`: what is asked comes as JSON on stdin, the score goes as JSON to stdout."""
    told = json.load(sys.stdin)
    ask = Ask(**told["ask"])
    keep_heap()
    apply_numerics(EngineConfig.model_validate(ask.engine))
    json.dump(score_of(ask, told["url"]), sys.stdout)


if __name__ == "__main__":
    main()
