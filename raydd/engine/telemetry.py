"""A run in Ray's metrics, which the cluster's Prometheus collects, and where its workers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge

if TYPE_CHECKING:
    from raydd.data.cache import Hits
    from raydd.engine.cluster import Hand
    from raydd.engine.watching import Watching

PING_S = 5.0


class Meter:
    """The metrics of one run. Names of runs are no tags, since every value of one is a series that Prometheus keeps.

    Args:
        method: The run's method, the tag of all of them.
    """

    def __init__(self, method: str) -> None:
        tags = {"method": method}
        self.rounds = Counter("raydd_rounds", "Rounds done", ("method",))
        self.seconds = Counter("raydd_phase_seconds", "Seconds of the round loop by phase", ("method", "phase"))
        self.bytes = Counter(
            "raydd_exchanged_bytes", "Bytes of variables and gradients to workers and back", ("method",)
        )
        self.faults = Counter("raydd_faults", "Losses of workers", ("method",))
        self.workers = Gauge("raydd_workers", "Workers of the run", ("method",))
        self.round = Gauge("raydd_round", "The run's round", ("method",))
        self.loss = Gauge("raydd_loss", "The last round's loss", ("method",))
        for metric in (self.rounds, self.seconds, self.bytes, self.faults, self.workers, self.round, self.loss):
            metric.set_default_tags(tags)
        self._told = _Told()

    def tell(self, run: Watching) -> None:
        """Bring them up to what a run has counted."""
        self._told.add(self.rounds, run.done)
        self._told.add(self.bytes, run.executor.exchanged)
        self._told.add(self.faults, run.lost)
        for phase, seconds in run.phases.items():
            self._told.add(self.seconds, seconds, {"phase": phase})
        self.workers.set(run.executor.workers)
        self.round.set(run.reached)
        if run.loss is not None:
            self.loss.set(run.loss)


class CacheMeter:
    """How often a worker found the real images of a method decoded; told by the worker itself."""

    def __init__(self, method: str) -> None:
        self.found = Counter("raydd_cache_hits", "Real images that were there decoded when asked for", ("method",))
        self.missed = Counter("raydd_cache_misses", "Real images that had to be read or waited for", ("method",))
        for metric in (self.found, self.missed):
            metric.set_default_tags({"method": method})
        self._told = _Told()

    def tell(self, hits: Hits) -> None:
        """Bring them up to what was counted."""
        self._told.add(self.found, hits.found)
        self._told.add(self.missed, hits.missed)


class _Told:
    """What counters have been told, as they take increments and runs count totals."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, ...], float] = {}

    def add(self, counter: Counter, total: float, tags: dict[str, str] | None = None) -> None:
        """Bring a counter up to a total."""
        name = (counter.info["name"], *(tags or {}).values())
        more = total - self._before.get(name, 0.0)
        self._before[name] = total
        # Ray refuses to add nothing.
        if more > 0:
            counter.inc(more, tags or {})


def nodes_of(hands: Sequence[Hand]) -> dict[str, int]:
    """Return how many workers are on each node, by its address; those that do not answer are left out."""
    try:
        return _nodes_of(hands)
    except (RayError, RuntimeError, OSError):
        return {}


def _nodes_of(hands: Sequence[Hand]) -> dict[str, int]:
    pings = [hand.actor.ping.remote() for hand in hands]
    ready, _ = ray.wait(pings, num_returns=len(pings), timeout=PING_S) if pings else ([], [])
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    found: dict[str, int] = {}
    for ref in ready:
        try:
            node = ray.get(ref, timeout=PING_S)["node"]
        except RayError:
            continue
        address = addresses.get(node, node)
        found[address] = found.get(address, 0) + 1
    return dict(sorted(found.items()))
