"""The index of a packed data set: what lies where in its shards, and exact sums of its pixels.

A packed set is a folder of ordinary WebDataset tars with two more files. `index.safetensors` holds the arrays,
`index.json` everything else; the latter is written last and names the former's sha256, so a set exists once its
`index.json` does. Either file altered or truncated is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from raydd.errors import DataError, IntegrityError
from raydd.store import Folder

FORMAT = "raydd-index-1"
JSON_NAME = "index.json"
TENSORS_NAME = "index.safetensors"
_DTYPES = {
    "shard": np.int32,
    "offset": np.int64,
    "length": np.int32,
    "label": np.int32,
    "channel_sum": np.int64,
    "channel_sq": np.int64,
}


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar: its name below the shards' folder, size in bytes, sha256, and number of samples."""

    name: str
    size: int
    sha256: str
    samples: int


@dataclass(frozen=True, eq=False)
class Index:
    """What a packed split of a data set holds.

    Attributes:
        name: The data set, such as `cifar10`; what defaults (statistics, networks) are looked up by.
        split: Which of its splits, such as `train`.
        classes: Class names; a label is a position in them.
        channels: 1 (grey) or 3 (RGB).
        size: Edge of the square images in pixels.
        shards: The tars, in order.
        shard: int32 `(N,)`, each sample's position in `shards`.
        offset: int64 `(N,)`, where its image's bytes start within the tar.
        length: int32 `(N,)`, how many bytes they are.
        label: int32 `(N,)` in `[0, len(classes))`.
        channel_sum: int64 `(classes, channels)`, sums of the uint8 pixel values.
        channel_sq: int64 `(classes, channels)`, sums of their squares.
        crc: uint32 `(N,)`, zlib.crc32 of those bytes, for samples that are read by themselves; None in indexes from before
            it was noted. Shards' sha256 say as much, so that it is not part of the data set's identity.
        base: URL of the folder the shards lie in; empty where that is the index's own folder.
        source: What was packed and how; not part of the data set's identity.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    channels: int
    size: int
    shards: tuple[Shard, ...]
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    label: np.ndarray
    channel_sum: np.ndarray
    channel_sq: np.ndarray
    crc: np.ndarray | None = None
    base: str = ""
    source: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.label)

    @cached_property
    def counts(self) -> np.ndarray:
        """Samples per class, int64 `(classes,)`."""
        return np.bincount(self.label, minlength=len(self.classes)).astype(np.int64)

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) that names the whole data set: everything but where it lies and came from."""
        digest = hashlib.sha256(_canonical(_facts(self)))
        for name, array in _arrays(self).items():
            digest.update(f"{name}:{array.dtype.str}:{array.shape}:".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def shard_folder(self, folder: Folder) -> Folder:
        """Return the folder the shards lie in, given the folder the index was read from."""
        return Folder(self.base) if self.base else folder


def save_index(folder: Folder, index: Index) -> None:
    """Write `index` into `folder`; it exists only once all of it does.

    Raises:
        DataError: The index contradicts itself.
        StoreError: The folder cannot be written.
    """
    _check(index, folder.url)
    tensors = save_tensors(_arrays(index) | ({} if index.crc is None else {"crc": index.crc}))
    body = _facts(index) | {
        "base": index.base,
        "source": dict(index.source or {}),
        "hash": index.hash,
        "tensors": {"size": len(tensors), "sha256": hashlib.sha256(tensors).hexdigest()},
    }
    folder.write(TENSORS_NAME, tensors)
    folder.write_json(JSON_NAME, body | {"sha256": hashlib.sha256(_canonical(body)).hexdigest()})


def load_index(folder: Folder) -> Index:
    """Read and verify the index in `folder`.

    Raises:
        DataError: There is none, or it is not an index of this format.
        IntegrityError: One of its files is missing, truncated or altered.
    """
    body = _load_json(folder)
    try:
        tensors = folder.read(TENSORS_NAME)
    except FileNotFoundError:
        raise IntegrityError(
            f"{folder.url}: expected {TENSORS_NAME} beside {JSON_NAME}, got none: pack again"
        ) from None
    try:
        _verify_bytes(f"{folder.url}/{TENSORS_NAME}", tensors, body["tensors"])
        index = _build(body, load_tensors(tensors))
    except (KeyError, TypeError, SafetensorError) as error:
        raise DataError(f"{folder.url}/{JSON_NAME}: not a complete index ({error}): pack again") from error
    _check(index, folder.url)
    if index.hash != body["hash"]:
        raise IntegrityError(f"{folder.url}: expected data set {body['hash']}, got {index.hash}: pack again")
    return index


def _build(body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Index:
    return Index(
        name=body["name"],
        split=body["split"],
        classes=tuple(body["classes"]),
        channels=body["channels"],
        size=body["size"],
        shards=tuple(Shard(**shard) for shard in body["shards"]),
        base=body["base"],
        source=body["source"],
        crc=arrays.get("crc"),
        **{name: arrays[name] for name in _DTYPES},
    )


def verify_shards(folder: Folder, index: Index) -> list[str]:
    """Read every shard again and return all problems, one line each; an empty list means that the set is whole."""
    problems = []
    shards = index.shard_folder(folder)
    for shard in index.shards:
        try:
            read_shard(shards, shard)
        except IntegrityError as error:
            problems.append(str(error))
    return problems


def read_shard(shards: Folder, shard: Shard) -> bytes:
    """Return the bytes of a tar whose size and sha256 are what the index says.

    Raises:
        IntegrityError: It is missing, truncated or altered; names the shard and both values.
    """
    try:
        data = shards.read(shard.name)
    except FileNotFoundError:
        raise IntegrityError(f"{shards.url}/{shard.name}: expected a shard, got nothing: pack again") from None
    _verify_bytes(f"{shards.url}/{shard.name}", data, {"size": shard.size, "sha256": shard.sha256})
    return data


def _verify_bytes(url: str, data: bytes, expected: Mapping[str, Any]) -> None:
    if len(data) != expected["size"]:
        raise IntegrityError(f"{url}: expected {expected['size']} bytes, got {len(data)}: pack or copy it again")
    got = hashlib.sha256(data).hexdigest()
    if got != expected["sha256"]:
        raise IntegrityError(f"{url}: expected sha256 {expected['sha256']}, got {got}: pack or copy it again")


def _load_json(folder: Folder) -> dict[str, Any]:
    url = f"{folder.url}/{JSON_NAME}"
    try:
        text = folder.read(JSON_NAME)
    except FileNotFoundError:
        raise DataError(
            f"{folder.url}: expected packed shards with {JSON_NAME}, got none: run raydd pack first"
        ) from None
    try:
        body = json.loads(text)
        if body["format"] != FORMAT:
            raise DataError(f"{url}: expected format {FORMAT}, got {body['format']}: pack again with this version")
        sha256 = body.pop("sha256")
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        raise IntegrityError(f"{url}: expected a JSON index, got something else ({error}): pack again") from error
    got = hashlib.sha256(_canonical(body)).hexdigest()
    if got != sha256:
        raise IntegrityError(f"{url}: expected sha256 {sha256}, got {got}: it was altered; pack again")
    return body


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _facts(index: Index) -> dict[str, Any]:
    """Return what identifies the data set apart from its arrays, as plain JSON."""
    return {
        "format": FORMAT,
        "name": index.name,
        "split": index.split,
        "classes": list(index.classes),
        "channels": index.channels,
        "size": index.size,
        "shards": [{"name": s.name, "size": s.size, "sha256": s.sha256, "samples": s.samples} for s in index.shards],
    }


def _arrays(index: Index) -> dict[str, np.ndarray]:
    return {name: getattr(index, name) for name in _DTYPES}


def _check(index: Index, url: str) -> None:
    """Refuse an index that contradicts itself; what follows may then rely on it."""

    def need(good: object, what: str) -> None:
        if not good:
            raise DataError(f"{url}: the index contradicts itself: {what}: pack again")

    texts = (
        index.name,
        index.split,
        index.base,
        *index.classes,
        *(t for s in index.shards for t in (s.name, s.sha256)),
    )
    need(all(isinstance(text, str) for text in texts), "a name is no text")
    numbers = (index.channels, index.size, *(n for s in index.shards for n in (s.size, s.samples)))
    need(all(isinstance(n, int) and n > 0 for n in numbers), "a size or count is no positive number")
    num, shape = index.label.size, (len(index.classes), index.channels)
    for name, array in _arrays(index).items():
        expected = shape if name.startswith("channel_") else (num,)
        need(array.dtype == _DTYPES[name], f"{name} must be {np.dtype(_DTYPES[name])}, got {array.dtype}")
        need(array.shape == expected, f"{name} must have shape {expected}, got {array.shape}")
    if index.crc is not None:
        found = index.crc.dtype, index.crc.shape
        need(found == (np.uint32, (num,)), f"crc must be uint32 {(num,)}, got {found[0]} {found[1]}")
    need(num > 0 and index.shards and index.classes, "a data set needs a class, a shard and a sample")
    need(index.channels in (1, 3) and index.size > 0, f"got {index.channels} channels at {index.size} pixels")
    need(index.label.min() >= 0 and index.label.max() < len(index.classes), "a label has no class")
    need(index.counts.min() > 0, f"class {index.classes[int(index.counts.argmin())]} has no samples")
    need(index.shard.min() >= 0 and index.shard.max() < len(index.shards), "a sample lies in no shard")
    samples = np.bincount(index.shard, minlength=len(index.shards))
    need(samples.tolist() == [s.samples for s in index.shards], "the shards' sample counts differ")
    sizes = np.array([s.size for s in index.shards], dtype=np.int64)[index.shard]
    need(index.offset.min() >= 0 and index.length.min() > 0, "a sample has a negative place or no bytes")
    need(bool((index.offset + index.length <= sizes).all()), "a sample ends beyond its shard")
