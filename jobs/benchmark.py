"""Rounds per second of each method on fixed work, what the engine costs over the bare arithmetic, and evaluation's speed.

    python jobs/benchmark.py                   # CIFAR-10's shape, ConvNet of width 128, 1 and 2 workers: about twenty minutes
    python jobs/benchmark.py --width 32 --only dm
    python jobs/benchmark.py --only evaluate --networks 20
    python jobs/benchmark.py --only exchange,scaling
    python jobs/benchmark.py --only evaluate --device cuda     # one GPU, without Ray: networks stacked and one by one
    python jobs/benchmark.py --only index,stream               # an index of ImageNet-1K's size; images a second from shards
    python jobs/benchmark.py --only imagenet --width 16        # a set of ImageNet-1K's size packed; rounds by number of classes
    python jobs/benchmark.py --only model --speed-up 100       # predicted rounds on 8, 64 and 512 GPU workers

The images are noise in CIFAR-10's binary format, so nothing is downloaded; the arithmetic does not mind. Bare arithmetic is the
same slots, reduction and update in a plain loop over images that are already normalised and in memory. Bare and engine are
timed alternately in one run, and each figure is the median over rounds, with the quartiles beside it: the machine may be shared.

Evaluation is DC's protocol: each network trains for 301 updates on ten images. On the CPU an update is timed beside its
convolutions alone, and an evaluation with two workers beside one with a worker; on a GPU, stacked networks beside one by one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from benchmark_data import measure_index, measure_stream
from benchmark_exchange import measure_exchange
from benchmark_imagenet import measure_imagenet
from benchmark_model import measure_model

from raydd.api import Silent, distill, prepare
from raydd.config import Config, EngineConfig, config_from
from raydd.engine.coordinator import Progress
from raydd.engine.executor import open_executor, units_of
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import Plan, distil
from raydd.engine.work import transform_of
from raydd.store import Lease

WORK: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "ipc": 10, "real_batch": 256, "classes_per_slot": 5},
    "frepo": {"name": "frepo", "ipc": 1, "real_batch": 1024, "models_per_round": 2},
    "dc": {"name": "dc", "ipc": 1, "real_batch": 256, "classes_per_slot": 5},
    # One slot, so that a second worker has nothing to do.
    "rtp": {"name": "rtp", "ipc": 1, "inner_steps": 2},
    "dd": {"name": "dd", "ipc": 10},
}
NETS: dict[str, dict[str, Any]] = {"dd": {"name": "alexcifarnet"}}
PARTS = ("evaluate", "exchange", "scaling", "index", "stream", "imagenet", "model")
# Beside each the least that two workers must give of one's speed.
SCALING: dict[str, tuple[dict[str, Any], float]] = {
    "dm at 100 classes": ({"name": "dm", "ipc": 1, "real_batch": 256, "classes_per_slot": 10}, 1.8),
    "frepo, 2 members a round": ({"name": "frepo", "ipc": 1, "real_batch": 1024, "models_per_round": 2}, 1.7),
    "dc, 10 images a class, 2 networks": ({"name": "dc", "ipc": 10, "real_batch": 256, "nets_per_round": 2}, 1.6),
}
PER_CLASS = 300


def write_cifar100(folder: Path) -> str:
    """Write noise as CIFAR-100's binary files; return its SOURCE."""
    noise = np.random.default_rng(0)
    for name, count in (("train.bin", 100 * PER_CLASS), ("test.bin", 100)):
        labels = np.stack([np.arange(count) % 20, np.arange(count) % 100], axis=1).astype(np.uint8)
        pixels = noise.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(np.concatenate([labels, pixels], axis=1).tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)))
    return f"cifar100:{folder}"


def write_cifar(folder: Path) -> str:
    """Write noise as CIFAR-10's binary files; return its SOURCE."""
    noise = np.random.default_rng(0)
    for name, count in [*((f"data_batch_{i}.bin", PER_CLASS * 2) for i in range(1, 6)), ("test_batch.bin", 100)]:
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = noise.integers(0, 256, (count, 3072), dtype=np.uint8)
        (folder / name).write_bytes(np.concatenate([labels[:, None], pixels], axis=1).tobytes())
    return f"cifar10:{folder}"


def config_of(
    method: dict[str, Any], source: str, store: str, workers: int, width: int, rounds: int, name: str
) -> Config:
    """Return the fixed work of a method."""
    return config_from(
        {
            "name": name,
            "data": {"train": source, "zca": None},
            "net": NETS.get(method["name"], {"width": width}),
            "method": {**method, "rounds": rounds},
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

    def seconds(self) -> list[float]:
        """Return what each round but the first took; rounds that workers do by themselves are told together, and share."""
        ends = [(at, 1) for at in self.times[:1]]
        for at in self.times[1:]:
            if at - ends[-1][0] < 1e-3:
                ends[-1] = (at, ends[-1][1] + 1)
            else:
                ends.append((at, 1))
        return [(at - before) / n for (before, _), (at, n) in pairwise(ends) for _ in range(n)]


def engine_rounds(config: Config) -> list[float]:
    """Time whole rounds of the engine; the first, which reads the data, is left out."""
    plan, watch = prepare(config), Stopwatch()
    with Lease.acquire(plan.run.folder("lease")) as lease, open_executor(config.engine) as executor:
        distil(plan, executor, lease, watch.round)
    return watch.seconds()


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
                config = config_of(
                    WORK[method], source, store, workers, width, rounds + 1, f"{method}-{workers}-{repeat}"
                )
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


def measure_scaling(folder: Path, width: int, rounds: int, repeats: int) -> None:
    """Time rounds with one worker and with two, one thread each, alternately."""
    from raydd.engine.cluster import keep_workers

    ten, hundred = write_cifar(folder), write_cifar100(folder)
    for title, (method, least) in SCALING.items():
        seconds: dict[int, list[float]] = {1: [], 2: []}
        source = hundred if "100 classes" in title else ten
        with keep_workers():
            for repeat in range(repeats):
                for workers, found in seconds.items():
                    name = f"scaling-{method['name']}-{workers}-{repeat}"
                    store = f"{folder}/runs"
                    found += engine_rounds(config_of(method, source, store, workers, width, rounds + 1, name))
        for workers, found in seconds.items():
            show(f"{method['name']} {workers} worker{'s' if workers > 1 else ''}", found)
        ratio = statistics.median(seconds[1]) / statistics.median(seconds[2])
        print(f"scaling: {title}: two workers {ratio:.2f} times as fast as one (asked: {least})")


def ten_images(networks: int, width: int, device: str) -> tuple[Any, list[Any], torch.Tensor, torch.Tensor]:
    """Return a ConvNet, the numbers of many at the start, and an image of each of ten classes with the labels."""
    from raydd.config.net import ConvNetConfig
    from raydd.nets import build, initialise
    from raydd.seeding import generator

    module = build(ConvNetConfig(width=width, depth=3, norm="instance"), (3, 32, 32), 10)
    states = [initialise(module, generator(i, "net"), device).channels_last() for i in range(networks)]
    return (
        module,
        states,
        torch.randn(10, 3, 32, 32, generator=generator(0, "x")).to(device),
        torch.arange(10, device=device),
    )


def convolutions(width: int, images: int) -> Callable[[], None]:
    """Return what does the convolutions of an update alone, forward and backward."""
    work = []
    for channels, edge in ((3, 32), (width, 16), (width, 8)):
        weight, bias = torch.randn(width, channels, 3, 3).requires_grad_(), torch.zeros(width).requires_grad_()
        # The images themselves need no gradient.
        maps = torch.randn(images, channels, edge, edge).requires_grad_(bool(work))
        given = torch.randn(images, width, edge, edge)
        maps, weight, given = (t.contiguous(memory_format=torch.channels_last) for t in (maps, weight, given))
        work.append((maps, weight, bias, given))

    def update() -> None:
        for maps, weight, bias, given in work:
            out = torch.nn.functional.conv2d(maps, weight, bias, padding=1)
            torch.autograd.grad(out, [t for t in (maps, weight, bias) if t.requires_grad], given)

    return update


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the processor time of this thread that some work takes."""
    started = time.thread_time()
    work()
    return time.thread_time() - started


def measure_update(width: int, repeats: int) -> None:
    """Time updates of one network beside their convolutions, by processor time: wall time is not the arithmetic's alone."""
    from raydd.evaluate import PROTOCOLS
    from raydd.functional.train import train

    updates, bare = 10, convolutions(width, 10)
    recipe = replace(PROTOCOLS["dc"].training, epochs=updates, drop_epoch=updates // 2)
    module, (state,), x, y = ten_images(1, width, "cpu")
    ours: list[float] = []
    floor: list[float] = []
    for repeat in range(-1, 3 * repeats):
        timed = [cpu_seconds(lambda: train(module, state, x, y, recipe, seed=0))]
        timed.append(cpu_seconds(lambda: [bare() for _ in range(updates)]))
        if repeat >= 0:
            ours.append(timed[0] / updates)
            floor.append(timed[1] / updates)
    ratio = statistics.median(ours) / statistics.median(floor)
    print(f"evaluate: an update {1e3 * statistics.median(ours):.1f} ms, its convolutions alone", end=" ")
    print(f"{1e3 * statistics.median(floor):.1f} ms: {ratio:.2f} times (processor time, n={len(ours)})")


def measure_spread(source: str, store: str, width: int, networks: int) -> None:
    """Time a whole evaluation with one worker and with two, and compare the numbers."""
    from raydd.engine.cluster import keep_workers
    from raydd.evaluate import Request, evaluate_all

    random = {"name": "benchmark", "data": {"train": source, "zca": None}, "net": {"width": width}, "store": store}
    random |= {"method": {"name": "random", "ipc": 1}, "engine": {"workers": 0}, "evaluate": {"repeats": 0}}
    config = config_from(random)
    ds, test = distill(config).distilled(), prepare(config).test
    assert test is not None
    seconds, found = {}, {}
    with keep_workers():
        for workers in (1, 2):
            with open_executor(EngineConfig(workers=workers)) as executor:
                for repeats in (workers, networks):  # first so that every worker has loaded what it needs
                    started = time.perf_counter()
                    request = Request(ds=ds, protocol="dc")
                    options = {"repeats": repeats, "device": "cpu", "map": executor.map}
                    found[workers] = evaluate_all([request], test=test, **options)
                    seconds[workers] = time.perf_counter() - started
    same = "the same numbers" if found[1] == found[2] else "OTHER NUMBERS"
    print(f"evaluate: {networks} networks {seconds[1]:.1f} s with 1 worker, {seconds[2]:.1f} s with 2:", end=" ")
    print(f"{seconds[1] / seconds[2]:.2f} times as fast, {same}")


def measure_stacking(device: str, width: int, networks: int, repeats: int) -> None:
    """Time networks trained stacked beside one by one, and compare what they score on noisy copies of the images."""
    from raydd.evaluate import PROTOCOLS
    from raydd.functional.stacked import train_group
    from raydd.functional.train import train
    from raydd.nets import apply

    module, states, x, y = ten_images(networks, width, device)
    xs, ys = x.expand(networks, *x.shape), y.expand(networks, *y.shape)

    def alone(recipe: Any) -> list[Any]:
        return [train(module, state, x, y, recipe, seed=seed) for seed, state in enumerate(states)]

    def stacked(recipe: Any) -> list[Any]:
        return train_group(module, states, xs, ys, recipe, seeds=range(networks))

    noise = torch.randn(2000, *x.shape[1:], generator=torch.Generator().manual_seed(1)).to(device)
    tests, truth = x.repeat(200, 1, 1, 1) + 3 * noise, y.repeat(200)

    def scores(trained: list[Any]) -> list[float]:
        with torch.no_grad():
            return [
                100 * (apply(module, s.params, {}, tests).argmax(1) == truth).float().mean().item() for s in trained
            ]

    protocol = PROTOCOLS["dc"].training
    seconds: dict[Any, list[float]] = {alone: [], stacked: []}
    found = {}
    for recipe in [replace(protocol, epochs=5, drop_epoch=3), *[protocol] * repeats]:
        for way, times in seconds.items():
            started = time.perf_counter()
            found[way] = way(recipe)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    base, fast = (statistics.median(seconds[way][1:]) for way in (alone, stacked))
    ours, theirs = scores(found[stacked]), scores(found[alone])
    print(
        f"evaluate: {networks} networks {base:.2f} s one by one, {fast:.2f} s stacked: {base / fast:.2f} times as fast"
    )
    print(f"evaluate: they score {statistics.fmean(theirs):.2f} % and {statistics.fmean(ours):.2f} %, ", end="")
    print(f"no network differs by more than {max(abs(a - b) for a, b in zip(ours, theirs, strict=True)):.2f}")


def main(
    only: Annotated[
        str,
        typer.Option(help=f"which, with commas: {', '.join((*WORK, *PARTS))}"),
    ] = "dm,frepo,evaluate",
    width: Annotated[int, typer.Option(help="the networks' width")] = 128,
    rounds: Annotated[int, typer.Option(help="timed rounds in a row")] = 3,
    repeats: Annotated[int, typer.Option(help="how often what is compared alternates")] = 3,
    networks: Annotated[int, typer.Option(help="how many evaluation trains")] = 20,
    device: Annotated[str, typer.Option(help="cuda: evaluation on a GPU, and nothing else")] = "cpu",
    source: Annotated[
        str | None, typer.Option(help="stream, imagenet: packed shards (URL) instead of generated ones")
    ] = None,
    speed_up: Annotated[float, typer.Option(help="model: how many times a GPU is faster than this core")] = 100,
    slots: Annotated[
        str, typer.Option(help="model: seconds of a slot of CIFAR-10, as in dm=0.3,frepo=1.6,dc=0.9")
    ] = "",
    measured: Annotated[str, typer.Option(help="model: a round's seconds with 1 and 2 workers, as in dm=2.9:1.5")] = "",
) -> None:
    """Print rounds per second and the engine's cost, one thread a worker."""
    unknown = [part for part in only.split(",") if part not in (*WORK, *PARTS)]
    if unknown:
        raise typer.BadParameter(f"must be out of {', '.join((*WORK, *PARTS))}, got {unknown[0]!r}")
    keep_heap()
    if device == "cuda":
        with numerics(EngineConfig(gpus_per_worker=1)):
            print(f"{torch.cuda.get_device_name()}, width {width}, fp32, deterministic, torch {torch.__version__}")
            measure_stacking(device, width, networks, repeats)
        return
    with tempfile.TemporaryDirectory() as folder:
        noise = write_cifar(Path(folder))
        store = f"{folder}/runs"
        first = config_of(WORK["dm"], noise, store, 1, width, 1, "first")
        with numerics(first.engine):
            print(f"CIFAR-10's shape, width {width}, one thread a worker, torch {torch.__version__}")
            for part in only.split(","):
                if part == "scaling":
                    measure_scaling(Path(folder), width, rounds, repeats)
                elif part == "exchange":
                    measure_exchange(noise, store, repeats)
                elif part == "index":
                    measure_index()
                elif part == "stream":
                    measure_stream(source, repeats)
                elif part == "imagenet":
                    measure_imagenet(source, width, rounds)
                elif part == "model":
                    measure_model(width, speed_up, slots, measured)
                elif part == "evaluate":
                    measure_update(width, repeats)
                    measure_spread(noise, store, width, networks)
                else:
                    measure(part, noise, store, width, rounds, repeats)


if __name__ == "__main__":
    typer.run(main)
