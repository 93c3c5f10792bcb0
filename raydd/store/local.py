"""A folder of the local (or any mounted) file system.

A file is written beside its place under a hidden name, synced, and then moved or linked there in one step, so that
neither a reader nor a crash ever meets half a file.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator

from raydd.urls import TMP_PREFIX


class LocalBackend:
    """Operations on absolute paths; see `raydd.store.backend.Backend`."""

    faults: tuple[type[Exception], ...] = (OSError,)

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path`, replacing what is there."""
        publish(path, lambda tmp: _fill(tmp, data), os.replace)

    def create(self, path: str, data: bytes, token: str) -> bool:
        """Put `data` at `path` unless something is there; say whether that was done."""
        try:
            publish(path, lambda tmp: _fill(tmp, data), _link)
        except FileExistsError:
            return False
        return True

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Return the bytes from `start` to `end`, fewer where the file ends."""
        with _Absent(path), open(path, "rb") as file:
            file.seek(start or 0)
            if end is None:
                return file.read()
            # Python makes room for all that is asked for, also where there is less.
            end = min(end, os.fstat(file.fileno()).st_size)
            return file.read(max(end - (start or 0), 0))

    def read_ranges(self, requests: list[tuple[str, int, int]], done: dict[int, bytes]) -> None:
        """Read the ranges whose number is not in `done` yet into `done`."""
        pending: dict[str, list[int]] = {}
        for number, (path, _, _) in enumerate(requests):
            if number not in done:
                pending.setdefault(path, []).append(number)
        for path, numbers in pending.items():
            with _Absent(path), open(path, "rb") as file:
                for number in numbers:
                    _, start, end = requests[number]
                    file.seek(start)
                    done[number] = file.read(end - start)

    def upload(self, path: str, source: str) -> None:
        """Copy the local file `source` to `path`."""
        publish(path, lambda tmp: _copy(source, tmp), os.replace)

    def fetch(self, path: str, target: str) -> None:
        """Copy `path` to the local file `target`, which nobody reads yet."""
        with _Absent(path):
            _copy(path, target)

    def size(self, path: str) -> int:
        """Return the file's bytes; FileNotFoundError where there is no such file."""
        with _Absent(path):
            if not os.path.isfile(path):
                os.stat(path)  # raises where that is for want of permission
                raise FileNotFoundError(path)
            return os.stat(path).st_size

    def names(self, path: str) -> list[str]:
        """Return the names of all files below, relative to `path`."""
        return list(_walk(path, "", frozenset()))

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders directly below."""
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]

    def delete(self, root: str, paths: list[str]) -> None:
        """Delete the files, and the folders up to `root` that are left empty, as an object store would."""
        for path in paths:
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
        for folder in sorted({os.path.dirname(path) for path in paths}, reverse=True):
            _prune(folder, root)


class _Absent:
    """Turn "a folder where a file was expected" into "no such file", which it is for an object store."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, IsADirectoryError | NotADirectoryError):
            raise FileNotFoundError(self.path) from error


def publish(path: str, fill: Callable[[str], None], put: Callable[[str, str], None]) -> None:
    """Make the file at `path` whole or not at all.

    Args:
        path: Where the file is to appear.
        fill: Writes the contents to the hidden path it is given.
        put: Moves or links the hidden file to `path`.
    """
    folder = os.path.dirname(path)
    for attempt in range(3):
        _make_folder(folder)
        # A name that no other process or machine has; it takes no part in the run's arithmetic.
        tmp = os.path.join(folder, TMP_PREFIX + secrets.token_hex(8))
        try:
            fill(tmp)
            _sync(tmp)
            put(tmp, path)
            _sync(folder)
            return
        except FileNotFoundError:
            # Another process may have pruned the empty folder between makedirs and here.
            if os.path.isdir(folder) or attempt == 2:
                raise
        finally:
            _unlink(tmp)


def _make_folder(path: str) -> None:
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from error


def _link(tmp: str, path: str) -> None:
    try:
        os.link(tmp, path)
    except FileExistsError:
        # Over NFS the answer to a link that succeeded may get lost; then the second name is there.
        if os.stat(tmp).st_nlink != 2:
            raise


def _fill(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as reader, open(target, "xb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _walk(path: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    # Links to folders are followed, as users build subsets of them; `above` keeps a link to a parent from looping.
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above | {identity})
            elif entry.is_file() and not entry.name.startswith(TMP_PREFIX):
                yield prefix + entry.name


def _prune(folder: str, root: str) -> None:
    while os.path.commonpath([folder, root]) == root:
        try:
            names = os.listdir(folder)
            if not all(name.startswith(TMP_PREFIX) for name in names):
                return
            # What a killed writer left. A living one notices that its file is gone and writes it again.
            for name in names:
                _unlink(os.path.join(folder, name))
            os.rmdir(folder)
        except OSError:
            return  # somebody is just writing there, or the folder may not be removed: an empty folder harms nobody
        folder = os.path.dirname(folder)
