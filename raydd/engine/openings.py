"""Openings: places asked of a Ray cluster for workers, and the workers that come into them, at once or hours later."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raydd.config import EngineConfig
from raydd.engine.actor import DistillWorker
from raydd.engine.cluster import Hand, Place, engage, hired, release_idle, take_idle
from raydd.engine.waiting import succeeded

SAY_AFTER_S = 15.0
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

    def fill(self, count: int, want: int, timeout_s: float) -> list[Hand]:
        """Return up to `count` workers: all that are there, and `want` of them are waited for.

        Workers that were kept from an earlier run are taken first. Places that stay open are kept open.
        """
        hands = take_idle(self.shape, count)
        if len(hands) < count:
            # What is kept in another shape would only stand in the way.
            release_idle()
        self._ask(count - len(hands))
        deadline, patience = time.monotonic() + timeout_s, SAY_AFTER_S
        while self.coming and len(hands) < want and (left := deadline - time.monotonic()) > 0:
            hands += self._come(want - len(hands), min(left, patience))
            if patience < timeout_s and len(hands) < want:
                # An autoscaler takes minutes to start a node.
                _log.info("%d of %d workers are there; waiting up to %.0f s for the others", len(hands), want, left)
                patience = timeout_s
        hands += self._come(1, 0)
        engage(hands)
        return hands

    def any_come(self) -> bool:
        """Say whether a worker has come; never waits."""
        answers = [coming.answer for coming in self.coming]
        ready = ray.wait(answers, num_returns=len(answers), timeout=0)[0] if answers else []
        return any(succeeded(answer) for answer in ready)

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

    def _come(self, most: int, timeout_s: float) -> list[Hand]:
        """Wait until so many have come or failed; return those that have come."""
        answers = {coming.answer: coming for coming in self.coming}
        if not answers:
            return []
        ray.wait(list(answers), num_returns=min(most, len(answers)), timeout=timeout_s)
        ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=0)
        done = [answers[ref] for ref in ready]
        self.coming = [coming for coming in self.coming if coming not in done]
        hands = [coming.hand for coming in done if succeeded(coming.answer)]
        for coming in done:
            if coming.hand not in hands:
                _log.warning("a worker did not start")
                coming.hand.dismiss()
        return hands


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
