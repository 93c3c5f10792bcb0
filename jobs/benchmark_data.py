"""The data's part of `benchmark.py`: an index of ImageNet-1K's size, and images a second read from shards."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raydd.data import images
from raydd.data.fetch import THREADS
from raydd.data.index import Index, Shard, load_index, save_index
from raydd.data.pack import pack
from raydd.data.plan import Epochs, Windows, class_batch
from raydd.data.reader import RealData
from raydd.seeding import generator
from raydd.store import Folder

IMAGENET, CLASSES = 1_281_167, 1000
PER_SHARD, MEMBER = 6500, 10_240  # about what 64-pixel PNGs make of 64 MiB


def write_index(folder: Path) -> None:
    """Write an index of ImageNet-1K's size; there are no shards."""
    counts = np.full(CLASSES, IMAGENET // CLASSES)
    counts[: IMAGENET % CLASSES] += 1
    shard, place = np.divmod(np.arange(IMAGENET), PER_SHARD)
    sizes = np.bincount(shard)
    shards = tuple(Shard(f"shard-{i:06d}.tar", int(n) * MEMBER, f"{i:064x}", int(n)) for i, n in enumerate(sizes))
    index = Index(
        name="imagenet",
        split="train",
        classes=tuple(f"n{i:08d}" for i in range(CLASSES)),
        channels=3,
        size=64,
        shards=shards,
        shard=shard.astype(np.int32),
        offset=place * MEMBER + 512,
        length=np.full(IMAGENET, MEMBER - 2048, dtype=np.int32),
        label=np.repeat(np.arange(CLASSES, dtype=np.int32), counts),
        channel_sum=np.ones((CLASSES, 3), dtype=np.int64),
        channel_sq=np.ones((CLASSES, 3), dtype=np.int64),
    )
    save_index(Folder(str(folder)), index)


def memory_mb(field: str) -> float:
    """Return what this process holds (VmRSS), or the most it ever held (VmHWM), in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def load_and_plan(folder: str) -> None:
    """Print what it takes to load an index and to plan batches; in a process of its own, whose peak is its own."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the imports does not count
    before, started = memory_mb("VmRSS"), time.perf_counter()
    load_index(Folder(folder))
    loaded, peak = time.perf_counter() - started, memory_mb("VmHWM") - before
    started = time.perf_counter()
    real = RealData(folder, val_fraction=0.01, part="train")
    opened = time.perf_counter() - started
    print(
        f"index: {IMAGENET:,} samples loaded in {loaded:.2f} s, {peak:.0f} MB at the peak; opened with a split", end=" "
    )
    print(f"of {CLASSES} classes in {opened:.2f} s, {memory_mb('VmHWM') - before:.0f} MB at the peak")

    def drawn(round: int, classes: int) -> torch.Tensor:
        return torch.cat([class_batch(real.by_class[c], 256, generator(0, "real", round, c)) for c in range(classes)])

    epochs = Epochs(0, real.by_class, None, 1024)
    windows = Windows(0, real.counts, 50, 100)
    seen = Epochs(0, real.by_class, windows, 1024)
    for name, plan in (
        ("DM's draw of a class", lambda round: drawn(round, 1)),
        ("DM's draw of a slot of 10 classes", lambda round: drawn(round, 10)),
        ("FRePo's batch of 1024", epochs.batch),
        ("FRePo's batch of 1024 under a window", seen.batch),
    ):
        first, later = timed(lambda plan=plan: plan(0)), [timed(lambda plan=plan, r=r: plan(r)) for r in range(1, 50)]
        print(f"index: {name} {1e3 * statistics.median(later):.2f} ms, the first {1e3 * first:.1f} ms")


def measure_index() -> None:
    """Write the index, then load it and plan with it in another process."""
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder))
        subprocess.run([sys.executable, __file__, folder], check=True)


def timed(work: Callable[[], Any]) -> float:
    """Return the seconds that some work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write_images(folder: Path, edge: int, count: int) -> str:
    """Pack JPEGs of smooth noise, 10 classes; return the shards' URL."""
    noise = np.random.default_rng(0)
    for number in range(count):
        small = noise.integers(0, 256, (edge // 4, edge // 4, 3), dtype=np.uint8)
        path = folder / "images" / f"class{number % 10}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((edge, edge), Image.Resampling.BICUBIC).save(path, quality=90)
    pack(f"folder:{folder / 'images'}", str(folder / "shards"), shard_mb=4)
    return str(folder / "shards")


def ours(url: str, **options: Any) -> float:
    """Return images a second of the reader into an empty cache."""
    real = RealData(url, **options)
    return len(real) / timed(lambda: real.images(torch.arange(len(real))))


def sequential(url: str) -> float:
    """Return images a second of plain sequential reading by webdataset, decoded by the same decoder on as many threads."""
    import fsspec
    import webdataset

    def opened(url: str, mode: str, bufsize: int, **_: Any) -> Any:
        file: Any = fsspec.open(url, mode)
        return file.open()

    webdataset.gopen_schemes["s3"] = opened
    index = load_index(Folder(url))
    shards = index.shard_folder(Folder(url)).url
    names = [f"{shards}/{shard.name}" for shard in index.shards]
    out = np.empty((len(index), index.channels, index.size, index.size), dtype=np.uint8)
    suffixes = ("jpg", "jpeg", "png", "webp")

    def decode(first: int, chunk: list[dict[str, Any]]) -> None:
        for place, sample in enumerate(chunk, first):
            data = next(sample[suffix] for suffix in suffixes if suffix in sample)
            out[place] = images.decode(data, index.channels, index.size, sample["__key__"]).transpose(2, 0, 1)

    def read() -> None:
        samples = iter(webdataset.WebDataset(names, shardshuffle=False, nodesplitter=None))
        threads = 1 if index.size <= 64 else THREADS  # as many as the reader takes
        with ThreadPoolExecutor(threads) as decoders:
            done = [decoders.submit(decode, first, chunk) for first, chunk in chunks(samples)]
            for future in done:
                future.result()

    return len(index) / timed(read)


def chunks(samples: Iterator[Any], size: int = 64) -> Iterator[tuple[int, list[Any]]]:
    """Yield samples by the chunk, with the number of the first."""
    first = 0
    while chunk := list(islice(samples, size)):
        yield first, chunk
        first += len(chunk)


def measure_stream(source: str | None, repeats: int) -> None:
    """Time the reader beside webdataset, alternating: each in memory, on disk, and by the byte ranges of a window."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RAYDD_CACHE"] = f"{folder}/cache"
        url = source or write_images(Path(folder), 64, 6000)
        rates: dict[str, list[float]] = {"webdataset": [], "memory": [], "disk": [], "ranges": []}
        for _ in range(repeats):
            rates["webdataset"].append(sequential(url))
            rates["memory"].append(ours(url, cache="memory"))
            rates["disk"].append(ours(url, cache="disk"))
            rates["ranges"].append(ours(url, window=1))
            for path in Path(f"{folder}/cache").iterdir():
                path.unlink()
        for window in ("all", "50"):
            subprocess.run([sys.executable, __file__, url, window], check=True)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    low, high = min(rates["memory"]), max(rates["memory"])
    print(
        f"stream: webdataset and decoding {middle['webdataset']:.0f} images/s, the reader {middle['memory']:.0f}",
        end="",
    )
    print(f" ({low:.0f} to {high:.0f}, n={repeats}): ratio {middle['memory'] / middle['webdataset']:.2f}")
    for name, what in (("disk", "into the cache on disk"), ("ranges", "unkept, as beside a window")):
        print(f"stream: {what} {middle[name]:.0f} images/s, ratio {middle[name] / middle['webdataset']:.2f}")


def hold(url: str, window: str) -> None:
    """Print what a process holds that sees all classes for some windows; in a process of its own."""
    real = RealData(url, cache="memory", window="all" if window == "all" else int(window), window_rounds=1)
    windows = real.windows
    real.images(torch.arange(2))  # what reading and decoding take for themselves
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    for round in range(6):
        for label, ids in enumerate(real.by_class):
            real.images(ids if windows is None else ids[windows.places(round, label)], round)
    image = real.shape[0] * real.shape[1] * real.shape[2] / 1e6
    bound = image * (len(real) if windows is None else 2 * windows.sizes.sum())
    print(
        f"stream: window {window} of {max(real.counts)} images a class: {memory_mb('VmHWM') - before:.0f} MB", end=" "
    )
    print(f"of memory at the peak, {bound:.0f} MB of images at most")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        hold(*sys.argv[1:])
    else:
        load_and_plan(sys.argv[1])
