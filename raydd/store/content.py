"""Files of remote stores, kept on this machine under the sha256 of their contents.

    RAYDD_CACHE/content/<sha256>             a whole file; checked again whenever it is read
    RAYDD_CACHE/content/<sha256>.part        what has come of one so far; who fetches it holds a lock (flock) on it
    RAYDD_CACHE/content/<sha256>.<..>.part   the same, of a process that did not wait for another that stood still

What lies there serves whoever wants the same contents, from whatever URL. Files come in ranges, so that a fetch that was
interrupted, or killed, goes on with what is there. One process of a machine fetches while the others wait for it. Beyond
`MOST_BYTES` the least recently used files go. All of it may be deleted at any time: it is fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from raydd.errors import IntegrityError
from raydd.store.folder import Folder
from raydd.store.limits import check_fits
from raydd.store.manifest import Entry, digest, read_entry

MOST_BYTES = 10 << 30
RANGE_BYTES = 4 << 20
RANGES = 4  # asked for at once; an interruption loses at most these
STALL_S = 60.0  # how long a fetch of another process may rest before it is done here as well
_POLL_S = 0.05
_PART = ".part"
_log = logging.getLogger("raydd")
# Is called with the bytes of a file that are here by now.
Told = Callable[[int], None]


def cache_folder() -> Path:
    """Return where raydd keeps things on this machine: RAYDD_CACHE, else `raydd` in the user's cache folder."""
    if own := os.environ.get("RAYDD_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "raydd"


def read_content(folder: Folder, name: str, entry: Entry, told: Told | None = None) -> bytes:
    """Return the contents of a file, checked: a local one as it stands, any other by way of this machine's cache.

    Never are more than the entry's bytes fetched. Where the cache cannot be used the file is read without it.

    Args:
        folder: Where the file is.
        name: The file.
        entry: What it must be.
        told: Is called with the bytes that are here, whenever there are more of them.

    Raises:
        IntegrityError: The file is missing, truncated or altered.
        StoreError: The store failed.
        DataError: It is larger than the memory that is free; nothing is read then.
    """
    told = told or _silent
    if folder.is_local:
        data = read_entry(folder, name, entry)
        told(entry.size)
        return data
    check_fits(f"{folder.url}/{name}", entry.size)
    root = cache_folder() / "content"
    try:
        data = _read(folder, name, entry, root, told)
    except OSError as error:
        # Of the cache alone: what the store lacks or refuses is told by other errors.
        _log.warning("%s is not kept on this machine: %s; RAYDD_CACHE names another folder", name, error)
        data = read_entry(folder, name, entry)
    told(entry.size)
    return data


def _read(folder: Folder, name: str, entry: Entry, root: Path, told: Told) -> bytes:
    root.mkdir(parents=True, exist_ok=True)
    part = root / (entry.sha256 + _PART)
    grown, since = -1, time.monotonic()
    while (data := _kept(root, entry)) is None:
        if (file := _claim(part)) is not None:
            with file:
                # Another process may have come to the end in between.
                data = _kept(root, entry)
                if data is None:
                    data = _fetch(folder, name, entry, file, part, told)
                    with contextlib.suppress(OSError):  # others' files in a shared cache
                        _drop_old(root)
                else:
                    part.unlink(missing_ok=True)
                return data
        if (size := _size(part)) != grown:
            grown, since = size, time.monotonic()
            told(max(0, size))
        elif time.monotonic() - since > STALL_S:
            part = root / f"{entry.sha256}.{secrets.token_hex(8)}{_PART}"
        else:
            time.sleep(_POLL_S)
    return data


def _kept(root: Path, entry: Entry) -> bytes | None:
    """Return the contents that are kept, None where there are none, or only damaged ones, which go."""
    path = root / entry.sha256
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if digest(data) != entry:
        _log.warning("%s is damaged: it is fetched again", path)
        path.unlink(missing_ok=True)
        return None
    with contextlib.suppress(PermissionError):  # another user's
        os.utime(path)
    return data


def _claim(part: Path) -> BinaryIO | None:
    """Open and lock a part, making it where there is none; return None where somebody else holds it."""
    file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Before the lock was ours it may have been finished, and so renamed, or dropped.
        if os.path.samestat(os.fstat(file.fileno()), os.stat(part)):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def _fetch(folder: Folder, name: str, entry: Entry, file: BinaryIO, part: Path, told: Told) -> bytes:
    """Fetch what a part lacks, give the whole its name, and return its contents."""
    have = os.fstat(file.fileno()).st_size
    have = have - have % RANGE_BYTES if have <= entry.size else 0
    try:
        data = _completed(folder, name, entry, file, have, told)
        if have and digest(data) != entry:
            # What lay there was damaged: now without it.
            data = _completed(folder, name, entry, file, 0, told)
        if (found := digest(data)) != entry:
            where = f"{folder.url}/{name}"
            raise IntegrityError(
                f"{where}: expected sha256 {entry.sha256}, got {found.sha256}: the file has been altered"
            )
        os.fsync(file.fileno())
        part.rename(part.with_name(entry.sha256))
    except (IntegrityError, OSError):
        # Nothing to go on with: the file is another one, or this disk is full or failing.
        part.unlink(missing_ok=True)
        raise
    return data


def _completed(folder: Folder, name: str, entry: Entry, file: BinaryIO, have: int, told: Told) -> bytes:
    """Fetch a file's bytes from `have` on, and return all of it."""
    file.truncate(have)
    file.seek(have)
    for data in _ranges(folder, name, entry, have):
        file.write(data)
        file.flush()
        told(file.tell())
    file.seek(0)
    return file.read()


def _ranges(folder: Folder, name: str, entry: Entry, begin: int) -> Iterator[bytes]:
    """Yield a file's bytes from `begin` on."""
    where = f"{folder.url}/{name}"
    size = folder.size(name)
    if size != entry.size:
        got = "no file" if size is None else size
        raise IntegrityError(f"{where}: expected {entry.size} bytes, got {got}")
    starts = list(range(begin, entry.size, RANGE_BYTES))
    for first in range(0, len(starts), RANGES):
        asked = [(name, at, min(at + RANGE_BYTES, entry.size)) for at in starts[first : first + RANGES]]
        try:
            yield from folder.read_ranges(asked)
        except FileNotFoundError as error:
            raise IntegrityError(f"{where}: expected {entry.size} bytes, it was deleted meanwhile") from error


def _drop_old(root: Path) -> None:
    """Delete what was used least recently until the rest is small enough; the newest file stays, whatever its size."""
    found = []
    for path in root.iterdir():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found)[:-1]:
        if total <= MOST_BYTES:
            return
        if _drop(path):
            total -= size


def _drop(path: Path) -> bool:
    """Delete a file, unless it is a part that somebody fetches."""
    if path.suffix != _PART:
        path.unlink(missing_ok=True)
        return True
    file = _claim(path)
    if file is None:
        return False
    with file:
        path.unlink(missing_ok=True)
    return True


def _silent(_have: int) -> None:
    """Hear how many bytes are here, and say nothing."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
