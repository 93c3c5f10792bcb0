"""What a run will take: hours, memory, storage, bytes exchanged; from a timed share of a slot and the model of `scaling.py`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from raydd import text
from raydd.config import Config, DataFacts
from raydd.data.reader import AUTO_BYTES
from raydd.engine.coordinator import HISTORY_BYTES
from raydd.engine.executor import deal
from raydd.engine.numerics import numerics
from raydd.engine.scaling import Cluster, predict
from raydd.engine.share import Load, measure
from raydd.errors import ConfigError

#: How many times a GPU is taken to be faster than the processor that a share was timed on, where there is none here.
GPU_SPEED = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a run will take, roughly.

    Attributes:
        hours: Of all rounds of all sets; packing, reading the data for the first time and evaluation come on top.
        rounds: Of a set.
        seconds_a_round: Of all workers together.
        workers: How many; 0: one process without Ray.
        efficiency: Share of the workers' time that is not lost.
        bottleneck: What more speed would have to come from.
        exchange: How variables and gradients travel.
        exchanged_bytes: A round, through the busiest link.
        memory_bytes: A worker, in all.
        memory: The same by purpose.
        storage_bytes: The run's folder, and the shards where they are not packed yet.
        checkpoint_bytes: One checkpoint.
        cache_bytes: Decoded images on the disk of each node.
        missing: What must be made or fetched before the first round.
        assumptions: What all of this stands on, in one line.
        price: Dollars an hour and worker, as they were given; None: not given.
    """

    hours: float
    rounds: int
    seconds_a_round: float
    workers: int
    efficiency: float
    bottleneck: str
    exchange: str
    exchanged_bytes: int
    memory_bytes: int
    memory: dict[str, int]
    storage_bytes: int
    checkpoint_bytes: int
    cache_bytes: int
    missing: tuple[str, ...]
    assumptions: str
    price: float | None = None

    @property
    def cost(self) -> float | None:
        """Dollars for the rounds, at the price; one process costs as much as one worker."""
        return None if self.price is None else self.price * self.hours * max(1, self.workers)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "cost": self.cost}

    def lines(self) -> dict[str, str]:
        """Return it as people read it, by what it is."""
        parts = ", ".join(f"{name} {text.size(count)}" for name, count in self.memory.items() if count)
        who = f"{self.workers} worker{'s' if self.workers > 1 else ''}" if self.workers else "one process"
        lines = {
            "time": f"{text.duration(self.hours * 3600)}: {text.number(self.rounds)} rounds of {self.seconds_a_round:.3g} s",
            "by": f"{who}, {100 * self.efficiency:.0f} % of the time well spent; bottleneck: {self.bottleneck}",
            "exchange": f"{self.exchange}, {text.size(self.exchanged_bytes)} a round through the busiest link",
            "memory a worker": f"{text.size(self.memory_bytes)} ({parts})",
            "storage": f"{text.size(self.storage_bytes)}; a checkpoint {text.size(self.checkpoint_bytes)}",
        }
        if self.cost is not None:
            lines["cost"] = (
                f"{_dollars(self.cost)} at ${self.price:g} an hour and worker; storage and the head come on top"
            )
        if self.cache_bytes:
            lines["cache a node"] = f"{text.size(self.cache_bytes)} on disk"
        return {**lines, "before": "; ".join(self.missing) or "nothing", "assumed": self.assumptions}


def estimate(
    config: Config,
    facts: DataFacts,
    counts: Sequence[int],
    *,
    missing: Sequence[str] = (),
    shards: int = 0,
    price: float | None = None,
) -> Estimate:
    """Time a share of a slot in this process, for a second or so, and scale it up.

    Args:
        config: As the user wrote it.
        facts: Of its data.
        counts: Training images of each class.
        missing: What must be made first.
        shards: Bytes of the shards that are still to be packed.
        price: Dollars an hour and worker.

    Raises:
        ConfigError: When the config asks for what data or network cannot give, or names a method without rounds.
    """
    config = config.resolved(facts)
    if not config.method.iterative:
        raise ConfigError(
            f"--estimate needs a method with rounds, got method.name {config.method.name}, which chooses or computes its "
            "set at once; leave --estimate out"
        )
    window, engine = config.data.window, config.engine
    seen = list(counts) if window == "all" else [min(count, window) for count in counts]
    here = bool(engine.gpus_per_worker) and torch.cuda.is_available()
    speed = GPU_SPEED if engine.gpus_per_worker and not here else 1.0
    threads = min(engine.cpus_per_worker, os.cpu_count() or 1)
    with numerics(engine.model_copy(update={"cpus_per_worker": threads})):
        load = measure(config, facts, seen, torch.device("cuda" if here else "cpu"))
    found = predict(
        load.round, engine.workers, Cluster(speed=speed), None if engine.exchange == "auto" else engine.exchange
    )
    rounds = config.method.rounds
    memory, disk = _memory(config, facts, counts, load)
    return Estimate(
        hours=found.seconds * rounds * config.evaluate.sets / 3600,
        rounds=rounds,
        seconds_a_round=found.seconds,
        workers=engine.workers,
        efficiency=found.efficiency,
        bottleneck=found.bottleneck,
        exchange=found.exchange if engine.workers else "none",
        exchanged_bytes=found.received,
        memory_bytes=sum(memory.values()),
        memory=memory,
        storage_bytes=_storage(config, load) + shards,
        checkpoint_bytes=_checkpoint(load),
        cache_bytes=disk,
        missing=(*missing, *_whitening(config)),
        assumptions=_assumptions(config, load, threads, speed, here=here),
        price=price,
    )


def _memory(config: Config, facts: DataFacts, counts: Sequence[int], load: Load) -> tuple[dict[str, int], int]:
    """Return the bytes of a worker by purpose, and those of the decoded images on a node's disk."""
    data, round, workers = config.data, load.round, max(1, config.engine.workers)
    image = facts.channels * facts.size**2
    # Where slots are blocks of classes a worker reads its own; else all.
    share = max(len(part) for part in deal(round.slots, workers)) / round.slots if not round.averages else 1.0
    everything, disk = image * sum(counts), 0
    if data.window != "all":
        held = 2 * image * sum(min(count, data.window) for count in counts) * share
    elif data.cache == "disk" or (data.cache == "auto" and everything > AUTO_BYTES):
        held, disk = 0, everything
    else:
        held = everything * share
    # Themselves, a gradient, and new ones.
    variables = 3 * round.size + load.optimiser
    units = load.unit * max(len(part) for part in deal(load.units, workers))
    parts = {"process": load.process, "images": held, "variables": variables, "networks": units, "a slot": load.working}
    return {name: int(count) for name, count in parts.items()}, disk


def _dollars(cost: float) -> str:
    return f"${cost:,.2f}" if cost >= 0.01 or not cost else "less than $0.01"


def _checkpoint(load: Load) -> int:
    """Return the bytes of one checkpoint: variables, the optimiser's state, and that of every unit."""
    return load.round.size + load.optimiser + load.unit * load.units


def _storage(config: Config, load: Load) -> int:
    """Return the bytes of a run's folder, for all of its sets."""
    state = _checkpoint(load)
    kept = config.engine.keep_checkpoints + 1  # one is being written
    pictures = math.log(max(2, config.method.rounds), 1.5) * min(load.round.size, HISTORY_BYTES)
    return int((kept * state + load.round.size + pictures) * config.evaluate.sets)


def _whitening(config: Config) -> tuple[str, ...]:
    return () if config.data.zca is None else ("a whitening is fitted on all training images, once a store",)


def _assumptions(config: Config, load: Load, threads: int, speed: float, *, here: bool) -> str:
    share = "a slot" if load.share >= 1 else f"{100 * load.share:.2g} % of a slot"
    what = "this machine's GPU" if here else f"this machine's processor, {threads} thread{'s' if threads > 1 else ''}"
    faster = f"; a GPU {speed:g} times as fast" if speed != 1 else ""
    network, cluster = "", Cluster()
    if config.engine.workers > 1:
        network = f"; {cluster.gbit_s:g} Gb/s and {1e6 * cluster.latency_s:.0f} us between workers"
    return f"{share} timed on {what}{faster}{network}; packing, first reading, evaluation and losses not counted"
