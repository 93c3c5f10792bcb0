"""The exchange's part of `benchmark.py`: what it costs to let gradients of some size travel, beside the bare exchange.

`Echo` is a method without arithmetic: its gradient is half of its variables. Bare is the same exchange by hand: for `store` the
driver puts the variables, actors read them and return gradients, the driver adds and updates; for `collective` actors gather
gradients by gloo, add and update. Engine and bare do the same passes over the arrays, so that the difference is the engine. With
one worker `auto` exchanges nothing, and stands beside the bare exchange that it spares.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from raydd.api import Silent, prepare
from raydd.config import MethodConfig, MethodSpec, config_from, methods
from raydd.engine.coordinator import Progress
from raydd.engine.executor import Executor, open_executor
from raydd.engine.numerics import keep_heap
from raydd.engine.run import distil
from raydd.methods.base import Contribution, Method, Slot, Tensors, mean_in_order
from raydd.store import Lease

# Rounds by size in MB. The first half is not timed: the run's first checkpoint is written behind it, and what records it loaded.
ROUNDS = {1: 600, 10: 200, 50: 80}


class EchoConfig(MethodConfig):
    """As many slots, each with a gradient of everything, as `members`."""

    name: Literal["echo"] = "echo"
    images: int = 1
    members: int = 1


class Echo(Method[EchoConfig]):
    """A method that computes next to nothing."""

    def all_slots(self) -> tuple[Slot, ...]:
        """Return the members."""
        return tuple(Slot(index) for index in range(self.config.members))

    def real_ids(self, round: int, slot: Slot) -> Tensor:
        """Return no real image."""
        return torch.empty(0, dtype=torch.int64)

    def init(self, x_real: Tensor) -> Tensors:
        """Return ones."""
        return {"x_syn": torch.ones(self.config.images, *self.problem.shape)}

    def optimiser(self, variables: Tensors) -> Tensors:
        """Return nothing."""
        return {}

    def contribution(
        self, round: int, slot: Slot, variables: Tensors, state: Tensors, shared: Any, x_real: Tensor, y_real: Tensor
    ) -> Contribution:
        """Return half of the variables."""
        return Contribution(slot, {"x_syn": variables["x_syn"] * 0.5}, {"loss": 0.0})

    def update(self, round: int, variables: Tensors, optimiser: Tensors, gradients: Tensors) -> tuple[Tensors, Tensors]:
        """Take a step."""
        return {"x_syn": variables["x_syn"].add(gradients["x_syn"], alpha=-0.01)}, optimiser

    def distilled(self, variables: Tensors) -> Tensors:
        """Return something."""
        return {"images": variables["x_syn"], "labels": torch.zeros(len(variables["x_syn"]), dtype=torch.int64)}


def announce(shared: None, item: Any) -> None:
    """Make `echo` known in this process."""
    spec = MethodSpec(config=EchoConfig, implementation="benchmark_exchange:Echo", paper="-", learns="-", slots="-")
    methods()[spec.name] = spec


class Stopwatch(Silent):
    """Notes when rounds are done; those of a span come together."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def round(self, progress: Progress) -> None:
        """Note it."""
        self.times.append(time.perf_counter())

    def per_round(self) -> float:
        """Return seconds a round in the second half."""
        start = self.times[len(self.times) // 2]
        later = [at for at in self.times if at > start + 1e-3]
        return (later[-1] - start) / len(later)


def engine_round(
    executor: Executor, source: str, store: str, name: str, images: int, exchange: str, rounds: int
) -> float:
    """Return the engine's seconds a round."""
    workers = executor.workers
    raw = {
        "name": name,
        "data": {"train": source, "zca": None},
        "net": {"width": 8},
        "method": {"name": "echo", "rounds": rounds, "images": images, "members": workers},
        "engine": {"workers": workers, "checkpoint_every": 10**6, "exchange": exchange},
        "store": store,
        "evaluate": {"repeats": 0},
    }
    plan, watch = prepare(config_from(raw)), Stopwatch()
    with Lease.acquire(plan.run.folder("lease")) as lease:
        distil(plan, executor, lease, watch.round)
    return watch.per_round()


class Bare:
    """The same exchange by hand, in an actor."""

    def __init__(self) -> None:
        keep_heap()
        torch.set_num_threads(1)
        self.meeting: Any = None

    def gradient(self, values: np.ndarray) -> np.ndarray:
        """Read the variables and return half of them."""
        return (torch.from_numpy(values.copy()) * 0.5).numpy()

    def meet(self) -> tuple[str, int]:
        """Open a meeting place."""
        import ray

        from raydd.engine.group import open_meeting

        host = ray.util.get_node_ip_address()
        self.meeting = open_meeting(host, 60)
        return host, self.meeting.port

    def join(self, host: str, port: int, rank: int, size: int) -> None:
        """Join the group."""
        import torch.distributed as dist

        store = self.meeting or dist.TCPStore(host, port, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)

    def rounds(self, count: int, length: int) -> float:
        """Gather, add and update; return the seconds a round."""
        import torch.distributed as dist

        values, started = torch.ones(length), time.perf_counter()
        for number in range(-2, count):
            if number == 0:
                started = time.perf_counter()
            gradient = values * 0.5
            parts = [torch.empty_like(gradient) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, gradient)
            values = values.add(mean_in_order(parts), alpha=-0.01)
        return (time.perf_counter() - started) / count


def bare_store(actors: list[Any], length: int, rounds: int) -> float:
    """Return seconds of a round through the object store by hand."""
    import ray

    values, seconds = torch.ones(length), []
    for _ in range(rounds):
        started = time.perf_counter()
        ref = ray.put(values.numpy())
        given = ray.get([actor.gradient.remote(ref) for actor in actors])
        values = values.add(mean_in_order([torch.from_numpy(g.copy()) for g in given]), alpha=-0.01)
        seconds.append(time.perf_counter() - started)
    return statistics.fmean(seconds[2:])


def measure_exchange(source: str, store: str, repeats: int) -> None:
    """Print the engine's and the bare exchange's milliseconds a round, by size, workers and way."""
    import ray

    from raydd.config import EngineConfig

    announce(None, None)
    for workers in (1, 2):
        with open_executor(EngineConfig(workers=workers)) as executor:
            executor.map(announce, [None] * workers, None)
            # Ray's decorator hides from type checkers what it adds.
            actors: list[Any] = [ray.remote(Bare).options(num_cpus=0).remote() for _ in range(workers)]
            host, port = ray.get(actors[0].meet.remote())
            ray.get([actor.join.remote(host, port, rank, workers) for rank, actor in enumerate(actors)])
            for megabytes, rounds in ROUNDS.items():
                images = megabytes * 2**20 // (4 * 3072)
                for way in ("store", "collective") if workers > 1 else ("auto", "store"):
                    ours, bare = [], []
                    for repeat in range(repeats):
                        name = f"echo-{workers}-{megabytes}-{way}-{repeat}"
                        ours.append(engine_round(executor, source, store, name, images, way, rounds))
                        if way != "collective":
                            bare.append(bare_store(actors, images * 3072, rounds // 2))
                        else:
                            bare.append(max(ray.get([a.rounds.remote(rounds // 2, images * 3072) for a in actors])))
                    one, other = statistics.median(ours), statistics.median(bare)
                    print(
                        f"exchange: {megabytes:2} MB, {workers} worker{'s' if workers > 1 else ' '}, {way:10} "
                        f"{1e3 * one:7.1f} ms a round, bare {1e3 * other:7.1f}: {one / other:.2f} times (n={repeats})"
                    )
            for actor in actors:
                ray.kill(actor)
