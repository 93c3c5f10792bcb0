"""Which real samples are seen when: pure functions of keys, without any iterator's state."""

from __future__ import annotations

from collections.abc import Callable

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

    Epoch e's order is drawn from `generator(seed, "epoch", e)`. The last two permutations are kept, which makes
    batches in sequence cheap and changes nothing else.
    """

    def __init__(self, seed: int, n: int, size: int) -> None:
        """Plan batches of `size` out of `n` samples, both at least 1."""
        if n < 1 or size < 1:
            raise ValueError(f"n and size must be >= 1, got {n} and {size}")
        self._seed, self._n, self._size = seed, n, size
        self._kept: dict[int, Tensor] = {}

    def batch(self, position: int) -> Tensor:
        """Return batch number `position` (from 0), int64 `(size,)` in `[0, n)`."""
        return epoch_batch(self._n, self._size, position, self._permutation)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._kept:
            for old in list(self._kept)[:-1]:
                del self._kept[old]
            self._kept[epoch] = torch.randperm(self._n, generator=generator(self._seed, "epoch", epoch))
        return self._kept[epoch]
