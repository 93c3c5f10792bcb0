"""Samples of a packed data set, read and decoded: by whole shards, or by byte ranges where few of a shard are wanted."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from raydd.data import images
from raydd.data.index import Index, read_shard
from raydd.errors import IntegrityError
from raydd.store import Folder

THREADS = min(4, os.cpu_count() or 1)
_SMALL = 64  # pixels of an edge up to which threads only wait for each other: most of the time is Python's
_CHUNK = 64  # images a decoding thread takes at once
_HEADER = 512  # the tar header in front of every member's bytes
_GAP = 64 << 10  # unwanted bytes that are read along rather than asked around
_SPAN = 8 << 20  # bytes of one request at most, so that a store can answer several at once


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples of one shard.

    Attributes:
        shard: The shard's position in the index.
        rows: int64 `(n,)`, the samples' rows of the index.
        put: Called as `put(first, pixels)` with uint8 `(k, C, H, W)` of the rows from `first` on, from several threads.
    """

    shard: int
    rows: np.ndarray
    put: Callable[[int, np.ndarray], None]


class Fetcher:
    """Reads and decodes samples; holds none.

    A part that is all of its shard is read whole and its sha256 checked. Of any other the byte ranges are read, and the
    shard's size, the tar header in front of each image and the image's CRC-32 are what is checked.
    """

    def __init__(self, shards: Folder, index: Index) -> None:
        """Read from the shards that `index` describes."""
        self.index = index
        self.shape = (index.channels, index.size, index.size)
        self.image_bytes = index.channels * index.size**2
        self._shards = shards
        self._sized: set[int] = set()

    def fetch(self, parts: Iterable[Part], *, threads: int = THREADS, whole: bool = False) -> Iterator[Part]:
        """Decode parts one after the other, reading the next while this one is decoded.

        Args:
            parts: What to decode; taken one ahead.
            threads: Decoding threads, for images that are worth several.
            whole: Read whole shards, however few of their samples are wanted.

        Yields:
            Each part when all of it was put.

        Raises:
            IntegrityError: A shard is missing, truncated or altered; names it.
            DataError: An image does not decode or has the wrong size; names shard and sample.
        """
        threads = 1 if self.index.size <= _SMALL else threads
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(threads) as decoders:
            each = map if threads == 1 else decoders.map
            reads = ((part, reader.submit(self._read, part, whole)) for part in parts)
            ahead = next(reads, None)
            while ahead is not None:
                part, payloads = ahead[0], ahead[1].result()
                ahead = next(reads, None)
                for _ in each(lambda first, p=part, d=payloads: self._decode(p, d, first), _starts(part)):
                    pass
                yield part

    def parts(self, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> Iterator[Part]:
        """Yield the parts that bring rows, in any order, to places of `out`, uint8 `(m, C, H, W)`."""
        order, shards, bounds = by_shard(self.index, rows)
        for shard, first, end in zip(shards, bounds[:-1], bounds[1:], strict=True):
            chosen = order[first:end]
            yield Part(int(shard), rows[chosen], _putter(out, places[chosen]))

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Return rows, in any order, as uint8 `(n, C, H, W)` in fresh memory; see `fetch` for errors."""
        unique, back = np.unique(rows, return_inverse=True)
        out = np.empty((len(unique), *self.shape), dtype=np.uint8)
        for _ in self.fetch(self.parts(unique, out, np.arange(len(unique)))):
            pass
        return out[back]

    def _read(self, part: Part, whole: bool) -> list[memoryview]:
        """Return the encoded image of every row."""
        entry = self.index.shards[part.shard]
        if not whole and len(part.rows) < entry.samples:
            return self._read_ranges(part)
        data = memoryview(read_shard(self._shards, entry))
        starts, lengths = self._places(part)
        return [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]

    def _read_ranges(self, part: Part) -> list[memoryview]:
        entry = self.index.shards[part.shard]
        where = f"{self._shards.url}/{entry.name}"
        self._check_size(part.shard)
        starts, lengths = self._places(part)
        spans, span_of = _spans([max(start - _HEADER, 0) for start in starts], lengths)
        try:
            blobs = self._shards.read_ranges([(entry.name, first, end) for first, end in spans])
        except FileNotFoundError:
            raise IntegrityError(f"{where}: expected a shard, got nothing: pack again") from None
        found: list[memoryview] = []
        for row, start, length, span in zip(part.rows, starts, lengths, span_of, strict=True):
            at = start - spans[span][0]
            if _member_size(blobs[span][at - _HEADER : at]) != length:
                raise IntegrityError(
                    f"{where} sample {row}: expected an image of {length} bytes at byte {start}, got something else: "
                    "pack or copy it again"
                )
            image = memoryview(blobs[span])[at : at + length]
            if self.index.crc is not None and zlib.crc32(image) != self.index.crc[row]:
                raise IntegrityError(
                    f"{where} sample {row}: expected an image with CRC-32 {self.index.crc[row]:08x}, got "
                    f"{zlib.crc32(image):08x}: pack or copy it again"
                )
            found.append(image)
        return found

    def _places(self, part: Part) -> tuple[list[int], list[int]]:
        return self.index.offset[part.rows].tolist(), self.index.length[part.rows].tolist()

    def _check_size(self, shard: int) -> None:
        """Compare a shard's size with the index, once."""
        if shard in self._sized:
            return
        entry = self.index.shards[shard]
        where, size = f"{self._shards.url}/{entry.name}", self._shards.size(entry.name)
        if size is None:
            raise IntegrityError(f"{where}: expected a shard, got nothing: pack again")
        if size != entry.size:
            raise IntegrityError(f"{where}: expected {entry.size} bytes, got {size}: pack or copy it again")
        self._sized.add(shard)

    def _decode(self, part: Part, payloads: list[memoryview], first: int) -> None:
        rows, index = part.rows[first : first + _CHUNK], self.index
        pixels = np.empty((len(rows), *self.shape), dtype=np.uint8)
        where = f"{self._shards.url}/{index.shards[part.shard].name} sample"
        for place, row in enumerate(rows.tolist()):
            image = images.decode(payloads[first + place], index.channels, index.size, f"{where} {row}")
            pixels[place] = image.transpose(2, 0, 1)
        part.put(first, pixels)


def by_shard(index: Index, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Group rows by shard.

    Returns:
        The order, int64 `(n,)`, that brings rows shard by shard and keeps it within one; the shards that there are,
        ascending, `(k,)`; and where each begins in that order, with the end of the last, `(k + 1,)`.
    """
    shard_of = index.shard[rows]
    order = np.argsort(shard_of, kind="stable")
    shards, starts = np.unique(shard_of[order], return_index=True)
    return order, shards, np.append(starts, len(rows))


def _starts(part: Part) -> range:
    return range(0, len(part.rows), _CHUNK)


def _putter(out: np.ndarray, places: np.ndarray) -> Callable[[int, np.ndarray], None]:
    def put(first: int, pixels: np.ndarray) -> None:
        out[places[first : first + len(pixels)]] = pixels

    return put


def _spans(starts: list[int], lengths: list[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """Join neighbouring byte ranges, each with the header before it; return them and which one each sample is in."""
    spans: list[tuple[int, int]] = []
    span_of = [0] * len(starts)
    for i in sorted(range(len(starts)), key=starts.__getitem__):
        start, end = starts[i], starts[i] + _HEADER + lengths[i]
        if spans and start - spans[-1][1] <= _GAP and end - spans[-1][0] <= _SPAN:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
        span_of[i] = len(spans) - 1
    return spans, span_of


def _member_size(header: bytes) -> int:
    """Return the size of a tar's member by its header, -1 where it is none."""
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size
    except tarfile.TarError:
        return -1
