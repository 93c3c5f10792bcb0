"""How long a round takes on W workers, and what the time goes to: a model, calibrated by what one worker measures.

    seconds = slots of the busiest worker x slot_s + units of the busiest worker x unit_s + shared_s + update + exchange

Assumptions, all of them optimistic but the first:

1. Nothing overlaps: a worker computes, then exchanges, then takes its step.
2. Workers are equally fast and have nothing else to do; none is lost; real images are at hand; checkpoints cost nothing.
3. Every worker has a link of its own of `gbit_s` in each direction, and collectives go once round a ring: W - 1 messages in a
   row. Through the object store everything passes the coordinator's link, and each worker costs it a call.
4. A device that is `speed` times as fast as the calibrated one is so at everything, however small; the coordinator is no faster.

What each way of exchange moves, |S| being the bytes of the variables: `resident` nothing. `collective`, where a round is the
mean of n gradients: a worker receives n / W pieces and then all the others' means, 2 |S| at n = W whatever W is; where slots
give rows: all of them, n |S| for n networks. `store`: |S| out to every worker and n |S| in, both by the coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raydd.engine.executor import deal
from raydd.engine.held import Exchange, automatic

ARITHMETIC = "the slots themselves"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round of a method asks for, seconds on the calibrated device.

    Attributes:
        slots: Slots of a round, dealt out as equally as can be; those of one unit are neighbours.
        slot_s: Seconds of one of them.
        size: Bytes of the variables.
        units: Networks that evolve beside the slots; each worker that has a slot of one trains it.
        unit_s: Seconds that one takes after a round.
        shared_s: Seconds of what every worker makes for itself, such as DM's embedding.
        update_s: Seconds of the optimiser's step on all variables.
        gradients: How many gradients of all variables come together in a round: members, or networks.
        averages: Whether a slot gives gradients of everything, and a round their mean.
        separable: Whether slots own their rows, so that nothing need be exchanged.
    """

    slots: int
    slot_s: float
    size: int
    units: int = 0
    unit_s: float = 0.0
    shared_s: float = 0.0
    update_s: float = 0.0
    gradients: int = 1
    averages: bool = False
    separable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a cluster is taken to be.

    Attributes:
        speed: Times that a worker is faster than the calibrated device.
        gbit_s: Bandwidth of a worker's link, and of the coordinator's.
        latency_s: Of a message from one worker to another.
        call_s: What a call of one worker costs the coordinator.
    """

    speed: float = 1.0
    gbit_s: float = 25.0
    latency_s: float = 50e-6
    call_s: float = 300e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A round on W workers.

    Attributes:
        workers: W.
        seconds: Of a round.
        ideal_s: What it would be if all work were spread evenly and nothing exchanged.
        lost: Seconds of a round beyond that, by cause.
        exchange: How variables and gradients travel.
        received: Bytes that the busiest link takes in or gives out, whichever is more.
    """

    workers: int
    seconds: float
    ideal_s: float
    lost: dict[str, float] = field(default_factory=dict)
    exchange: Exchange = "store"
    received: int = 0

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that is not lost, in [0, 1]."""
        return self.ideal_s / self.seconds if self.seconds else 1.0

    @property
    def bottleneck(self) -> str:
        """What more speed must come from: the slots, or the greatest loss where it is above a twentieth of the time."""
        cause = max(self.lost, key=lambda name: self.lost[name], default="")
        return cause if cause and self.lost[cause] > 0.05 * self.seconds else ARITHMETIC


def predict(round: Round, workers: int, cluster: Cluster, exchange: Exchange | None = None) -> Prediction:
    """Return what a round takes.

    Args:
        round: The work.
        workers: W; 0 is a process by itself, which exchanges nothing.
        cluster: The assumptions.
        exchange: How variables travel; by default as the engine chooses.
    """
    size, speed = max(1, workers), cluster.speed
    way = exchange or ("store" if not workers else automatic(round.separable, round.size, workers))
    slots, units = _busiest(round, size)
    moved, in_a_row, calls = _traffic(round, workers, way)
    # Rows of their own are stepped by their workers, variables of the coordinator by it.
    update = round.update_s if way == "store" and workers else round.update_s / speed
    update_at_most = update / size if way == "resident" else update
    even = (round.slots * round.slot_s + round.units * round.unit_s + round.shared_s + round.update_s) / speed / size
    lost = {
        "uneven shares of slots": (slots - round.slots / size) * round.slot_s / speed,
        "networks that train on every worker": (units - round.units / size) * round.unit_s / speed,
        "what every worker makes for itself": round.shared_s * (1 - 1 / size) / speed,
        "the optimiser's step": max(0.0, update_at_most - round.update_s / speed / size),
        "bandwidth": moved * 8 / (cluster.gbit_s * 1e9),
        "latency": in_a_row * cluster.latency_s,
        "calls of workers": calls * cluster.call_s,
    }
    seconds = even + sum(lost.values())
    return Prediction(workers=workers, seconds=seconds, ideal_s=even, lost=lost, exchange=way, received=moved)


def _busiest(round: Round, workers: int) -> tuple[int, int]:
    """Return the slots of the worker that takes longest, and the units that they are of."""
    per_unit = round.slots / round.units if round.units else 1.0

    def load(share: range) -> tuple[int, int]:
        last = int((share.stop - 1) // per_unit) if share else -1
        return len(share), (last - int(share.start // per_unit) + 1 if share and round.units else 0)

    loads = [load(share) for share in deal(round.slots, workers)]
    return max(loads, key=lambda pair: pair[0] * round.slot_s + pair[1] * round.unit_s)


def _traffic(round: Round, workers: int, way: Exchange) -> tuple[int, int, int]:
    """Return the bytes through the busiest link, messages in a row, and calls of the coordinator."""
    if way == "resident" or not workers:
        return 0, 0, 0
    if way == "store":
        return round.size * max(workers, round.gradients), 2, workers
    if workers == 1:
        return 0, 0, 0
    ring = workers - 1
    if round.averages:
        # The counts, the pieces, their means.
        return round.size * (round.gradients + workers) * ring // workers**2, 3 * ring, 0
    return round.size * round.gradients * ring // workers, 2 * ring, 0
