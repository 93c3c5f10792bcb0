"""What every source of images gives: its samples by light references, and one of them at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: What finds a sample again: a row of an array, a file's name, or (file, offset, length) within one.
Ref = int | str | tuple[str, int, int]


@dataclass(frozen=True, eq=False)
class Samples:
    """A split's samples, in the order of classes.

    Attributes:
        classes: Class names, in the order of labels.
        labels: int32 `(N,)`, ascending.
        refs: One reference a sample, in a fixed order within each class.
        channels: 1 or 3 where the data set says so; None where its first images do.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    refs: Sequence[Ref]
    channels: int | None


class Source(Protocol):
    """A data set as it lies on disk or in a store."""

    #: The SOURCE text with an absolute path; `parse` of it gives this source again, in any process.
    spec: str

    @property
    def name(self) -> str:
        """Data set, such as `mnist`."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are there, the training split first."""
        ...

    @property
    def test_split(self) -> str | None:
        """The split that plays the test set, or None where there is none."""
        ...

    def open(self, split: str) -> Samples:
        """List the samples of a split.

        Raises:
            DataError: Its files are missing, damaged or hostile, or a class is empty; names the file or class.
        """
        ...

    def load(self, split: str, ref: Ref) -> bytes | np.ndarray:
        """Return a sample: the encoded image's bytes, or its pixels, uint8 `(H, W)` or `(H, W, 3)`."""
        ...

    def where(self, split: str, ref: Ref) -> str:
        """Return what to call a sample in an error."""
        ...


def by_class(labels: np.ndarray) -> np.ndarray:
    """Return the stable order, int64 `(N,)`, that brings samples into the order of classes."""
    return np.argsort(labels, kind="stable")
