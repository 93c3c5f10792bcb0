"""A packed data set as decoded images, by number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raydd.data.cache import Cache, DiskCache, Hits, MemoryCache
from raydd.data.fetch import Fetcher
from raydd.data.index import Index, load_index
from raydd.data.plan import Windows
from raydd.data.windowed import WindowCache
from raydd.errors import ConfigError, DataError
from raydd.seeding import generator
from raydd.store import Folder, cache_folder

Part = Literal["train", "val", "all"]
Where = Literal["auto", "memory", "disk"]
AUTO_BYTES = 1 << 30  # decoded images that `auto` still holds in memory


class RealData:
    """The real images of some classes of a packed data set, or of one part of a stratified split of them.

    Ids are 0 to N-1, class by class in the order of `classes`, within a class in the order of the index. Shards are
    read only when one of their images is asked for: whole and once, their sha256 checked against the index; or, with
    windows, by the byte ranges that a window needs. Safe to use from several threads.

    Without windows decoded images are kept: in memory of this process, or in a file that all processes of a node share
    (`raydd.data.cache.DiskCache`). With windows a process holds those of the current and of the next window, of the
    classes that it asked for, and no others (`raydd.data.windowed.WindowCache`).

    Attributes:
        index: The index of the whole data set.
        num_classes: Number of classes chosen.
        class_names: Their names.
        labels: int64 `(N,)` in `[0, num_classes)`, ascending.
        by_class: For every class the int64 ids of its images, ascending.
        counts: Images of every class.
        shape: `(C, H, W)` of an image.
        windows: Which images may be seen in a round; None: all.

    Raises:
        DataError: There is no index, or a class is too small to be split.
        IntegrityError: The index is damaged.
        ConfigError: A class is unknown or named twice, or `part` and `val_fraction` do not fit.
        StoreError: Decoded images cannot be kept on disk.
    """

    def __init__(
        self,
        folder: Folder | str,
        *,
        classes: Literal["all"] | Sequence[int | str] = "all",
        part: Part = "all",
        val_fraction: float = 0.0,
        seed: int = 0,
        cache: Where = "auto",
        window: Literal["all"] | int = "all",
        window_rounds: int = 100,
    ) -> None:
        """Choose the images; none is read yet.

        Args:
            folder: Where the index is.
            classes: Classes by position or name, in the order of the new labels.
            part: `val` is `round(val_fraction * count)` images of each class, at least one and never all; `train` the
                rest. Which ones is a pure function of `seed` and the index, whatever `classes` are.
            val_fraction: In `[0, 1)`; 0 leaves all to `train`.
            seed: The run's root seed.
            cache: Where decoded images are held where there is no window; `auto`: on disk where they are over 1 GiB.
            window: Images of each class that may be seen in a round; a class with fewer is seen whole.
            window_rounds: Rounds that a window serves.
        """
        if cache not in ("auto", "memory", "disk"):
            raise ConfigError(f"data.cache must be auto, memory or disk, got {cache!r}")
        if part not in ("train", "val", "all"):
            raise ConfigError(f"part must be train, val or all, got {part!r}")
        if not 0 <= val_fraction < 1 or (part == "val" and val_fraction == 0):
            raise ConfigError(
                f"data.val_fraction must be {'above' if part == 'val' else '>='} 0 and < 1, got {val_fraction}"
            )
        folder = Folder(folder) if isinstance(folder, str) else folder
        self.index: Index = load_index(folder)
        chosen = choose_classes(self.index.classes, classes)
        of_class = _rows_by_class(self.index)
        rows = [_part_rows(self.index, of_class[c], c, part, val_fraction, seed) for c in chosen]
        self.num_classes = len(chosen)
        self.class_names = tuple(self.index.classes[c] for c in chosen)
        self.counts = tuple(len(r) for r in rows)
        self.labels = torch.repeat_interleave(torch.arange(self.num_classes), torch.tensor(self.counts))
        self.by_class = list(torch.arange(len(self.labels)).split(list(self.counts)))
        self.shape = (self.index.channels, self.index.size, self.index.size)
        self.windows: Windows | None = None
        if window != "all" and window < max(self.counts):
            self.windows = Windows(seed, self.counts, window, window_rounds)
        self._cache = self._open(Fetcher(self.index.shard_folder(folder), self.index), np.concatenate(rows), cache)

    def _open(self, fetcher: Fetcher, rows: np.ndarray, where: Where) -> Cache:
        if self.windows is not None:
            return WindowCache(fetcher, rows, self.windows)
        if where == "disk" or (where == "auto" and len(rows) * fetcher.image_bytes > AUTO_BYTES):
            return DiskCache(fetcher, rows, cache_folder())
        return MemoryCache(fetcher, rows)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def hits(self) -> Hits:
        """How many of the images asked for were there already, and how many were not."""
        return self._cache.hits

    def images(self, ids: Tensor, round: int | None = None) -> Tensor:
        """Return images, loading what is needed and was not yet.

        Args:
            ids: int64 `(n,)` in `[0, N)`, in any order, repeats allowed.
            round: The round that they are for, of those that it sees. With windows, images for no round are read and
                not kept; without, it is not looked at.

        Returns:
            uint8 `(n, C, H, W)`, fresh memory.

        Raises:
            IntegrityError: A shard is missing, truncated or altered; names it.
            DataError: An image does not decode or has the wrong size; names shard and sample.
            StoreError: A disk is full.
        """
        return torch.from_numpy(self._cache.images(ids.numpy(), round))

    def stream(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images once, in the order of ids, as (uint8 `(n, C, H, W)`, int64 `(n,)`)."""
        for ids in torch.arange(len(self)).split(batch_size):
            yield self.images(ids), self.labels[ids]


def _rows_by_class(index: Index) -> list[np.ndarray]:
    """Return the rows of every class of the index, ascending."""
    order = np.argsort(index.label, kind="stable")
    return np.split(order, np.cumsum(index.counts)[:-1])


def choose_classes(known: Sequence[str], classes: Literal["all"] | Sequence[int | str]) -> list[int]:
    """Return the positions of the chosen classes among all names.

    Raises:
        ConfigError: One is unknown or named twice.
    """
    if classes == "all":
        return list(range(len(known)))
    names = {name: position for position, name in enumerate(known)}
    chosen = []
    for wanted in classes:
        position = names.get(wanted, -1) if isinstance(wanted, str) else wanted
        if not 0 <= position < len(known):
            expected = f"0 to {len(known) - 1} or names such as {known[0]}"
            raise ConfigError(f"data.classes must be {expected}, got {wanted!r}")
        chosen.append(position)
    if not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"data.classes must name one or more classes, each once, got {list(classes)}")
    return chosen


def _part_rows(index: Index, rows: np.ndarray, label: int, part: Part, val_fraction: float, seed: int) -> np.ndarray:
    """Return those rows of a class, ascending, that are its share of a part."""
    if part == "all" or val_fraction == 0:
        return rows
    if len(rows) < 2:
        raise DataError(
            f"class {index.classes[label]} has 1 image, data.val_fraction {val_fraction} needs 2: set it to 0"
        )
    num_val = min(max(int(val_fraction * len(rows) + 0.5), 1), len(rows) - 1)
    order = torch.randperm(len(rows), generator=generator(seed, "val-split", label)).numpy()
    return np.sort(rows[order[:num_val] if part == "val" else order[num_val:]])
