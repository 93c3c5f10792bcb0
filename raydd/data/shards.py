"""WebDataset shards of anybody's as a source: `webdataset:URL`."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from raydd.data import tars
from raydd.data.samples import Ref, Samples, by_class
from raydd.errors import DataError
from raydd.store import Folder

_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEST_SPLITS = ("test", "val", "valid", "validation")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class ShardSource:
    """Existing WebDataset shards: an image (jpg, jpeg, png or webp) and a `cls` with the label's number a sample.

    URL is a folder of tars (`URL/<split>/*.tar`, or `URL/*.tar` for `train` alone) or a pattern such as
    `s3://bucket/set-{000000..000146}.tar`. Members of other kinds are ignored and never loaded.
    """

    name = "webdataset"

    def __init__(self, url: str) -> None:
        directory, _, pattern = url.rstrip("/").rpartition("/")
        self._pattern = pattern if pattern.endswith(".tar") else ""
        self.root = Folder((directory or ".") if self._pattern else url)
        self.spec = f"webdataset:{self.root.url}" + (f"/{self._pattern}" if self._pattern else "")

    @functools.cached_property
    def splits(self) -> tuple[str, ...]:
        """The split folders that hold tars; `train` alone where the tars lie in URL itself."""
        if self._pattern:
            return ("train",)
        folders = self.root.folders()
        return tuple(split for split in ("train", *_TEST_SPLITS) if split in folders) or ("train",)

    @property
    def test_split(self) -> str | None:
        """The first of `test`, `val`, `valid`, `validation` that is there."""
        return next((split for split in self.splits if split in _TEST_SPLITS), None)

    def shards(self, split: str) -> list[str]:
        """Return the names of a split's tars below `root`, in order."""
        if self._pattern:
            return _expand(self._pattern)
        names = self.root.list(f"{split}/") if split in self.root.folders() else self.root.list()
        found = [name for name in names if name.endswith(".tar")]
        if not found:
            raise DataError(f"{self.spec} {split}: expected shards (*.tar), got none")
        return found

    def open(self, split: str) -> Samples:
        """Scan all shards; references are (shard, offset, length)."""
        refs: list[Ref] = []
        labels: list[int] = []
        for name in self.shards(split):
            found = self._scan(name)
            refs += [ref for ref, _ in found]
            labels += [label for _, label in found]
        if not labels:
            raise DataError(f"{self.spec} {split}: expected samples, got none")
        return self._samples(refs, np.array(labels, dtype=np.int64))

    def load(self, split: str, ref: Ref) -> bytes:
        """Return the bytes of a sample's image."""
        assert isinstance(ref, tuple)
        name, offset, length = ref
        return self.root.read(name, offset, offset + length)

    def where(self, split: str, ref: Ref) -> str:
        """Return the shard and the place in it."""
        assert isinstance(ref, tuple)
        return f"{self.root.url}/{ref[0]} at byte {ref[1]}"

    def _samples(self, refs: Sequence[Ref], labels: np.ndarray) -> Samples:
        if labels.min() < 0 or labels.max() >= len(labels):
            raise DataError(f"{self.spec}: expected labels 0 to classes - 1, got {labels.min()} to {labels.max()}")
        counts = np.bincount(labels)
        if counts.min() == 0:
            raise DataError(f"{self.spec}: expected samples of every class, got none of {int(counts.argmin())}")
        order = by_class(labels)
        return Samples(
            classes=tuple(str(label) for label in range(len(counts))),
            labels=labels[order].astype(np.int32),
            refs=[refs[i] for i in order],
            channels=None,
        )

    def _scan(self, name: str) -> list[tuple[Ref, int]]:
        where = f"{self.root.url}/{name}"
        try:
            with tars.local_copy(self.root, name) as path, path.open("rb") as stream:
                groups = _group(tars.members(stream, where), where)
                if not groups:
                    raise DataError(f"{where}: expected samples, got an empty shard")
                return [self._sample(stream, name, key, group) for key, group in groups.items()]
        except FileNotFoundError:
            raise DataError(f"{where}: expected a shard, got none") from None

    def _sample(self, stream: BinaryIO, name: str, key: str, group: dict[str, tars.Member]) -> tuple[Ref, int]:
        where = f"{self.root.url}/{name} sample {key!r}"
        images = [group[ext] for ext in _IMAGES if ext in group]
        if len(images) != 1 or "cls" not in group:
            raise DataError(f"{where}: expected one image (jpg, jpeg, png, webp) and a cls, got {sorted(group)}")
        if images[0].size == 0:
            raise DataError(f"{where}: expected an image, got no bytes")
        stream.seek(group["cls"].offset)
        text = stream.read(min(group["cls"].size, 32)).strip()
        if not text.isdigit() or len(text) > 9:
            raise DataError(f"{where}: expected a class number in cls, got {text[:16]!r}")
        return (name, images[0].offset, images[0].size), int(text)


def _group(found: list[tars.Member], where: str) -> dict[str, dict[str, tars.Member]]:
    """Group members into samples as WebDataset does: by all of the name up to the first dot of its last part."""
    groups: dict[str, dict[str, tars.Member]] = {}
    for member in found:
        folder, base = os.path.split(member.name)
        stem, dot, ext = base.partition(".")
        if not stem or not dot:
            continue
        group = groups.setdefault(f"{folder}/{stem}", {})
        if ext.lower() in group:
            raise DataError(f"{where}: expected every member once, got {member.name!r} twice")
        group[ext.lower()] = member
    return groups


def _expand(pattern: str) -> list[str]:
    match = _RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match[1], match[2]
    numbers = range(int(first), int(last) + 1)
    if not 0 < len(numbers) <= 1_000_000:
        raise DataError(f"webdataset:{pattern}: expected a range that ascends, got {match[0]}")
    return [pattern[: match.start()] + str(n).zfill(len(first)) + pattern[match.end() :] for n in numbers]
