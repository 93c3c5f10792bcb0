"""The work of packing one shard: what a packing process, wherever it runs, is given and gives back.

A task and its result are plain data. The result, a *part*, is also what an interrupted pack finds again: it is
written beside the shard, after it, and holds all that the index needs to know of it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import pathlib
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from raydd.data import images, sources, tars
from raydd.data.samples import Ref, Source
from raydd.data.shards import ShardSource
from raydd.errors import DataError
from raydd.store import Folder

PART_KEYS = {"shard", "size", "sha256", "label", "offset", "length", "crc", "sums"}
_BLOCK = 512
_CHUNK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One shard to make (or, where `indexed`, to read and leave as it is).

    Attributes:
        source: SOURCE string.
        split: The source's own name of the split.
        dest: URL of the folder the shard goes to.
        shard: Name of the tar below `dest`, or below the source's folder where `indexed`.
        part: Name of the part below `dest`.
        first: Number of the first sample; keys are numbers.
        labels: Label of every sample.
        refs: Reference of every sample, as the source gave it.
        channels: 1 or 3.
        edge: Edge of the stored images in pixels.
        resize: Whether images are brought to `edge`; otherwise they must have it.
        indexed: Whether the shard exists already and is only indexed.
    """

    source: str
    split: str
    dest: str
    shard: str
    part: str
    first: int
    labels: tuple[int, ...]
    refs: tuple[Ref, ...]
    channels: int
    edge: int
    resize: bool
    indexed: bool


def do(task: Task) -> dict[str, Any]:
    """Make (or index) a shard, write its part and return it.

    Returns:
        Shard name, size, sha256; `label`, `offset`, `length`, `crc` a sample; `sums`: per label the channels' sums and sums
        of squares.

    Raises:
        DataError: An image does not decode or has the wrong size; names it.
    """
    source = opened(task.source)
    part = _index(task, source) if task.indexed else _pack(task, source)
    Folder(task.dest).write_json(task.part, part)
    return part


@functools.lru_cache(maxsize=1)
def opened(spec: str) -> Source:
    """Return the source, kept from shard to shard: what it holds in memory is read once a process."""
    return sources.parse(spec)


def _pack(task: Task, source: Source) -> dict[str, Any]:
    sums = _Sums(task.channels)
    places = []
    with tempfile.TemporaryDirectory(prefix="raydd-pack-") as temporary:
        path = pathlib.Path(temporary) / "shard.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (label, ref) in enumerate(zip(task.labels, task.refs, strict=True), task.first):
                payload, extension, pixels = _image(task, source, ref)
                sums.add(label, pixels)
                places.append((tar.offset + _BLOCK, len(payload), zlib.crc32(payload)))
                _add(tar, f"{number:08d}.{extension}", payload)
                _add(tar, f"{number:08d}.cls", str(label).encode())
        size, sha256 = _digest(path)
        Folder(task.dest).upload(task.shard, path)
    return _part(task, size, sha256, places, sums)


def _index(task: Task, source: Source) -> dict[str, Any]:
    """Read a shard that exists once, in file order, checking every image."""
    sums = _Sums(task.channels)
    refs = [ref for ref in task.refs if isinstance(ref, tuple)]
    places = []
    with tars.local_copy(Folder(shards_url(source)), task.shard) as path:
        with path.open("rb") as stream:
            for label, ref in zip(task.labels, refs, strict=True):
                _, offset, length = ref
                stream.seek(offset)
                payload = stream.read(length)
                sums.add(label, images.decode(payload, task.channels, task.edge, source.where(task.split, ref)))
                places.append((offset, length, zlib.crc32(payload)))
        size, sha256 = _digest(path)
    return _part(task, size, sha256, places, sums)


def shards_url(source: Source) -> str:
    """Return the folder of the shards that a source indexes in place."""
    assert isinstance(source, ShardSource)
    return source.root.url


def _image(task: Task, source: Source, ref: Ref) -> tuple[bytes, str, np.ndarray]:
    """Return what is stored of a sample, its extension, and its pixels, uint8 (edge, edge, channels)."""
    where = source.where(task.split, ref)
    content = source.load(task.split, ref)
    image = images.open_image(content, where) if isinstance(content, bytes) else images.to_image(content)
    kept = images.EXTENSIONS.get(image.format or "")
    if not task.resize and image.size != (task.edge, task.edge):
        got = f"{image.width}x{image.height}"
        raise DataError(
            f"{where}: expected {task.edge}x{task.edge} pixels like the first image, got {got}: give --size"
        )
    image = images.convert(image, task.channels, where)
    if task.resize:
        image = images.resize(image, task.edge)
    pixels = np.asarray(image).reshape(task.edge, task.edge, task.channels)
    if isinstance(content, bytes) and kept and not task.resize:
        return content, kept, pixels
    return images.encode_png(image), "png", pixels


def _add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    info = tarfile.TarInfo(name)  # mtime, uid and gid are 0, the mode 0644: the same bytes whoever packs, whenever
    info.size = len(payload)
    tar.addfile(info, io.BytesIO(payload))


def _digest(path: pathlib.Path) -> tuple[int, str]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return path.stat().st_size, digest.hexdigest()


class _Sums:
    """Exact sums of pixel values and their squares per label and channel."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._sums: dict[int, np.ndarray] = {}

    def add(self, label: int, pixels: np.ndarray) -> None:
        values = pixels.reshape(-1, self._channels).astype(np.int64)
        both = np.stack([values.sum(axis=0), (values * values).sum(axis=0)])
        self._sums[label] = self._sums.get(label, 0) + both

    def json(self) -> dict[str, list[list[int]]]:
        return {str(label): both.tolist() for label, both in sorted(self._sums.items())}


def _part(task: Task, size: int, sha256: str, places: list[tuple[int, int, int]], sums: _Sums) -> dict[str, Any]:
    """Return a part; `places` are offset, length and CRC-32 of every image's bytes."""
    return {
        "shard": task.shard,
        "size": size,
        "sha256": sha256,
        "label": list(task.labels),
        "offset": [offset for offset, _, _ in places],
        "length": [length for _, length, _ in places],
        "crc": [crc for _, _, crc in places],
        "sums": sums.json(),
    }
