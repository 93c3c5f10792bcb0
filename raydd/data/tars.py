"""Tars read without extracting them: where every member lies, and whether the archive is whole."""

from __future__ import annotations

import contextlib
import pathlib
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from raydd.errors import DataError
from raydd.store import Folder

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Member:
    """A regular file in a tar: its name (never used as a path), and where its bytes lie."""

    name: str
    offset: int
    size: int


def members(stream: BinaryIO, where: str) -> list[Member]:
    """List the regular files of an uncompressed tar in order.

    Python's tarfile takes an archive cut between two members for a complete one; here its end mark must be there.

    Args:
        stream: The tar, seekable, at its start.
        where: What to call it in an error.

    Raises:
        DataError: It is not a tar, is truncated, or holds a sparse file.
    """
    found, sparse = [], ""
    end = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                if info.issparse():
                    sparse = info.name
                elif info.isreg():
                    found.append(Member(info.name, info.offset_data, info.size))
                end = tar.offset
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: expected a whole tar, got a damaged or truncated one ({error})") from error
    if sparse:
        raise DataError(f"{where}: expected plain files, got the sparse {sparse!r}: pack it without -S")
    stream.seek(end)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise DataError(f"{where}: expected a whole tar, got one that breaks off after byte {end}")
    return found


@contextlib.contextmanager
def local_copy(folder: Folder, name: str) -> Iterator[pathlib.Path]:
    """Give a local path of a file at any URL: itself where it is local, else a temporary copy."""
    if folder.is_local:
        yield pathlib.Path(folder.local_path) / name
        return
    with tempfile.TemporaryDirectory(prefix="raydd-") as temporary:
        path = pathlib.Path(temporary) / "file"
        folder.download(name, path)
        yield path
