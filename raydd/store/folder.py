"""One folder at any fsspec URL: the only way raydd reads and writes anything that outlives a process."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from raydd.errors import IntegrityError, StoreError
from raydd.store import local, retry
from raydd.store.backend import Backend
from raydd.store.canonical import from_json, to_json
from raydd.store.limits import MOST_RECORD
from raydd.urls import check_name, parse_url

T = TypeVar("T")
Names = list[str]  # inside the class, `list` is the method
STREAM_BYTES = 4 << 20

_LOCAL = local.LocalBackend()


class Folder:
    """A folder of files on a local disk (plain path or `file://`) or an object store (`s3://bucket/prefix` ...).

    It need not exist: the first write makes it. Credentials and endpoints come from the environment only
    (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, ...). A `Folder` holds nothing but its URL, so it may be pickled, sent to other
    processes and used from many threads.

    Every operation tries again on faults that may pass (timeouts, dropped connections, 5xx, SlowDown): up to
    `RAYDD_STORE_RETRIES` times (5), then raises `StoreError`. What trying again cannot mend (permission, no such
    bucket, no credentials, a full disk) raises `StoreError` at once.

    Attributes:
        url: The folder's URL as a user may type it again; an absolute path where it is local.
        is_local: Whether it lies on a local or mounted file system.

    Raises:
        StoreError: The URL is malformed, of an unknown scheme, chained (`::`), a `pipe:`, or carries a password; see
            `raydd.urls`.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self._scheme, self.url = parse_url(os.fspath(url))
        self.is_local = self._scheme == ""

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.url,)

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    @property
    def local_path(self) -> Path:
        """The folder's path; only where `is_local`."""
        if not self.is_local:
            raise StoreError(f"expected a local folder, got {self.url}")
        return Path(self.url)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self._body.rpartition("/")[2]

    @property
    def parent(self) -> Folder:
        """The folder that holds this one."""
        if "/" not in self._body.strip("/") and not self.is_local:
            raise StoreError(f"{self.url} has no folder above it")
        return Folder(os.path.dirname(self.url) if self.is_local else self.url.rpartition("/")[0])

    def folder(self, *parts: str) -> Folder:
        """Return the folder below at `parts`, each one or several names joined by `/`."""
        return Folder(self._at("/".join(parts))) if parts else self

    def write(self, name: str, data: bytes) -> None:
        """Put `data` at `name`, whole or not at all, replacing what is there."""
        path, backend = self._at(name), self._backend()
        self._do(backend, "write", path, lambda: backend.write(path, data))

    def create(self, name: str, data: bytes) -> bool:
        """Put `data` at `name` unless something is there already, atomically against all other writers.

        Returns:
            Whether this call made the file.
        """
        path, backend = self._at(name), self._backend()
        token = secrets.token_hex(16)
        return self._do(backend, "create", path, lambda: backend.create(path, data, token))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Return the file's bytes from `start` (0) up to `end` (its size), fewer where the file is shorter.

        Raises:
            FileNotFoundError: There is no such file.
        """
        if (start or 0) < 0 or (end or 0) < 0:
            raise ValueError(f"start and end must be >= 0, got {start} and {end}")
        path, backend = self._at(name), self._backend()
        return self._do(backend, "read", path, lambda: backend.read(path, start, end))

    def read_ranges(self, requests: list[tuple[str, int, int]]) -> list[bytes]:
        """Return the bytes of many (name, start, end) at once, in order.

        Raises:
            FileNotFoundError: A file is not there.
            IntegrityError: A file ends before a range does; names it.
        """
        bad = next((r for r in requests if not 0 <= r[1] <= r[2]), None)
        if bad:
            raise ValueError(f"a range must have 0 <= start <= end, got {bad}")
        backend = self._backend()
        paths = [(self._at(name), start, end) for name, start, end in requests]
        done: dict[int, bytes] = {}
        try:
            self._do(backend, "read ranges of", self.url, lambda: backend.read_ranges(paths, done))
        except FileNotFoundError as error:
            missing = sorted({name for name, _, _ in requests if not self.exists(name)})
            raise FileNotFoundError(f"cannot read {self.url}/{', '.join(missing[:3])}: no such file") from error
        for number, (path, start, end) in enumerate(paths):
            if len(done[number]) != end - start:
                raise IntegrityError(
                    f"{path}: expected bytes {start} to {end}, got {len(done[number])} of them: truncated"
                )
        return [done[number] for number in range(len(paths))]

    def open(self, name: str) -> BinaryIO:
        """Open the file for buffered reading from front to back; reads are retried like all else.

        Raises:
            FileNotFoundError: There is no such file.
        """
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(f"cannot open {self._at(name)}: no such file")
        return io.BufferedReader(_Stream(self, name, size), STREAM_BYTES)

    def upload(self, name: str, path: str | os.PathLike[str]) -> None:
        """Copy the local file `path` to `name`, whole or not at all."""
        source = os.path.abspath(path)
        if not os.path.isfile(source):
            raise FileNotFoundError(f"cannot upload {source}: no such file")
        target, backend = self._at(name), self._backend()
        self._do(backend, "write", target, lambda: backend.upload(target, source))

    def download(self, name: str, path: str | os.PathLike[str]) -> None:
        """Copy `name` to the local file `path`, which appears whole or not at all.

        Raises:
            FileNotFoundError: There is no such file.
        """
        source, backend, target = self._at(name), self._backend(), os.path.abspath(path)
        faults = (*backend.faults, OSError)
        what = f"cannot download {source} to {target}"
        retry.call(lambda: local.publish(target, lambda tmp: backend.fetch(source, tmp), os.replace), what, faults)

    def size(self, name: str) -> int | None:
        """Return the file's size in bytes, None where there is none."""
        path, backend = self._at(name), self._backend()
        try:
            return self._do(backend, "look at", path, lambda: backend.size(path))
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Say whether there is such a file."""
        return self.size(name) is not None

    def list(self, prefix: str = "") -> Names:
        """Return the names of all files below that begin with `prefix`, sorted; read anew each time.

        Args:
            prefix: Begin of the names, such as `lease/gen-`; only the folder it names is looked through.
        """
        above, _, _ = prefix.rpartition("/")
        path = self._at(above) if above else self.url
        backend = self._backend()
        try:
            names = self._do(backend, "list", path, lambda: backend.names(path))
        except FileNotFoundError:
            return []
        full = (f"{above}/{name}" if above else name for name in names)
        return sorted(name for name in full if name.startswith(prefix))

    def folders(self) -> Names:
        """Return the names of the folders directly below, sorted; read anew each time."""
        backend = self._backend()
        try:
            return sorted(self._do(backend, "list", self.url, lambda: backend.folders(self.url)))
        except FileNotFoundError:
            return []

    def delete(self, *names: str) -> None:
        """Delete these files; absent ones are no error. A local folder left empty goes as well."""
        paths, backend = [self._at(name) for name in names], self._backend()
        if paths:
            self._do(backend, "delete files of", self.url, lambda: backend.delete(self.url, paths))

    def json(self, name: str) -> Any:
        """Return the file's contents as JSON.

        Raises:
            FileNotFoundError: There is no such file.
            IntegrityError: It is not JSON, or more than 64 MiB.
        """
        return from_json(self.read_bounded(name, MOST_RECORD), self._at(name))

    def read_bounded(self, name: str, most: int) -> bytes:
        """Return the file's bytes; of a larger one than `most` no more than one byte beyond is ever read.

        Raises:
            FileNotFoundError: There is no such file.
            IntegrityError: It is larger.
        """
        data = self.read(name, 0, most + 1)
        if len(data) > most:
            raise IntegrityError(f"{self._at(name)}: expected at most {most} bytes, got more; it was altered")
        return data

    def record(self, name: str) -> dict[str, Any]:
        """Return what a file holds that is a JSON object.

        Raises:
            FileNotFoundError: There is no such file.
            IntegrityError: It is something else.
        """
        body = self.json(name)
        if not isinstance(body, dict):
            kind = type(body).__name__
            raise IntegrityError(f"{self.url}/{name}: expected a JSON object, got {kind}; it was altered")
        return body

    def write_json(self, name: str, obj: Any) -> None:
        """Write `obj` as canonical JSON (`to_json`)."""
        self.write(name, to_json(obj))

    @property
    def _body(self) -> str:
        return self.url if self.is_local else self.url.partition("://")[2]

    def _at(self, name: str) -> str:
        return f"{self.url.rstrip('/') if self.is_local else self.url}/{check_name(name)}"

    def _backend(self) -> Backend:
        if self.is_local:
            return _LOCAL
        # Here, so that local work loads neither fsspec nor an S3 client.
        from raydd.store.remote import RemoteBackend

        return RemoteBackend(self._scheme)

    def _do(self, backend: Backend, verb: str, path: str, operation: Callable[[], T]) -> T:
        return retry.call(operation, f"cannot {verb} {path}", backend.faults)


class _Stream(io.RawIOBase):
    """Reads a file front to back by ranges, so that a dropped connection costs one range."""

    def __init__(self, folder: Folder, name: str, size: int) -> None:
        self._folder, self._name, self._size, self._place = folder, name, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._place + len(view), self._size)
        data = self._folder.read(self._name, self._place, end)
        if len(data) != end - self._place:
            raise IntegrityError(f"{self._folder.url}/{self._name}: expected {self._size} bytes, it became shorter")
        view[: len(data)] = data
        self._place = end
        return len(data)

    def readall(self) -> bytes:
        # The default asks for 8 KiB at a time, each of which would be a request.
        chunk, chunks = bytearray(STREAM_BYTES), []
        while size := self.readinto(chunk):
            chunks.append(bytes(chunk[:size]))
        return b"".join(chunks)
