"""Rounds per second of each method on fixed work, and what the engine costs over the bare arithmetic.

    python jobs/benchmark.py                   # CIFAR-10's shape, ConvNet of width 128, 1 and 2 workers: about ten minutes
    python jobs/benchmark.py --width 32 --methods dm

The images are noise in CIFAR-10's binary format, so nothing is downloaded; the arithmetic does not mind. Bare arithmetic is the
same slots, reduction and update in a plain loop over images that are already normalised and in memory. Bare and engine are
timed alternately in one run, and each figure is the median over rounds, with the quartiles beside it: the machine may be shared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from raydd.api import Silent, prepare
from raydd.config import Config, config_from
from raydd.engine.coordinator import Progress
from raydd.engine.executor import open_executor, units_of
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import Plan, distil
from raydd.engine.work import transform_of
from raydd.store import Lease

WORK: dict[str, dict[str, Any]] = {
    "dm": {"ipc": 10, "real_batch": 256, "classes_per_slot": 5},
    "frepo": {"ipc": 1, "real_batch": 1024, "models_per_round": 2},
}
PER_CLASS = 300


def write_cifar(folder: Path) -> str:
    """Write noise as CIFAR-10's binary files; return its SOURCE."""
    noise = np.random.default_rng(0)
    for name, count in [*((f"data_batch_{i}.bin", PER_CLASS * 2) for i in range(1, 6)), ("test_batch.bin", 100)]:
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = noise.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(np.concatenate([labels[:, None], pixels], axis=1).tobytes())
    return f"cifar10:{folder}"


def config_of(method: str, source: str, store: str, workers: int, width: int, rounds: int, name: str) -> Config:
    """Return the fixed work of a method."""
    return config_from(
        {
            "name": name,
            "data": {"train": source, "zca": None},
            "net": {"width": width},
            "method": {"name": method, "rounds": rounds, **WORK[method]},
            "engine": {"workers": workers, "checkpoint_every": 10**6},
            "store": store,
            "evaluate": {"repeats": 0},
        }
    )


def bare_rounds(plan: Plan, rounds: int) -> list[float]:
    """Time the arithmetic alone: seconds of each round."""
    method = plan.method
    transform = transform_of(plan.config, plan.real, None)
    variables = method.start(lambda ids: transform(plan.real.images(ids)))
    optimiser = method.optimiser(variables)
    units = {unit: method.unit_state(unit) for unit in units_of(method.slots_all)}
    seconds = []
    for number in range(rounds):
        slots = method.slots(number)
        ids = [method.real_ids(number, slot) for slot in slots]
        inputs = [(transform(plan.real.images(chosen)), plan.real.labels[chosen]) for chosen in ids]
        started = time.perf_counter()
        shared = method.shared_state(number)
        given = [
            method.contribution(
                number, slot, variables, units[slot.unit] if slot.unit is not None else {}, shared, x, y
            )
            for slot, (x, y) in zip(slots, inputs, strict=True)
        ]
        gradients = method.reduce(variables, given)
        variables, optimiser = method.update(number, variables, optimiser, gradients)
        for unit in units_of(slots):
            units[unit] = method.after_update(number, unit, units[unit], variables)
        seconds.append(time.perf_counter() - started)
    return seconds


class Stopwatch(Silent):
    """Notes when each round is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def round(self, progress: Progress) -> None:
        """Note it."""
        self.times.append(time.perf_counter())


def engine_rounds(config: Config) -> list[float]:
    """Time whole rounds of the engine; the first, which reads the data, is left out."""
    plan, watch = prepare(config), Stopwatch()
    with Lease.acquire(plan.run.folder("lease")) as lease, open_executor(config.engine) as executor:
        distil(plan, executor, lease, watch.round)
    return [after - before for before, after in zip(watch.times, watch.times[1:], strict=False)]


def show(name: str, seconds: list[float], extra: str = "") -> None:
    """Print a median with its quartiles."""
    low, middle, high = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else seconds * 3
    print(
        f"{name:24} {1 / middle:8.3f} rounds/s   {middle:7.3f} s a round ({low:.3f} to {high:.3f}, n={len(seconds)}){extra}"
    )


def measure(method: str, source: str, store: str, width: int, rounds: int, repeats: int) -> None:
    """Measure one method."""
    from raydd.engine.cluster import keep_workers

    bare: list[float] = []
    engine: dict[int, list[float]] = {1: [], 2: []}
    with keep_workers():
        for repeat in range(repeats):
            for workers in engine:
                config = config_of(method, source, store, workers, width, rounds + 1, f"{method}-{workers}-{repeat}")
                if workers == 1:
                    bare += bare_rounds(prepare(config), rounds + 1)[1:]
                engine[workers] += engine_rounds(config)
    show(f"{method} bare", bare)
    base = statistics.median(bare)
    for workers, seconds in engine.items():
        cost = 100 * (statistics.median(seconds) / base - 1)
        speed = base / statistics.median(seconds)
        over = f"   {cost:+.1f} % over bare" if workers == 1 else f"   {speed:.2f} times the bare arithmetic"
        show(f"{method} {workers} worker{'s' if workers > 1 else ''}", seconds, over)


def main(
    methods: Annotated[str, typer.Option(help="which, with commas")] = "dm,frepo",
    width: Annotated[int, typer.Option(help="the networks' width")] = 128,
    rounds: Annotated[int, typer.Option(help="timed rounds in a row")] = 3,
    repeats: Annotated[int, typer.Option(help="how often bare and engine alternate")] = 3,
) -> None:
    """Print rounds per second and the engine's cost, one thread a worker."""
    keep_heap()
    with tempfile.TemporaryDirectory() as folder:
        source = write_cifar(Path(folder))
        store = f"{folder}/runs"
        first = config_of("dm", source, store, 1, width, 1, "first")
        with numerics(first.engine):
            print(f"CIFAR-10's shape, width {width}, one thread a worker, torch {torch.__version__}")
            for method in methods.split(","):
                measure(method, source, store, width, rounds, repeats)


if __name__ == "__main__":
    typer.run(main)
