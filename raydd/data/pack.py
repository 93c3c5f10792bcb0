"""Turn a data set into WebDataset shards and an index: in parallel, resumable, reproducible byte for byte.

All that decides what a shard holds is planned before any work is done, from the list of samples and a nominal number of
bytes a sample; so shards are the same whoever makes them, in whatever order, interrupted or not.

A folder in the making holds `pack.json` (what is being packed), finished shards, and a part for each under `parts/`.
A shard counts as finished when its part is there and its size is what the part says. `index.json` comes last; then
the parts and `pack.json` go.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import itertools
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydd.data import images, shardwork, sources
from raydd.data.index import JSON_NAME, Index, Shard, load_index, save_index
from raydd.data.samples import Ref, Samples, Source
from raydd.data.shards import ShardSource
from raydd.data.shardwork import Task
from raydd.errors import ConfigError, DataError, IntegrityError
from raydd.store import Folder

#: `map(function, items)` whose results may come in any order, such as an engine's.
Mapper = Callable[[Callable[[Task], dict[str, Any]], Sequence[Task]], Iterable[dict[str, Any]]]

_PACK_NAME = "pack.json"
_FORMAT = "raydd-pack-1"
_MEMBER_BYTES = 2 * 1024  # two tar headers, padding, and the label's block


@dataclass(frozen=True, slots=True)
class _Plan:
    """What every image is brought to, and which samples (first, one past the last) go into which shard."""

    channels: int
    edge: int
    cuts: tuple[tuple[int, int], ...]


def pack(
    source: str,
    dest: str,
    *,
    split: str = "train",
    size: int | None = None,
    shard_mb: int = 64,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    map: Mapper | None = None,
) -> Index:
    """Pack a split of a data set into `dest`, going on where an interrupted call left off.

    Images in files keep their bytes unless `size` is given; arrays, and all images with `size`, are stored as PNG.
    With `size`, the central square of each image is resampled (`raydd.data.images.resize`). Folders of images are RGB
    unless the first image of every class is grey; a grey image among RGB ones is converted when it is decoded.
    Existing WebDataset shards are indexed in place, unless `size` is given: then they are packed anew.

    Args:
        source: SOURCE string, such as `mnist:/data/mnist`.
        dest: Folder for shards and index, at any fsspec URL; a finished one of the same source is returned at once.
        split: The source's split; `test` means whichever plays the test set.
        size: Edge in pixels to bring the images to.
        shard_mb: Nominal size of a shard in MiB; the real one is usually somewhat below it.
        workers: Packing processes; 1 means this one.
        progress: Called with (samples done, samples in all) after each shard.
        map: Does the work instead of `workers`, for instance on a cluster.

    Returns:
        The index, as it was written.

    Raises:
        DataError: A source file is missing, damaged or hostile; images differ in size and `size` is not given; a class
            is empty; `dest` holds another data set or another pack of this one. `dest` is left as it was.
        IntegrityError: The finished index in `dest` is damaged.
        ConfigError: `size`, `shard_mb` or `workers` is out of range.
        StoreError: A URL cannot be read or written.
    """
    _check_options(size, shard_mb, workers)
    parsed = shardwork.opened(sources.parse(source).spec)
    try:
        split = sources.resolve_split(parsed, split)
        folder = Folder(dest)
        wanted = {"format": _FORMAT, "source": parsed.spec, "split": split, "size": size, "shard_mb": shard_mb}
        if folder.exists(JSON_NAME):
            return _finished(folder, wanted)
        return _unfinished(parsed, folder, wanted, map or _mapper(workers), progress)
    finally:
        shardwork.opened.cache_clear()  # it may hold a whole data set, and may have changed by the next call


@dataclass(frozen=True, slots=True)
class Survey:
    """What a split would be packed to: the data set's name, its classes and their counts, channels, and edge in pixels."""

    name: str
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    channels: int
    edge: int


def survey(source: str, *, split: str = "train", size: int | None = None) -> Survey:
    """Look at a split of a data set without packing it: lists its samples, and reads one of each class.

    Args:
        source: SOURCE string.
        split: The source's split.
        size: Edge in pixels that images would be brought to.

    Raises:
        DataError: As `pack` does.
    """
    parsed = shardwork.opened(sources.parse(source).spec)
    try:
        split = sources.resolve_split(parsed, split)
        samples = parsed.open(split)
        plan = _plan(parsed, split, samples, size, shard_mb=1)
        counts = tuple(np.bincount(samples.labels, minlength=len(samples.classes)).tolist())
        return Survey(parsed.name, samples.classes, counts, plan.channels, plan.edge)
    finally:
        shardwork.opened.cache_clear()


def _check_options(size: int | None, shard_mb: int, workers: int) -> None:
    if size is not None and not 1 <= size <= 4096:
        raise ConfigError(f"size must be 1 to 4096 pixels, got {size}")
    if shard_mb < 1:
        raise ConfigError(f"shard_mb must be >= 1, got {shard_mb}")
    if workers < 1:
        raise ConfigError(f"workers must be >= 1, got {workers}")


def _finished(folder: Folder, wanted: dict[str, Any]) -> Index:
    """Return the finished index where it is the wanted one."""
    index = load_index(folder)
    _compare(folder, dict(index.source or {}), wanted)
    if folder.exists(_PACK_NAME):
        _clean(folder)
    return index


def _unfinished(
    source: Source,
    folder: Folder,
    wanted: dict[str, Any],
    mapper: Mapper,
    progress: Callable[[int, int], None] | None,
) -> Index:
    """Pack what is not packed yet."""
    split, size = wanted["split"], wanted["size"]
    samples = source.open(split)
    plan = _plan(source, split, samples, size, wanted["shard_mb"])
    tasks = _tasks(source, split, samples, plan, folder, size)
    wanted = wanted | {"plan": _fingerprint(samples, plan)}
    _claim(folder, wanted)
    parts = _work(folder, tasks, mapper, progress)
    index = _index(source.name, split, samples, plan, [parts[task.shard] for task in tasks])
    base = shardwork.shards_url(source) if tasks[0].indexed else ""
    index = dataclasses.replace(index, base="" if base == folder.url else base, source=wanted)
    save_index(folder, index)
    _clean(folder)
    return index


def _claim(folder: Folder, wanted: dict[str, Any]) -> None:
    """Say in `dest` what is being packed, unless something else is."""
    try:
        there = folder.json(_PACK_NAME)
    except FileNotFoundError:
        folder.write_json(_PACK_NAME, wanted)
        return
    except IntegrityError as error:
        raise DataError(f"{folder.url}: expected a new folder, got a damaged {_PACK_NAME}: choose another") from error
    _compare(folder, there, wanted)


def _compare(folder: Folder, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key, value in wanted.items():
        if there.get(key) != value:
            raise DataError(
                f"{folder.url}: expected a new folder or a pack with {key} {value}, got one with {there.get(key)}: "
                "choose another folder or delete this one"
            )


def _clean(folder: Folder) -> None:
    folder.delete(*folder.list("parts/"), _PACK_NAME)


def _plan(source: Source, split: str, samples: Samples, size: int | None, shard_mb: int) -> _Plan:
    starts = np.searchsorted(samples.labels, np.arange(len(samples.classes)))
    probes = [_probe(source, split, samples.refs[start]) for start in starts]
    edge = size or _edge(source, split, samples.refs[0], probes[0])
    channels = samples.channels or (1 if all(probe.grey for probe in probes) else 3)
    kept = [probe.bytes for probe in probes if probe.bytes]
    payload = math.ceil(sum(kept) / len(kept)) if kept and size is None else channels * edge * edge
    per_shard = max(1, shard_mb * 2**20 // (payload + _MEMBER_BYTES))
    counts = np.bincount(samples.labels, minlength=len(samples.classes)).tolist()
    return _Plan(channels, edge, tuple(_cuts(counts, per_shard)))


@dataclass(frozen=True, slots=True)
class _Probe:
    """What the first image of a class is like; `bytes` is 0 where it is an array."""

    width: int
    height: int
    grey: bool
    bytes: int


def _probe(source: Source, split: str, ref: Ref) -> _Probe:
    content = source.load(split, ref)
    if isinstance(content, np.ndarray):
        return _Probe(content.shape[1], content.shape[0], content.ndim == 2, 0)
    image = images.open_image(content, source.where(split, ref))
    return _Probe(image.width, image.height, images.is_grey(image), len(content))


def _edge(source: Source, split: str, ref: Ref, probe: _Probe) -> int:
    if probe.width != probe.height:
        where = source.where(split, ref)
        raise DataError(f"{where}: expected square images, got {probe.width}x{probe.height}: give --size")
    return probe.width


def _cuts(counts: Sequence[int], per_shard: int) -> Iterator[tuple[int, int]]:
    """Cut classes into shards: small ones share a shard whole, one that needs several has them to itself."""
    first = end = 0
    for count in counts:
        if end > first and end - first + count > per_shard:
            yield first, end
            first = end
        end += count
        if end - first > per_shard:
            pieces = math.ceil((end - first) / per_shard)
            bounds = [first + (end - first) * i // pieces for i in range(pieces + 1)]
            yield from itertools.pairwise(bounds)
            first = end
    if end > first:
        yield first, end


def _tasks(source: Source, split: str, samples: Samples, plan: _Plan, folder: Folder, size: int | None) -> list[Task]:
    def task(number: int, name: str, first: int, rows: Sequence[int], indexed: bool) -> Task:
        return Task(
            source=source.spec,
            split=split,
            dest=folder.url,
            shard=name,
            part=f"parts/{number:06d}.json",
            first=first,
            labels=tuple(int(samples.labels[row]) for row in rows),
            refs=tuple(samples.refs[row] for row in rows),
            channels=plan.channels,
            edge=plan.edge,
            resize=size is not None,
            indexed=indexed,
        )

    if not isinstance(source, ShardSource) or size is not None:
        return [task(i, f"shard-{i:06d}.tar", a, range(a, b), False) for i, (a, b) in enumerate(plan.cuts)]
    rows: dict[str, list[int]] = {name: [] for name in source.shards(split)}
    for row, ref in enumerate(samples.refs):
        assert isinstance(ref, tuple)
        rows[ref[0]].append(row)
    in_order = {name: sorted(group, key=lambda row: samples.refs[row]) for name, group in rows.items()}
    return [task(i, name, 0, group, True) for i, (name, group) in enumerate(in_order.items())]


def _fingerprint(samples: Samples, plan: _Plan) -> str:
    """Return a hash of all that decides the shards, but the images themselves."""
    digest = hashlib.sha256(repr((samples.classes, plan)).encode())
    digest.update(samples.labels.tobytes())
    for ref in samples.refs:
        digest.update(f"{ref!r}\n".encode())
    return digest.hexdigest()


def _work(
    folder: Folder, tasks: list[Task], mapper: Mapper, progress: Callable[[int, int], None] | None
) -> dict[str, dict[str, Any]]:
    """Return the part of every task by its shard's name, doing those that are not done yet."""
    parts: dict[str, dict[str, Any]] = {}
    done, total = 0, sum(len(task.labels) for task in tasks)

    def take(part: dict[str, Any]) -> None:
        nonlocal done
        parts[part["shard"]] = part
        done += len(part["label"])
        if progress is not None:
            progress(done, total)

    left, there = [], set(folder.list("parts/"))
    for task in tasks:
        part = _part(folder, task) if task.part in there else None
        if part is None:
            left.append(task)
        else:
            take(part)
    if left:
        for part in mapper(shardwork.do, left):
            take(part)
    return parts


def _part(folder: Folder, task: Task) -> dict[str, Any] | None:
    """Return the part of a shard that was finished before, None where it has to be made."""
    try:
        part = folder.json(task.part)
    except (FileNotFoundError, IntegrityError):
        return None
    if not isinstance(part, dict) or part.keys() != shardwork.PART_KEYS or part["label"] != list(task.labels):
        return None
    shards = Folder(shardwork.shards_url(shardwork.opened(task.source))) if task.indexed else folder
    return part if part["shard"] == task.shard and shards.size(task.shard) == part["size"] else None


def _index(name: str, split: str, samples: Samples, plan: _Plan, ordered: list[dict[str, Any]]) -> Index:
    counts = [len(part["label"]) for part in ordered]
    sums = np.zeros((2, len(samples.classes), plan.channels), dtype=np.int64)
    for part in ordered:
        for label, both in part["sums"].items():
            sums[:, int(label)] += np.array(both, dtype=np.int64)

    def joined(key: str, dtype: type) -> np.ndarray:
        return np.concatenate([np.array(part[key], dtype=dtype) for part in ordered])

    return Index(
        name=name,
        split=split,
        classes=samples.classes,
        channels=plan.channels,
        size=plan.edge,
        shards=tuple(Shard(p["shard"], p["size"], p["sha256"], n) for p, n in zip(ordered, counts, strict=True)),
        shard=np.repeat(np.arange(len(ordered), dtype=np.int32), counts),
        offset=joined("offset", np.int64),
        length=joined("length", np.int32),
        label=joined("label", np.int32),
        channel_sum=sums[0],
        channel_sq=sums[1],
        crc=joined("crc", np.uint32),
    )


def _mapper(workers: int) -> Mapper:
    def here(function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        return (function(task) for task in tasks)

    def apart(function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        if len(tasks) < 2:
            yield from here(function, tasks)
            return
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(min(workers, len(tasks)), context, _begin_worker)
        try:
            for future in concurrent.futures.as_completed([pool.submit(function, task) for task in tasks]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    return here if workers == 1 else apart


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
