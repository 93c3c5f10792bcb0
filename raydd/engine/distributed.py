"""`RayExecutor`: deals slots to workers on a Ray cluster, notices their loss, and finds others."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from raydd.config import EngineConfig
from raydd.engine.cluster import Hand, connect, release
from raydd.engine.executor import Executor, Item, Result, Shared, deal, units_of
from raydd.engine.faults import WorkersLost
from raydd.engine.group import Place
from raydd.engine.held import Exchange, join
from raydd.engine.job import Job
from raydd.engine.numerics import apply_numerics, differences, keep_heap
from raydd.engine.openings import Openings
from raydd.engine.telemetry import nodes_of
from raydd.engine.validation import Ask, Score, score_of
from raydd.engine.waiting import LOOK_EVERY_S, gather, silent
from raydd.engine.work import Arrays, Reply, bytes_of
from raydd.errors import EngineError
from raydd.methods import Slot, Tensors
from raydd.store import Entry

T = TypeVar("T")
SCORE_LOOK_S = 0.5
MOST_MAP_LOSSES = 20
# One network's training is hours where a whole ImageNet is trained on; what takes a week on workers stands still.
ITEM_TIMEOUT_S = 7 * 86400.0
_INLINE_BYTES = 100_000
_log = logging.getLogger("raydd")


@ray.remote(max_retries=2)
def _score(ask: Ask, url: str) -> Score:
    keep_heap()
    apply_numerics(EngineConfig.model_validate(ask.engine))
    return score_of(ask, url)


class RayExecutor(Executor):
    """Workers on a Ray cluster.

    Raises:
        ConfigError: When no node could hold a worker.
        EngineError: When fewer than `min_workers` can be had within `start_timeout_s`.
    """

    def __init__(self, engine: EngineConfig) -> None:
        self.engine = engine
        connect(engine)
        self.openings = Openings(engine)
        self.hands: list[Hand] = self.openings.fill(engine.workers, engine.workers, engine.start_timeout_s)
        self.doing = "the beginning"
        self.slots: Sequence[Slot] = ()
        self.job: Job | None = None
        self.whitening: Arrays | None = None
        self.begun: list[Hand] = []
        self.keeping: Exchange = "store"
        self._check_enough(engine.start_timeout_s)

    @property
    def workers(self) -> int:  # type: ignore[override]
        """How many workers there are now."""
        return len(self.hands)

    def _check_enough(self, waited_s: float) -> None:
        if len(self.hands) < self.engine.min_workers:
            wanted, got = f"expected at least {self.engine.min_workers} workers", len(self.hands)
            failed, given_up = self.openings.failures(), not self.openings.coming
            self.close()
            if failed and given_up:
                raise EngineError(
                    f"{wanted}, got {got}{failed}; mend that on the cluster's nodes, or lower engine.min_workers"
                )
            raise EngineError(
                f"{wanted} within {waited_s:g} s, got {got}{failed}; "
                "free CPUs or GPUs on the cluster, or lower engine.workers and engine.min_workers"
            )
        if len(self.hands) < self.engine.workers:
            _log.warning("going on with %d of %d workers", len(self.hands), self.engine.workers)

    def begin(self, job: Job, slots: Sequence[Slot], whitening: Arrays | None) -> None:
        """See the base class."""
        self.job, self.slots, self.whitening = job, slots, whitening
        self.begun = []
        self._begin(self.hands)

    def _begin(self, hands: Sequence[Hand]) -> None:
        """Give the run to workers that do not have it; those that do keep the images they hold."""
        if self.job is not None:
            shared = ray.put(self.whitening)
            told = self._get([hand.actor.begin.remote(self.job, shared) for hand in hands], hands)
            self.begun = [*self.begun, *hands]
            for other in sorted({text for theirs in told for text in differences(theirs)}):
                _log.warning("a worker is of another kind than this process, so the last bits may differ: %s", other)

    def _shares(self) -> list[Sequence[Slot]]:
        return [[self.slots[i] for i in share] for share in deal(len(self.slots), len(self.hands))]

    def initial(self) -> Arrays:
        """See the base class."""
        return self._get([self.hands[0].actor.initial.remote()], self.hands[:1])[0]

    def fresh(self) -> None:
        """See the base class."""
        pairs = zip(self.hands, self._shares(), strict=True)
        self._get([hand.actor.fresh.remote(units_of(share)) for hand, share in pairs], self.hands)

    def restore(self, checkpoint: str, entries: dict[str, Entry]) -> None:
        """See the base class."""
        pairs = zip(self.hands, self._shares(), strict=True)
        calls = [hand.actor.restore.remote(units_of(share), checkpoint, entries) for hand, share in pairs]
        self._get(calls, self.hands)

    def advance(self, round: int, variables: Arrays, slots: Sequence[int]) -> list[Reply]:
        """See the base class."""
        self.doing = f"round {round}"
        small = bytes_of(variables) < _INLINE_BYTES
        payload = variables if small else ray.put(variables)
        shares = deal(len(self.slots), len(self.hands))
        calls = [
            hand.actor.advance.remote(round, payload, [i for i in slots if i in share])
            for hand, share in zip(self.hands, shares, strict=True)
        ]
        replies = in_order(self._get(calls, self.hands))
        self.exchanged += len(self.hands) * bytes_of(variables) + sum(bytes_of(reply.gradients) for reply in replies)
        return replies

    def hold(self, variables: Arrays, optimiser: Arrays, exchange: Exchange) -> None:
        """See the base class."""
        self.keeping = exchange
        if exchange == "store":
            return
        payload, size = ray.put((variables, optimiser)), len(self.hands)
        places: list[Place | None] = [None] * size
        if exchange == "collective" and size > 1:
            host, port = self._get([self.hands[0].actor.meet.remote()], self.hands[:1])[0]
            timeout_s = self.engine.step_timeout_s
            places = [Place(host=host, port=port, rank=i, size=size, timeout_s=timeout_s) for i in range(size)]
        calls = [
            hand.actor.hold.remote(list(share), payload, place, split=self._split)
            for hand, share, place in zip(self.hands, deal(len(self.slots), size), places, strict=True)
        ]
        self._get(calls, self.hands)
        self.exchanged += size * (bytes_of(variables) + bytes_of(optimiser))

    @property
    def _split(self) -> bool:
        """Whether workers keep the rows of their slots only."""
        return self.keeping == "resident" and len(self.hands) > 1

    def advance_held(self, first: int, count: int) -> list[list[Reply]]:
        """See the base class."""
        self.doing = f"round {first}" if count == 1 else f"rounds {first} to {first + count - 1}"
        parts = self._get([hand.actor.advance_held.remote(first, count) for hand in self.hands], self.hands)
        # A worker that met numbers that are not finite stopped there; those that need nothing of it went on.
        return [in_order(replies) for replies in zip(*parts, strict=False)]

    def bring(self) -> tuple[Tensors, Tensors]:
        """See the base class."""
        busy = [hand for hand, share in zip(self.hands, self._shares(), strict=True) if share]
        hands = busy if self._split else self.hands[:1]
        parts = self._get([hand.actor.bring.remote() for hand in hands], hands)
        self.exchanged += sum(bytes_of(arrays) for part in parts for arrays in part)
        return join(parts)

    def snapshot(self, variables: Arrays, checkpoint: str) -> Callable[[], dict[str, Entry]]:
        """See the base class."""
        hands = list(self.hands)
        kept = self.keeping != "store"
        payload = None if kept else ray.put(variables)
        calls, written = [], set()
        for hand, share in zip(hands, self._shares(), strict=True):
            # Workers may hold the same unit; one of them writes it.
            units = [unit for unit in units_of(share) if unit not in written]
            written.update(units)
            calls.append(hand.actor.snapshot.remote(payload, checkpoint, units))
        self._get(calls, self.hands)
        timeout_s = self.engine.step_timeout_s

        def wait() -> dict[str, Entry]:
            parts = self._get([hand.actor.snapshot_written.remote(timeout_s) for hand in hands], hands)
            return {name: entry for part in parts for name, entry in part.items()}

        return wait

    def _get(self, refs: list[Any], hands: Sequence[Hand]) -> list[Any]:
        """Wait for a reply of each of these workers; see `gather`."""
        return gather(refs, hands, self.doing, self.engine.step_timeout_s)

    def recover(self, *, turn: bool = False) -> None:
        """See the base class."""
        before, mute = len(self.hands), silent(self.hands)
        self._dismiss([hand for hand in self.hands if hand.lost or hand in mute])
        if self.keeping == "collective" and len(self.hands) < before:
            # Whoever still waits for the gradients of one that only fell silent would do so for hours.
            self._dismiss(silent(self.hands, idle=True))
        timeout_s = self.engine.replace_timeout_s
        # Only what was lost just now is waited for; what was missing before may come whenever it comes.
        alive = len(self.hands)
        self.hands += self.openings.fill(self.engine.workers - alive, before - alive, timeout_s)
        if turn:
            self.hands = [*self.hands[1:], *self.hands[:1]]
        self._check_enough(timeout_s)
        self._begin([hand for hand in self.hands if hand not in self.begun])

    def _dismiss(self, hands: Sequence[Hand]) -> None:
        for hand in hands:
            hand.dismiss()
        self.hands = [hand for hand in self.hands if hand not in hands]

    def gained(self) -> bool:
        """See the base class."""
        return self.openings.any_come()

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        items: Sequence[Item],
        shared: Shared,
        on_result: Callable[[int, int], None] | None = None,
    ) -> list[Result]:
        """See the base class. An item whose worker is lost is done again by another."""
        results: dict[int, Result] = {}
        held = ray.put(shared)
        losses = 0
        self.doing, self.keeping = "a part of the evaluation", "store"
        while len(results) < len(items):
            todo = [i for i in range(len(items)) if i not in results]
            try:
                for index, result in self._spread(function, items, held, todo):
                    results[index] = result
                    if on_result is not None:
                        on_result(len(results), len(items))
            except WorkersLost as loss:
                losses += 1
                if losses > MOST_MAP_LOSSES:
                    raise EngineError(
                        f"lost workers {losses} times in one evaluation ({loss}); give them more memory"
                    ) from loss
                _log.warning("lost a worker (%s); doing its part again", loss)
                self.recover()
        return [results[i] for i in range(len(items))]

    def _spread(
        self, function: Callable[[Any, Any], Any], items: Sequence[Any], shared: Any, todo: Sequence[int]
    ) -> Iterator[tuple[int, Any]]:
        """Give the next item to whoever is free; yield results as they come.

        Nobody knows how long an item takes: who answers pings is at work, for as long as `ITEM_TIMEOUT_S`.
        """
        waiting, free = list(reversed(todo)), list(self.hands)
        busy: dict[Any, tuple[int, Hand, float]] = {}
        while waiting or busy:
            while waiting and free:
                index, hand = waiting.pop(), free.pop()
                busy[hand.actor.call.remote(function, shared, items[index])] = (index, hand, time.monotonic())
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=LOOK_EVERY_S)
            if not ready:
                mute = silent([hand for _, hand, _ in busy.values()])
                if mute:
                    raise WorkersLost(f"{len(mute)} of {len(self.hands)} workers did not answer in time")
                self._check_moves(busy.values())
                continue
            index, hand, _ = busy.pop(ready[0])
            yield index, self._get(ready, [hand])[0]
            free.append(hand)

    def _check_moves(self, busy: Iterable[tuple[int, Hand, float]]) -> None:
        """Check that nobody has been at its item for longer than anybody would wait."""
        stuck = [hand for _, hand, since in busy if time.monotonic() - since > ITEM_TIMEOUT_S]
        if stuck:
            # They are not to be kept for the next run.
            self._dismiss(stuck)
            raise EngineError(
                f"expected {self.doing} within {ITEM_TIMEOUT_S / 3600:g} h, got none from a worker that answers pings; "
                "run the same command again, with fewer epochs if it takes that long"
            )

    def score_beside(self, ask: Ask, url: str, stop: Event) -> Score | None:
        """See the base class. A task, which waits for resources that no worker holds."""
        engine = self.engine
        task = _score.options(num_cpus=engine.cpus_per_worker, num_gpus=engine.gpus_per_worker).remote(ask, url)
        while not stop.is_set():
            ready, _ = ray.wait([task], timeout=SCORE_LOOK_S)
            if ready:
                try:
                    return ray.get(task)
                except RayError as error:
                    _log.warning(
                        "a score beside the run failed (%s); it is left to the end", str(error).splitlines()[0]
                    )
                    return None
        ray.cancel(task, force=True)
        return None

    def where(self) -> dict[str, int]:
        """See the base class."""
        return nodes_of(self.hands)

    def end(self) -> None:
        """See the base class."""
        self.job, self.begun, self.keeping = None, [], "store"
        for hand in self.hands:
            # Nobody waits for it: whatever comes next stands in the same queue.
            hand.actor.end.remote()

    def close(self) -> None:
        """See the base class."""
        self.openings.close()
        release(self.hands)
        self.hands = []


def in_order(parts: Sequence[Sequence[Reply]]) -> list[Reply]:
    """Return what workers replied in the order of slots."""
    return sorted((reply for part in parts for reply in part), key=lambda reply: reply.slot)
