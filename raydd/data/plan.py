"""Which real samples are seen when: pure functions of keys, without any iterator's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from raydd.seeding import generator


def class_batch(ids: Tensor, size: int, gen: torch.Generator) -> Tensor:
    """Draw samples of a class without replacement.

    Args:
        ids: int64 `(n,)`, the class's samples.
        size: How many, at least 1.
        gen: The draw's own generator.

    Returns:
        int64 `(min(size, n),)`; all of `ids`, in their order, where there are no more than `size`.
    """
    if len(ids) <= size:
        return ids
    return ids[torch.randperm(len(ids), generator=gen)[:size]]


def epoch_batch(n: int, size: int, position: int, permutation: Callable[[int], Tensor]) -> Tensor:
    """Return one batch of an endless sequence of epochs, each a permutation of all samples.

    Batch `position` covers the places `position * size` to `(position + 1) * size` of the permutations laid end to
    end, so a batch may straddle epochs, and may be larger than one.

    Args:
        n: Samples an epoch, at least 1.
        size: Samples a batch, at least 1.
        position: Number of the batch, from 0.
        permutation: Gives epoch e's order, int64 `(n,)`.

    Returns:
        int64 `(size,)` in `[0, n)`.
    """
    pieces, start, end = [], position * size, (position + 1) * size
    while start < end:
        epoch, at = divmod(start, n)
        piece = permutation(epoch)[at : at + end - start]
        pieces.append(piece)
        start += len(piece)
    return torch.cat(pieces)


class EpochPlan:
    """The batches of an endless sequence of keyed epochs (`epoch_batch`), any of them at any time.

    Epoch e's order is drawn from `generator(seed, "epoch", *indices, e)`. The last two permutations are kept, which
    makes batches in sequence cheap and changes nothing else.
    """

    def __init__(self, seed: int, n: int, size: int, *indices: int) -> None:
        """Plan batches of `size` out of `n` samples, both at least 1; `indices` tell this plan from others."""
        if n < 1 or size < 1:
            raise ValueError(f"n and size must be >= 1, got {n} and {size}")
        self._seed, self._n, self._size, self._indices = seed, n, size, indices
        self._kept: dict[int, Tensor] = {}

    def batch(self, position: int) -> Tensor:
        """Return batch number `position` (from 0), int64 `(size,)` in `[0, n)`."""
        return epoch_batch(self._n, self._size, position, self._permutation)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._kept:
            for old in list(self._kept)[:-1]:
                del self._kept[old]
            self._kept[epoch] = torch.randperm(self._n, generator=generator(self._seed, "epoch", *self._indices, epoch))
        return self._kept[epoch]


class Windows:
    """Which images of every class may be seen in a round: a window that moves on every `rounds` rounds.

    A pass over a class starts at an image of its own, drawn from `generator(seed, "window", pass, class)`, and is cut into
    ceil(n / size) windows of `size` neighbouring images, spread evenly and wrapping round, so that every image is in one
    or two windows of each pass. A class of no more than `size` images is its own window for ever.

    Attributes:
        sizes: int64 `(classes,)`, images of each class's window: `min(size, n)`.
        counts: int64 `(classes,)`, images of each class.
        rounds: Rounds that a window serves.
    """

    def __init__(self, seed: int, counts: Sequence[int], size: int, rounds: int) -> None:
        """Plan windows of `size` images a class for classes of `counts` images, all at least 1."""
        if size < 1 or rounds < 1:
            raise ValueError(f"size and rounds must be >= 1, got {size} and {rounds}")
        self.counts, self.rounds = np.array(counts, dtype=np.int64), rounds
        self.sizes = np.minimum(self.counts, size)
        self._seed, self._passes = seed, -(-self.counts // size)

    def number(self, round: int) -> int:
        """Return the window that serves a round."""
        return round // self.rounds

    def start(self, window: int, label: int) -> int:
        """Return the place within its class of the first image of a class's window."""
        parts, count = int(self._passes[label]), int(self.counts[label])
        if parts == 1:
            return 0
        turn, part = divmod(window, parts)
        first = int(torch.randint(count, (1,), generator=generator(self._seed, "window", turn, label)))
        return (first + count * part // parts) % count

    def places(self, window: int, label: int) -> Tensor:
        """Return the places within its class of a class's window, int64 `(sizes[label],)`, in the order of the class."""
        first, size, count = self.start(window, label), int(self.sizes[label]), int(self.counts[label])
        return ((torch.arange(size) + first) % count).sort().values


class Epochs:
    """Batches of shuffled epochs over all images that may be seen, any of them at any time.

    Without windows this is one endless sequence of epochs over the whole set. With them, every window begins a sequence
    of its own, of epochs over its images.
    """

    def __init__(
        self, seed: int, by_class: Sequence[Tensor], windows: Windows | None, size: int, per_round: int = 1
    ) -> None:
        """Plan `per_round` batches of `size` a round.

        Args:
            seed: The run's root seed.
            by_class: For each class the int64 ids of its images.
            windows: What may be seen; None: all.
            size: Images a batch, at least 1.
            per_round: Batches a round.
        """
        self._seed, self._by_class, self._windows = seed, by_class, windows
        self._size, self._per_round = size, per_round
        self._kept: tuple[int, Tensor, EpochPlan] | None = None

    def batch(self, round: int, place: int = 0) -> Tensor:
        """Return batch number `place` of a round, int64 ids `(size,)`."""
        window = 0 if self._windows is None else self._windows.number(round)
        if self._kept is None or self._kept[0] != window:
            self._kept = (window, *self._plan(window))
        first = 0 if self._windows is None else window * self._windows.rounds
        _, ids, plan = self._kept
        return ids[plan.batch((round - first) * self._per_round + place)]

    def _plan(self, window: int) -> tuple[Tensor, EpochPlan]:
        if self._windows is None:
            ids = torch.cat(list(self._by_class)).sort().values
            return ids, EpochPlan(self._seed, len(ids), self._size)
        seen = [ids[self._windows.places(window, label)] for label, ids in enumerate(self._by_class)]
        ids = torch.cat(seen).sort().values
        return ids, EpochPlan(self._seed, len(ids), self._size, window)
