"""A folder at any fsspec URL: S3, Google, Azure, `memory://` and the rest.

On object stores a file appears when its one PUT, or the completion of its multipart upload, is acknowledged. On
remote file systems (sftp, hdfs) it is as atomic as fsspec makes it: there the manifests protect readers.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
from aiohttp import ClientError as HttpError
from botocore.exceptions import BotoCoreError, ClientError

from raydd.errors import StoreError
from raydd.store.retry import answer, is_absent
from raydd.urls import check_endpoints

# Files up to twice this size go up in one PUT, larger ones in parts of this size, four at a time.
PART_BYTES = 32 << 20
MOST_PARTS = 10_000
THREADS = 8
_TOKEN = "raydd-token"

_S3 = ("s3", "s3a")
_S3_OPTIONS: dict[str, Any] = {
    "use_listings_cache": False,
    "fixed_upload_size": True,
    "max_concurrency": 4,
    # One attempt: `raydd.store.retry` is the layer that retries.
    "config_kwargs": {
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "connect_timeout": 10,
        "read_timeout": 60,
        "max_pool_connections": 32,
    },
}
_FILESYSTEMS: dict[tuple[Any, ...], Any] = {}
_LOCK = threading.Lock()


def filesystem(scheme: str) -> Any:
    """Return this process's fsspec file system for `scheme`, made on first use.

    S3 clients hold a thread and sockets that do not survive a fork, and take their endpoint and keys from the
    environment: hence one for each process and environment.
    """
    aws = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    key = (os.getpid(), scheme, aws if scheme in _S3 else ())
    with _LOCK:
        if key not in _FILESYSTEMS:
            _FILESYSTEMS[key] = _connect(scheme)
        return _FILESYSTEMS[key]


def _connect(scheme: str) -> Any:
    if scheme in _S3:
        check_endpoints()
    options = _S3_OPTIONS if scheme in _S3 else {}
    try:
        made = fsspec.filesystem(scheme, skip_instance_cache=True, **options)
    except (ImportError, OSError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise StoreError(
            f"cannot use {scheme}:// URLs: {cause}; install its fsspec package or use another store"
        ) from error
    if scheme in _S3:
        made.retries = 1
    return made


class RemoteBackend:
    """Operations on full URLs of one scheme; see `raydd.store.backend.Backend`."""

    faults: tuple[type[Exception], ...] = (OSError, BotoCoreError, ClientError, HttpError)

    def __init__(self, scheme: str) -> None:
        self.fs = filesystem(scheme)
        self.is_s3 = scheme in _S3
        # fsspec's memory store is a plain dict of seekable files: one thread at a time.
        self.guard: Any = _MEMORY_LOCK if scheme == "memory" else contextlib.nullcontext()
        # One GET for one file: ranged GETs side by side could mix two versions of an object that is replaced.
        self.one_get: dict[str, Any] = {"max_concurrency": 1} if self.is_s3 else {}

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path`, replacing what is there."""
        with self.guard:
            self.fs.pipe_file(self._key(path), data, **self._parts(len(data)))

    def create(self, path: str, data: bytes, token: str) -> bool:
        """Put `data` at `path` unless something is there (S3: `If-None-Match: *`); say whether that was done.

        The answer to a PUT that succeeded may get lost, and the HTTP client sends a PUT again by itself on a new
        connection: then the store says that the object exists. The token in its metadata tells whether it is ours.
        """
        options = {"Metadata": {_TOKEN: token}} if self.is_s3 else {}
        try:
            with self.guard:
                self.fs.pipe_file(self._key(path), data, mode="create", **options)
        except OSError as error:
            if not isinstance(error, FileExistsError) and answer(error)[0] not in ("PreconditionFailed", "412"):
                raise
            return self.is_s3 and self._token(path) == token
        return True

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Return the bytes from `start` to `end`, fewer where the file ends."""
        if end is not None and end <= (start or 0):
            return b""
        try:
            with self.guard:
                return self.fs.cat_file(self._key(path), start=start, end=end, **self.one_get)
        except OSError as error:
            if _is_beyond_end(error):
                return b""
            raise

    def read_ranges(self, requests: list[tuple[str, int, int]], done: dict[int, bytes]) -> None:
        """Read the ranges whose number is not in `done` yet into `done`."""
        done.update((number, b"") for number, (_, start, end) in enumerate(requests) if start == end)
        pending = [number for number in range(len(requests)) if number not in done]
        if not pending:
            return
        paths, starts, ends = zip(*(requests[number] for number in pending), strict=True)
        options = {"batch_size": 32} if self.is_s3 else {}
        with self.guard:
            keys = [self._key(path) for path in paths]
            got = self.fs.cat_ranges(keys, list(starts), list(ends), on_error="return", **options)
        for number, data in zip(pending, got, strict=True):
            if isinstance(data, bytes):
                done[number] = data
            elif _is_beyond_end(data):
                done[number] = b""
        failed = [data for data in got if not isinstance(data, bytes) and not _is_beyond_end(data)]
        if failed:
            raise failed[0]

    def upload(self, path: str, source: str) -> None:
        """Copy the local file `source` to `path`."""
        with self.guard:
            self.fs.put_file(source, self._key(path), **self._parts(os.path.getsize(source)))

    def fetch(self, path: str, target: str) -> None:
        """Copy `path` to the local file `target`, which nobody reads yet."""
        with self.guard:
            self.fs.get_file(self._key(path), target, **self.one_get)

    def size(self, path: str) -> int:
        """Return the file's bytes; FileNotFoundError where there is no such file."""
        with self.guard:
            info = self.fs.info(self._key(path))
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return int(info["size"])

    def names(self, path: str) -> list[str]:
        """Return the names of all files below, relative to `path`."""
        root = self._key(path).rstrip("/") + "/"
        with self.guard:
            self.fs.invalidate_cache()
            found = self.fs.find(self._key(path))
        # A key that ends in "/" is the marker some tools leave for an empty folder.
        return [name[len(root) :] for name in found if name.startswith(root) and not name.endswith("/")]

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders directly below."""
        with self.guard:
            self.fs.invalidate_cache()
            found = self.fs.ls(self._key(path), detail=True)
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory")
        return [name for name in names if name]

    def delete(self, root: str, paths: list[str]) -> None:
        """Delete the files; absent ones are no error."""
        # One by one: s3fs passes over the errors that a bulk delete reports.
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._delete_one, paths))

    def _delete_one(self, path: str) -> None:
        try:
            with self.guard:
                self.fs.rm_file(self._key(path))
        except FileNotFoundError as error:
            if not is_absent(error):
                raise

    def _token(self, path: str) -> str | None:
        try:
            return self.fs.metadata(self._key(path)).get(_TOKEN)
        except FileNotFoundError:
            return None

    def _key(self, path: str) -> str:
        return self.fs._strip_protocol(path)

    def _parts(self, size: int) -> dict[str, int]:
        return {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS))} if self.is_s3 else {}


_MEMORY_LOCK = threading.RLock()


def _is_beyond_end(error: Exception) -> bool:
    return answer(error)[0] in ("InvalidRange", "416")
