"""ImageNet-1K's part of `benchmark.py`: its size in index and shards, then rounds of DM and FRePo by number of classes.

The set is generated in the published format, a tar of a tar a class, from a few hundred small JPEGs that are used again and
again, and goes through `pack` like the real one. Rounds are a worker's own: all slots on one worker that keeps its variables,
without Ray. Every part is a process of its own, so that its peak of memory is its own; what imports take is not counted.
"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_data import CLASSES, IMAGENET, memory_mb
from benchmark_exchange import Stopwatch
from PIL import Image

from raydd.api import prepare
from raydd.config import config_from
from raydd.data.index import load_index
from raydd.data.pack import pack
from raydd.engine.executor import open_executor, units_of
from raydd.engine.held import Held
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import distil, plan_run
from raydd.engine.work import Work, to_arrays, to_tensors
from raydd.store import Folder, Lease

METHODS: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "real_batch": 8, "classes_per_slot": 10},
    # From noise: where images repeat, two of a set would be the same, and its Gram matrix singular.
    "frepo": {"name": "frepo", "real_batch": 256, "init": "noise"},
}
WINDOW = 8  # images a class that are held: as many as a slot of DM sees
FEW = {"chunk": 250, "online_batch": 250}  # FRePo's bounds on memory


def write_published(root: Path, images: int, distinct: int = 300) -> None:
    """Write ILSVRC2012's tar of training images, 64 pixels each, `images` in all of 1,000 classes."""
    noise = np.random.default_rng(0)
    small = [noise.integers(0, 256, (4, 4, 3), dtype=np.uint8) for _ in range(distinct)]
    payloads = [_jpeg(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)) for pixels in small]
    tars: dict[tuple[int, int], bytes] = {}
    root.mkdir(parents=True)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for label in range(CLASSES):
            count, first = images // CLASSES + (label < images % CLASSES), label % 10
            if (count, first) not in tars:
                named = [(f"{i:05d}.JPEG", payloads[(first * 30 + i) % distinct]) for i in range(count)]
                tars[count, first] = _tar(named)
            _add(tar, f"n{label:08d}.tar", tars[count, first])


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=50)
    return out.getvalue()


def _tar(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            _add(tar, name, data)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def fresh_peak() -> float:
    """Let the peak of memory begin anew; return what is held, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def processor_s(work: Callable[[], Any]) -> float:
    """Return the processor time of some work, all threads together: the machine may be shared."""
    started = time.process_time()
    work()
    return time.process_time() - started


def one_round(held: Held, number: int) -> None:
    """Do a round."""
    (replies,) = held.advance(number, 1)
    assert all(reply.finite for reply in replies)


def part_pack(root: str, shards: str, images: str) -> None:
    """Generate and pack."""
    write_published(Path(root), int(images))
    before, started = fresh_peak(), time.perf_counter()
    index = pack(f"imagenet:{root}", shards)
    seconds = time.perf_counter() - started
    print(
        f"imagenet: {len(index):,} images of {len(index.classes)} classes packed into {len(index.shards)} shards of",
        end=" ",
    )
    print(f"{sum(s.size for s in index.shards) / 1e9:.1f} GB in {seconds:.0f} s by one process:", end=" ")
    print(f"{len(index) / seconds:.0f} images/s, {memory_mb('VmHWM') - before:.0f} MB at the peak")


def part_index(shards: str) -> None:
    """Load the index."""
    before, started = fresh_peak(), time.perf_counter()
    index = load_index(Folder(shards))
    seconds = time.perf_counter() - started
    print(
        f"imagenet: index of {len(index):,} loaded in {seconds:.2f} s, {memory_mb('VmHWM') - before:.0f} MB at the peak"
    )


def raw_config(url: str, method: dict[str, Any], classes: int, width: int, rounds: int) -> dict[str, Any]:
    """Return the work: ipc 1, a network of depth 4, real images by windows."""
    return {
        "name": f"{method['name']}-{classes}-{len(method)}",
        "data": {"train": url, "zca": None, "classes": list(range(classes)), "window": WINDOW},
        "net": {"width": width, "depth": 4},
        "method": {**method, "ipc": 1, "rounds": rounds},
        "engine": {"workers": 0, "checkpoint_every": 10**6},
        "evaluate": {"repeats": 0},
    }


def part_rounds(url: str, name: str, classes: str, width: str, rounds: str, few: str) -> None:
    """Do rounds on one worker that keeps all variables; print a line of the table."""
    method = METHODS[name] | (FEW if few else {})
    config = config_from(raw_config(url, method, int(classes), int(width), int(rounds)))
    before = fresh_peak()
    plan = plan_run(config, url, None)
    with numerics(config.engine):
        work = Work(plan.job, torch.device("cpu"))
        work.fresh(units_of(work.method.slots_all))
        variables = work.initial()
        optimiser = to_arrays(work.method.optimiser(to_tensors(variables)))
        size = sum(array.nbytes for array in variables.values())
        held = Held(work, range(len(work.method.slots_all)), variables, optimiser, group=None, split=False)
        del variables, optimiser
        first, *seconds = [processor_s(lambda r=r: one_round(held, r)) for r in range(int(rounds) + 1)]
    title = name + (", chunks of 250" if few else "")
    print(
        f"imagenet: {title:22} {classes:>5} classes {statistics.median(seconds):8.3f} s a round (the first {first:6.2f}),"
        f" {memory_mb('VmHWM') - before:6.0f} MB at the peak, S of {size / 1e6:.2f} MB"
    )


def part_workers(url: str, width: str, rounds: str) -> None:
    """Time rounds of two workers, by the way that variables travel."""
    from raydd.engine.cluster import keep_workers

    with tempfile.TemporaryDirectory() as folder, keep_workers():
        for name, exchange in (("dm", "auto"), ("dm", "store"), ("frepo", "auto"), ("frepo", "store")):
            members = {"models_per_round": 2} if name == "frepo" else {}
            raw = raw_config(url, METHODS[name] | members, CLASSES, int(width), int(rounds) + 1)
            raw |= {"engine": {"workers": 2, "checkpoint_every": 10**6, "exchange": exchange}}
            raw |= {"store": f"{folder}/runs", "name": f"{name}-{exchange}"}
            plan, watch = prepare(config_from(raw)), Stopwatch()
            with Lease.acquire(plan.run.folder("lease")) as lease, open_executor(plan.config.engine) as executor:
                from raydd.engine.held import choose_exchange

                variables = plan.method.init(torch.zeros(CLASSES, *plan.real.shape))
                way = choose_exchange(plan.config.engine, plan.method, variables, 2)
                distil(plan, executor, lease, watch.round)
            ends = watch.times
            seconds = (ends[-1] - ends[0]) / (len(ends) - 1)
            size = sum(value.nbytes for value in variables.values())
            print(
                f"imagenet: {name:5} 2 workers, S of {size / 1e6:.0f} MB, {exchange} -> {way:10} {seconds:.2f} s a round"
            )


def apart(*words: object) -> None:
    """Do a part in a process of its own."""
    sys.stdout.flush()
    subprocess.run([sys.executable, __file__, *map(str, words)], check=True)


def measure_imagenet(source: str | None, width: int, rounds: int, images: int = IMAGENET) -> None:
    """Print the table; `source` names packed shards of 1,000 classes instead of the generated ones."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYDD_CACHE"] = f"{folder}/cache"
        url = source or f"{folder}/shards"
        if source is None:
            apart("pack", f"{folder}/published", url, images)
        apart("index", url)
        print(f"imagenet: ipc 1, 64 pixels, width {width}, depth 4, {WINDOW} images a class in a window, one thread")
        for name in METHODS:
            for classes in (10, 100, CLASSES):
                apart("rounds", url, name, classes, width, rounds, "")
        apart("rounds", url, "frepo", CLASSES, width, rounds, "few")
        apart("workers", url, width, rounds)


if __name__ == "__main__":
    keep_heap()
    part, *words = sys.argv[1:]
    {"pack": part_pack, "index": part_index, "rounds": part_rounds, "workers": part_workers}[part](*words)
