"""What a `Folder` asks of a kind of store."""

from __future__ import annotations

from typing import Protocol


class Backend(Protocol):
    """Raw operations on full paths or URLs. Faults are the client's own; FileNotFoundError means absent."""

    faults: tuple[type[Exception], ...]

    def write(self, path: str, data: bytes) -> None:
        """Put `data` at `path`, whole or not at all, replacing what is there."""
        ...

    def create(self, path: str, data: bytes, token: str) -> bool:
        """Put `data` at `path` unless something is there; say whether that was done, by this or an earlier try.

        Args:
            path: Where to.
            data: The contents.
            token: Unlike that of any other call; the same when this call is tried again.
        """
        ...

    def read(self, path: str, start: int | None, end: int | None) -> bytes:
        """Return the bytes from `start` to `end`, fewer where the file ends."""
        ...

    def read_ranges(self, requests: list[tuple[str, int, int]], done: dict[int, bytes]) -> None:
        """Read the ranges whose number is not in `done` yet into `done`; a retry goes on where a fault came."""
        ...

    def upload(self, path: str, source: str) -> None:
        """Copy the local file `source` to `path`, whole or not at all."""
        ...

    def fetch(self, path: str, target: str) -> None:
        """Copy `path` to the local file `target`, which nobody reads yet."""
        ...

    def size(self, path: str) -> int:
        """Return the file's bytes; FileNotFoundError where there is no such file."""
        ...

    def names(self, path: str) -> list[str]:
        """Return the names of all files below, relative to `path`."""
        ...

    def folders(self, path: str) -> list[str]:
        """Return the names of the folders directly below."""
        ...

    def delete(self, root: str, paths: list[str]) -> None:
        """Delete the files; absent ones are no error."""
        ...
