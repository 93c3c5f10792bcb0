"""Manifests: a set of files exists once its manifest does.

`manifest.json` is written last and lists every file with its size and sha256. Readers believe manifests only, and check
what they read against them. The format, canonical JSON (`to_json`):

    {"files": {NAME: {"sha256": HEX, "size": BYTES}, ...}, "format": "raydd-manifest-1", "meta": {...}, "sha256": HEX}

The last field is the sha256 of the canonical JSON of the object without it. It finds damage, not forgery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from raydd.errors import IntegrityError, StoreError
from raydd.store.canonical import to_json
from raydd.store.folder import Folder
from raydd.store.limits import check_fits
from raydd.threads import Threads
from raydd.urls import check_name

A = TypeVar("A")
B = TypeVar("B")
FORMAT = "raydd-manifest-1"
NAME = "manifest.json"
THREADS = 8
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """What a file must be: its size in bytes and the sha256 of its contents in lower-case hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A committed set of files.

    Attributes:
        files: What each file must be, by its name relative to the manifest's folder.
        meta: What the writer says about them; JSON.
    """

    files: dict[str, Entry]
    meta: dict[str, Any]

    def entry(self, folder: Folder, name: str) -> Entry:
        """Return what a file must be.

        Raises:
            IntegrityError: The manifest, which lies in `folder`, does not list it.
        """
        if name not in self.files:
            raise IntegrityError(f"{folder.url}/{name}: expected a file that the manifest lists, got one it does not")
        return self.files[name]


def digest(data: bytes) -> Entry:
    """Return the entry of a file with these contents."""
    return Entry(len(data), hashlib.sha256(data).hexdigest())


def commit(
    folder: Folder,
    files: Mapping[str, bytes],
    *,
    meta: Mapping[str, Any],
    entries: Mapping[str, Entry] | None = None,
    name: str = NAME,
) -> Manifest:
    """Write `files`, several at once, and then the manifest that makes them exist.

    If anything fails there is no new manifest. A manifest that is there already is left alone while the files it lists
    are written again with the same contents; if any contents change, it is withdrawn first, so that a crash in between
    leaves no set of files rather than a broken one.

    Args:
        folder: Where to.
        files: Contents by name.
        meta: JSON that the manifest is to carry.
        entries: Files that somebody else has written there already; their sizes are checked.
        name: The manifest's own name.

    Raises:
        IntegrityError: A file of `entries` is missing or has another size.
        StoreError: The store failed, or a name is not safe or given twice.
        ValueError: `meta` is not JSON.
    """
    given = dict(entries or {})
    manifest = Manifest({**given, **{key: digest(data) for key, data in files.items()}}, dict(meta))
    twice = [key for key in files if key in given] + [key for key in manifest.files if key == name]
    if twice:
        raise StoreError(f"{folder.url}: expected each file once and none called {name}, got {twice[0]} again")
    body = _encode(manifest)  # first, so that what cannot be written fails before anything is
    for key in manifest.files:
        check_name(key)
    _each(lambda item: _check_size(folder, *item), given.items())
    _withdraw(folder, manifest, name)
    _each(lambda item: folder.write(*item), files.items())
    folder.write(name, body)
    return manifest


def load_manifest(folder: Folder, name: str = NAME) -> Manifest:
    """Read and check a manifest.

    Raises:
        FileNotFoundError: There is none: nothing has been committed there.
        IntegrityError: It is damaged, or no manifest.
    """
    where = f"{folder.url}/{name}"
    body = folder.json(name)
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise IntegrityError(f"{where}: expected a manifest of format {FORMAT}, got something else")
    claimed = body.pop("sha256", None)
    found = hashlib.sha256(to_json(body)).hexdigest()
    if claimed != found:
        raise IntegrityError(f"{where}: expected sha256 {claimed}, got {found}: the manifest has been altered")
    files, meta = body.get("files"), body.get("meta")
    if body.keys() != {"files", "format", "meta"} or not isinstance(files, dict) or not isinstance(meta, dict):
        raise IntegrityError(f"{where}: expected the fields files, format, meta and sha256, got {sorted(body)}")
    return Manifest({key: _entry(where, key, value) for key, value in files.items()}, meta)


def read_verified(folder: Folder, manifest: Manifest, name: str) -> bytes:
    """Return the contents of a committed file.

    Raises:
        IntegrityError: It is not in the manifest, missing, or not what the manifest says.
        DataError: The manifest says that it is larger than the memory that is free; nothing is read then.
    """
    return read_entry(folder, name, manifest.entry(folder, name))


def read_entry(folder: Folder, name: str, entry: Entry) -> bytes:
    """Return the contents of a file of which size and sha256 are known.

    Raises:
        IntegrityError: It is missing, or something else.
    """
    where = f"{folder.url}/{name}"
    check_fits(where, entry.size)
    try:
        # One byte more than expected tells a file that has grown, and bounds what a wrong one costs.
        data = folder.read(name, 0, entry.size + 1)
    except FileNotFoundError as error:
        raise IntegrityError(f"{where}: expected {entry.size} bytes, got no file") from error
    if len(data) != entry.size:
        raise IntegrityError(f"{where}: expected {entry.size} bytes, got {_count(len(data), entry.size)}")
    found = hashlib.sha256(data).hexdigest()
    if found != entry.sha256:
        raise IntegrityError(f"{where}: expected sha256 {entry.sha256}, got {found}: the file has been altered")
    return data


def verify(folder: Folder, manifest: Manifest) -> list[str]:
    """Read every file of a manifest again and return what is wrong, one line each; `[]` is good."""
    found = _each(lambda name: _problem(folder, name, manifest.files[name]), sorted(manifest.files))
    return [problem for problem in found if problem]


def _problem(folder: Folder, name: str, entry: Entry) -> str:
    where = f"{folder.url}/{name}"
    sha, size = hashlib.sha256(), 0
    try:
        with folder.open(name) as stream:
            while size <= entry.size and (chunk := stream.read(_CHUNK)):
                sha.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return f"{where}: missing, expected {entry.size} bytes"
    except IntegrityError as error:
        return str(error)
    if size != entry.size:
        return f"{where}: expected {entry.size} bytes, got {_count(size, entry.size)}"
    if sha.hexdigest() != entry.sha256:
        return f"{where}: altered, expected sha256 {entry.sha256}, got {sha.hexdigest()}"
    return ""


def _count(size: int, expected: int) -> str:
    return f"{size}: truncated" if size < expected else "more"


def _encode(manifest: Manifest) -> bytes:
    files = {name: {"size": entry.size, "sha256": entry.sha256} for name, entry in manifest.files.items()}
    body = {"format": FORMAT, "files": files, "meta": manifest.meta}
    return to_json({**body, "sha256": hashlib.sha256(to_json(body)).hexdigest()})


def _entry(where: str, name: str, value: Any) -> Entry:
    try:
        check_name(name)
    except StoreError as error:
        raise IntegrityError(f"{where}: {error}") from error
    if not isinstance(value, dict) or value.keys() != {"size", "sha256"}:
        raise IntegrityError(f"{where}: expected size and sha256 for {name}, got {value!r}")
    size, sha = value["size"], value["sha256"]
    if type(size) is not int or size < 0:
        raise IntegrityError(f"{where}: expected a size >= 0 for {name}, got {size!r}")
    if not isinstance(sha, str) or len(sha) != 64 or set(sha) - set("0123456789abcdef"):
        raise IntegrityError(f"{where}: expected 64 hex digits of sha256 for {name}, got {sha!r}")
    return Entry(size, sha)


def _check_size(folder: Folder, name: str, entry: Entry) -> None:
    size = folder.size(name)
    if size != entry.size:
        got = "no file" if size is None else size
        raise IntegrityError(f"{folder.url}/{name}: expected {entry.size} bytes, got {got}; write it again")


def _withdraw(folder: Folder, manifest: Manifest, name: str) -> None:
    try:
        old = load_manifest(folder, name)
    except FileNotFoundError:
        return
    except IntegrityError:
        folder.delete(name)
        return
    if any(old.files.get(key, entry) != entry for key, entry in manifest.files.items()):
        folder.delete(name)


def _each(function: Callable[[A], B], items: Iterable[A]) -> list[B]:
    threads = Threads("files", THREADS)
    try:
        return [done.result() for done in [threads.submit(partial(function, item)) for item in items]]
    finally:
        threads.close(None, drop=True)
