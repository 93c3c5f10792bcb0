"""Openings: places asked of a Ray cluster for workers, and the workers that come into them, at once or hours later."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import get_current_placement_group, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydd.config import EngineConfig
from raydd.engine.actor import DistillWorker
from raydd.engine.cluster import Hand, Place, engage, hired, release_idle, take_idle

SAY_AFTER_S = 15.0
# How often a place is asked for again, on the average, whose worker failed while it started: a node may be lost just then, but
# what fails everywhere is no reason to go on for `start_timeout_s`.
MOST_AGAIN = 3
_log = logging.getLogger("raydd")


@dataclass(slots=True, eq=False)
class _Coming:
    """A worker on its way: Ray starts it when its place is granted, and only then does it answer."""

    hand: Hand
    answer: Any


class Openings:
    """The places of one engine config that no worker fills yet.

    Args:
        engine: Says what a worker needs.
    """

    def __init__(self, engine: EngineConfig) -> None:
        self.engine = engine
        self.shape = (engine.cpus_per_worker, engine.gpus_per_worker, engine.deterministic, engine.precision)
        self.coming: list[_Coming] = []
        # Of the last `fill` and since: how many workers failed while they started, why the last did, and how many may still be
        # asked for in their stead.
        self.failed, self.why, self._again = 0, "", 0

    def fill(self, count: int, want: int, timeout_s: float) -> list[Hand]:
        """Return up to `count` workers: all that are there, and `want` of them are waited for.

        Workers that were kept from an earlier run are taken first. Places that stay open are kept open. Workers that fail
        while they start are asked for again, but not for ever.
        """
        hands = take_idle(self.shape, count)
        if len(hands) < count:
            # What is kept in another shape would only stand in the way.
            release_idle()
        self.failed, self._again = 0, MOST_AGAIN * (count - len(hands))
        self._ask(count - len(hands))
        begun = time.monotonic()
        deadline, say_at = begun + timeout_s, begun + SAY_AFTER_S
        while self.coming and len(hands) < want and (now := time.monotonic()) < deadline:
            if now >= say_at:
                # An autoscaler takes minutes to start a node.
                left = deadline - now
                _log.info("%d of %d workers are there; waiting up to %.0f s for the others", len(hands), want, left)
                say_at = deadline
            ray.wait([coming.answer for coming in self.coming], timeout=min(say_at, deadline) - now)
            hands += self._take()
        hands += self._take()
        engage(hands)
        return hands

    def any_come(self) -> bool:
        """Say whether a worker has come, and ask again for those that failed; never waits."""
        return bool(self._come())

    def failures(self) -> str:
        """Return in brackets how many workers failed while they started since `fill` began; empty where none did."""
        return f" ({self.failed} failed while starting, the last by: {self.why})" if self.failed else ""

    def close(self) -> None:
        """Ask for nothing more."""
        self._ask(0)

    def _ask(self, count: int) -> None:
        for coming in self.coming[count:]:
            coming.hand.dismiss()
        del self.coming[count:]
        for place in _places(count - len(self.coming), self.shape, self.coming):
            strategy = PlacementGroupSchedulingStrategy(place.group, placement_group_bundle_index=place.bundle)
            needs = {"num_cpus": self.shape[0], "num_gpus": self.shape[1], "scheduling_strategy": strategy}
            worker: Any = DistillWorker  # Ray's decorator hides from type checkers what it adds.
            actor = worker.options(**needs).remote(self.engine)
            self.coming.append(_Coming(Hand(actor, place, self.shape), actor.ping.remote()))

    def _take(self) -> list[Hand]:
        come = self._come()
        self.coming = [coming for coming in self.coming if coming not in come]
        return [coming.hand for coming in come]

    def _come(self) -> list[_Coming]:
        """Return those that have come; give the places of those that failed back, and ask for others in their stead."""
        answers = {coming.answer: coming for coming in self.coming}
        ready = ray.wait(list(answers), num_returns=len(answers), timeout=0)[0] if answers else []
        faults = {answers[ref]: _fault(ref) for ref in ready}
        failed = [coming for coming, fault in faults.items() if fault]
        for coming in failed:
            self.why = faults[coming]
            _log.warning("a worker failed while it started: %s", self.why)
            self.coming.remove(coming)
            coming.hand.dismiss()
        self.failed += len(failed)
        again = min(len(failed), self._again)
        self._again -= again
        self._ask(len(self.coming) + again)
        return [coming for coming, fault in faults.items() if not fault]


def _fault(answer: Any) -> str:
    """Return in one line why a worker failed before its first answer; empty where it did not."""
    try:
        ray.get(answer, timeout=1)
    except RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        in_its_code = isinstance(error, RayActorError) and error.actor_init_failed
        return (lines[-1] if in_its_code else lines[0])[:300]
    return ""


def _places(count: int, shape: tuple[Any, ...], coming: list[_Coming]) -> list[Place]:
    """Return so many places, or as many as there are.

    Inside a placement group, as in a trial of Ray Tune, they are its bundles after the first, which is the trial's own.
    Else each is a group of one bundle, so that each may be lost and come back alone. Ray puts such a group where the largest
    share of resources is free, which spreads workers over nodes; it has no other soft preference for groups of one.
    """
    current = get_current_placement_group()
    if current is not None:
        taken = {hand.place.bundle for hand in [*hired(), *(c.hand for c in coming)] if hand.place.group == current}
        free = [bundle for bundle in range(1, current.bundle_count) if bundle not in taken]
        return [Place(current, bundle, ours=False) for bundle in free[: max(0, count)]]
    bundle = {"CPU": float(shape[0]), **({"GPU": float(shape[1])} if shape[1] else {})}
    return [Place(placement_group([bundle]), 0, ours=True) for _ in range(count)]
