"""Where decoded images are held: in this process, or in one file that all processes of a node share."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import mmap
import os
import secrets
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
from PIL import features

from raydd.data.fetch import Fetcher, Part, by_shard
from raydd.errors import StoreError

FORMAT = "raydd-cache-1"
PAGE = 4096
WAIT_S = 120.0  # for another process that decodes a shard; then it is decoded here as well, to the same bytes
_POLL_S = 0.05
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger("raydd")


@dataclass(slots=True)
class Hits:
    """How many of the images asked for were there already, and how many had to be read, or waited for."""

    found: int = 0
    missed: int = 0

    def count(self, there: np.ndarray) -> None:
        """Count images by whether they were there, bool `(n,)`."""
        found = int(np.count_nonzero(there))
        self.found += found
        self.missed += len(there) - found


class Cache(Protocol):
    """Decoded images by number."""

    hits: Hits

    def images(self, ids: np.ndarray, round: int | None) -> np.ndarray:
        """Return images, uint8 `(n, C, H, W)` in fresh memory, of int64 ids `(n,)`; `round` is what they are for."""
        ...


class MemoryCache:
    """Images in memory of this process; a shard is read when the first of its images is asked for, and kept."""

    def __init__(self, fetcher: Fetcher, rows: np.ndarray) -> None:
        """Hold the images of `rows` of the index, by their places in it."""
        self._fetcher, self._rows = fetcher, rows
        self.hits = Hits()
        self._shard_of = fetcher.index.shard[rows]
        self._loaded = np.zeros(len(fetcher.index.shards), dtype=bool)
        self._lock = threading.Lock()

    @functools.cached_property
    def _images(self) -> np.ndarray:
        return lazy_images(len(self._rows), self._fetcher)

    def images(self, ids: np.ndarray, round: int | None) -> np.ndarray:
        """See `Cache`."""
        needed = np.unique(self._shard_of[ids])
        self.hits.count(self._loaded[self._shard_of[ids]])
        if not self._loaded[needed].all():
            with self._lock:
                self._load(needed[~self._loaded[needed]])
        return self._images[ids]

    def _load(self, shards: np.ndarray) -> None:
        ids = np.flatnonzero(np.isin(self._shard_of, shards))
        for part in self._fetcher.fetch(self._fetcher.parts(self._rows[ids], self._images, ids), whole=True):
            self._loaded[part.shard] = True


class DiskCache:
    """Images in a memory-mapped file that all processes of a node share and that outlives them.

    The file holds a page that says what it is, a mark a shard, and the images of the whole index, row by row; what was
    never decoded takes no room. A mark is set after its shard's images have reached the disk, so that a crash leaves
    nothing that is wrongly believed. A lock a shard keeps two processes from decoding the same one. Images are written,
    not stored through the map: a full disk is an error then and not a signal.
    """

    def __init__(self, fetcher: Fetcher, rows: np.ndarray, folder: Path) -> None:
        """Share images with all who use `folder`; `rows` are those of the index that ids stand for.

        Raises:
            StoreError: The folder cannot be written.
        """
        self._fetcher, self._rows = fetcher, rows
        self.hits = Hits()
        index = fetcher.index
        self._shard_of = index.shard[rows]
        header = _header(fetcher)
        self.path = folder / f"{hashlib.sha256(header).hexdigest()[:32]}.images"
        self._start = -(-(PAGE + len(index.shards)) // PAGE) * PAGE
        self._size = self._start + len(index) * fetcher.image_bytes
        self._lock = threading.Lock()
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _opened(self.path, header, self._size)
            weakref.finalize(self, os.close, self._file)
            view = mmap.mmap(self._file, self._size, access=mmap.ACCESS_READ)
        self._marks = np.frombuffer(view, dtype=np.uint8, count=len(index.shards), offset=PAGE)
        self._images = np.frombuffer(view, dtype=np.uint8, offset=self._start).reshape(-1, *fetcher.shape)

    @functools.cached_property
    def _rows_of(self) -> dict[int, np.ndarray]:
        index = self._fetcher.index
        order, shards, bounds = by_shard(index, np.arange(len(index)))
        return {int(s): order[a:b] for s, a, b in zip(shards, bounds[:-1], bounds[1:], strict=True)}

    def images(self, ids: np.ndarray, round: int | None) -> np.ndarray:
        """See `Cache`."""
        needed = np.unique(self._shard_of[ids])
        self.hits.count(self._marks[self._shard_of[ids]])
        if not self._marks[needed].all():
            with self._lock:
                self._load(needed.tolist())
        return self._images[self._rows[ids]]

    def _load(self, shards: list[int]) -> None:
        left, deadline = len(shards), time.monotonic() + WAIT_S
        while waiting := [shard for shard in shards if not self._marks[shard]]:
            if len(waiting) < left:
                left, deadline = len(waiting), time.monotonic() + WAIT_S
            if not self._decode_free(waiting, anyway=time.monotonic() > deadline):
                time.sleep(_POLL_S)

    def _decode_free(self, shards: list[int], *, anyway: bool) -> bool:
        """Decode those shards that no other process is decoding, or all of them; return whether there was one."""
        claimed: list[int] = []

        def free() -> Iterator[Part]:
            for shard in shards:
                if _lock(self._file, shard) or anyway:
                    claimed.append(shard)
                    if not self._marks[shard]:
                        yield Part(shard, self._rows_of[shard], functools.partial(self._write, self._rows_of[shard]))

        try:
            # The disk is waited for while the next shard is decoded.
            with ThreadPoolExecutor(1) as disk:
                parts = self._fetcher.fetch(free(), whole=True)
                for kept in [disk.submit(self._keep, part.shard) for part in parts]:
                    kept.result()
        finally:
            for shard in claimed:
                _unlock(self._file, shard)
        return bool(claimed)

    def _write(self, rows: np.ndarray, first: int, pixels: np.ndarray) -> None:
        rows = rows[first : first + len(pixels)]
        # Neighbours in one go.
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            place = self._start + int(rows[run[0]]) * self._fetcher.image_bytes
            with self._told():
                _write_all(self._file, pixels[run[0] : run[-1] + 1].data, place)

    def _keep(self, shard: int) -> None:
        with self._told():
            os.fdatasync(self._file)
            _write_all(self._file, b"\x01", PAGE + shard)
        _unlock(self._file, shard)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "set RAYDD_CACHE to another folder, or data.cache to memory"
            if error.errno in _FULL:
                size = f"{self._size / 2**30:.1f} GiB"
                raise StoreError(
                    f"{self.path}: expected room for up to {size} of decoded images, got a full disk: free some, {advice}"
                ) from error
            raise StoreError(f"cannot keep decoded images in {self.path}: {error.strerror}; {advice}") from error


def lazy_images(count: int, fetcher: Fetcher) -> np.ndarray:
    """Return room for images, uint8 `(count, C, H, W)`, that takes no memory where nothing was written."""
    room = mmap.mmap(-1, max(1, count * fetcher.image_bytes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(room, dtype=np.uint8, count=count * fetcher.image_bytes).reshape(-1, *fetcher.shape)


def _header(fetcher: Fetcher) -> bytes:
    """Return the page that says what a cache file holds, and which decoder's pixels: those of JPEG depend on it."""
    index = fetcher.index
    decoder = f"pillow {PIL.__version__}, jpg {features.version('jpg')}, webp {features.version('webp')}"
    what = {"format": FORMAT, "index": index.hash, "images": len(index), "shape": fetcher.shape, "decoder": decoder}
    return json.dumps(what, sort_keys=True).encode().ljust(PAGE, b"\0")


def _opened(path: Path, header: bytes, size: int) -> int:
    """Open a cache file, making it where there is none, or where it is none of ours."""
    if not path.exists():
        _make(path, header, size, os.link)
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    if os.fstat(file).st_size == size and os.pread(file, PAGE, 0) == header:
        return file
    os.close(file)
    _log.warning("%s is damaged: decoded images are made anew", path)
    _make(path, header, size, os.replace)
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def _make(path: Path, header: bytes, size: int, put: Callable[[Path, Path], None]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.truncate(file, size)
        _write_all(file, header, 0)
        os.fsync(file)
        with contextlib.suppress(FileExistsError):  # another process was faster
            put(temporary, path)
    finally:
        os.close(file)
        temporary.unlink(missing_ok=True)


def _write_all(file: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _lock(file: int, shard: int) -> bool:
    """Try to lock a shard against all other openings of the file; the lock goes with the process."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, shard))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock(file: int, shard: int) -> None:
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, shard))


def _flock(kind: int, shard: int) -> bytes:
    """Return Linux's `struct flock` for one byte: that of the shard's mark."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, PAGE + shard, 1, 0)
