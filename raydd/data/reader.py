"""A packed data set as decoded images: streamed once from its shards into a uint8 cache in memory."""

from __future__ import annotations

import functools
import mmap
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raydd.data import images
from raydd.data.index import Index, load_index, read_shard
from raydd.errors import ConfigError, DataError
from raydd.seeding import generator
from raydd.store import Folder

Part = Literal["train", "val", "all"]
_THREADS = min(4, os.cpu_count() or 1)
_CHUNK = 64  # images a decoding thread takes at once


class RealData:
    """The real images of some classes of a packed data set, or of one part of a stratified split of them.

    Ids are 0 to N-1, class by class in the order of `classes`, within a class in the order of the index. Shards are
    read whole and only when one of their images is asked for; their size and sha256 are checked against the index,
    and every image is decoded and held once. Safe to use from several threads.

    Attributes:
        index: The index of the whole data set.
        num_classes: Number of classes chosen.
        class_names: Their names.
        labels: int64 `(N,)` in `[0, num_classes)`, ascending.
        by_class: For every class the int64 ids of its images, ascending.
        counts: Images of every class.
        shape: `(C, H, W)` of an image.

    Raises:
        DataError: There is no index, or a class is too small to be split.
        IntegrityError: The index is damaged.
        ConfigError: A class is unknown or named twice, or `part` and `val_fraction` do not fit.
    """

    def __init__(
        self,
        folder: Folder | str,
        *,
        classes: Literal["all"] | Sequence[int | str] = "all",
        part: Part = "all",
        val_fraction: float = 0.0,
        seed: int = 0,
        cache: Literal["memory"] = "memory",
    ) -> None:
        """Choose the images; none is read yet.

        Args:
            folder: Where the index is.
            classes: Classes by position or name, in the order of the new labels.
            part: `val` is `round(val_fraction * count)` images of each class, at least one and never all; `train` the
                rest. Which ones is a pure function of `seed` and the index, whatever `classes` are.
            val_fraction: In `[0, 1)`; 0 leaves all to `train`.
            seed: The run's root seed.
            cache: Where decoded images are held.
        """
        if cache != "memory":
            raise ConfigError(f"data.cache must be memory, got {cache!r}")
        if part not in ("train", "val", "all"):
            raise ConfigError(f"part must be train, val or all, got {part!r}")
        if not 0 <= val_fraction < 1 or (part == "val" and val_fraction == 0):
            raise ConfigError(
                f"data.val_fraction must be {'above' if part == 'val' else '>='} 0 and < 1, got {val_fraction}"
            )
        folder = Folder(folder) if isinstance(folder, str) else folder
        self.index: Index = load_index(folder)
        self._shards = self.index.shard_folder(folder)
        chosen = _choose(self.index, classes)
        rows = [_part_rows(self.index, c, part, val_fraction, seed) for c in chosen]
        self._rows = np.concatenate(rows)
        self._shard_of = self.index.shard[self._rows]
        self.num_classes = len(chosen)
        self.class_names = tuple(self.index.classes[c] for c in chosen)
        self.counts = tuple(len(r) for r in rows)
        self.labels = torch.repeat_interleave(torch.arange(self.num_classes), torch.tensor(self.counts))
        self.by_class = list(torch.arange(len(self._rows)).split(list(self.counts)))
        self.shape = (self.index.channels, self.index.size, self.index.size)
        self._loaded = np.zeros(len(self.index.shards), dtype=bool)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    @functools.cached_property
    def _images(self) -> Tensor:
        # An anonymous map takes no memory where nothing was written, so a worker that reads few classes holds few.
        cache = mmap.mmap(-1, len(self) * self.index.channels * self.index.size**2)
        return torch.frombuffer(cache, dtype=torch.uint8).view(-1, *self.shape)

    def images(self, ids: Tensor) -> Tensor:
        """Return images, loading the shards that are needed and were not yet.

        Args:
            ids: int64 `(n,)` in `[0, N)`, in any order, repeats allowed.

        Returns:
            uint8 `(n, C, H, W)`, fresh memory.

        Raises:
            IntegrityError: A shard is missing, truncated or altered; names it.
            DataError: An image does not decode or has the wrong size; names shard and sample.
        """
        needed = np.unique(self._shard_of[ids.numpy()])
        if not self._loaded[needed].all():
            with self._lock:
                self._load([int(s) for s in needed if not self._loaded[s]])
        return self._images[ids]

    def stream(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once, in the order of ids, as (uint8 `(n, C, H, W)`, int64 `(n,)`)."""
        for ids in torch.arange(len(self)).split(batch_size):
            yield self.images(ids), self.labels[ids]

    def _load(self, shards: list[int]) -> None:
        """Decode whole shards into the cache, reading the next one while this one is decoded."""
        entries = self.index.shards
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(_THREADS) as decoders:
            reads = (reader.submit(read_shard, self._shards, entries[s]) for s in shards)
            ahead = next(reads, None)
            for shard in shards:
                assert ahead is not None
                data = ahead.result()
                ahead = next(reads, None)
                ids = np.flatnonzero(self._shard_of == shard)
                chunks = [ids[i : i + _CHUNK] for i in range(0, len(ids), _CHUNK)]
                for _ in decoders.map(functools.partial(self._decode, shard, data), chunks):
                    pass
                self._loaded[shard] = True

    def _decode(self, shard: int, data: bytes, ids: np.ndarray) -> None:
        cache = self._images.numpy()
        index, where = self.index, f"{self._shards.url}/{self.index.shards[shard].name}"
        for i in ids:
            row = self._rows[i]
            start = int(index.offset[row])
            payload = data[start : start + int(index.length[row])]
            pixels = images.decode(payload, index.channels, index.size, f"{where} sample {row}")
            cache[i] = pixels.transpose(2, 0, 1)


def _choose(index: Index, classes: Literal["all"] | Sequence[int | str]) -> list[int]:
    """Return the positions of the chosen classes in the index."""
    if classes == "all":
        return list(range(len(index.classes)))
    names = {name: position for position, name in enumerate(index.classes)}
    chosen = []
    for wanted in classes:
        position = names.get(wanted, -1) if isinstance(wanted, str) else wanted
        if not 0 <= position < len(index.classes):
            known = f"0 to {len(index.classes) - 1} or names such as {index.classes[0]}"
            raise ConfigError(f"data.classes must be {known}, got {wanted!r}")
        chosen.append(position)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"data.classes must name one or more classes, each once, got {list(classes)}")
    return chosen


def _part_rows(index: Index, label: int, part: Part, val_fraction: float, seed: int) -> np.ndarray:
    """Return the rows of the index, ascending, that are a class's share of a part."""
    rows = np.flatnonzero(index.label == label)
    if part == "all" or val_fraction == 0:
        return rows
    if len(rows) < 2:
        raise DataError(
            f"class {index.classes[label]} has 1 image, data.val_fraction {val_fraction} needs 2: set it to 0"
        )
    num_val = min(max(int(val_fraction * len(rows) + 0.5), 1), len(rows) - 1)
    order = torch.randperm(len(rows), generator=generator(seed, "val-split", label)).numpy()
    return np.sort(rows[order[:num_val] if part == "val" else order[num_val:]])
