"""Images of the window that a round sees, and of the next: what a process holds where the data are larger than memory."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence

import numpy as np

from raydd.data.cache import Hits, lazy_images
from raydd.data.fetch import THREADS, Fetcher
from raydd.data.plan import Windows
from raydd.errors import RaydError


class WindowCache:
    """Holds the window that serves and the next one, of those classes that were asked for.

    The next window is read and decoded by a thread while the current one serves. At most 2 windows x classes asked for x
    bytes of an image are held, and in passing the encoded bytes of up to two shards for each of the two readers. Images
    outside the window (those that variables start from, those that a transform is fitted to) are read and not kept.
    """

    def __init__(self, fetcher: Fetcher, rows: np.ndarray, windows: Windows) -> None:
        """Hold windows of `rows` of the index, which come class by class."""
        self._fetcher, self._rows, self._windows = fetcher, rows, windows
        self._labels = np.repeat(np.arange(len(windows.counts), dtype=np.int32), windows.counts)
        self.hits = Hits()
        self._held: dict[int, _Window] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        weakref.finalize(self, self._ended.set)

    @property
    def held_bytes(self) -> int:
        """Bytes of decoded images that are held or about to be."""
        return sum(window.held_bytes for window in list(self._held.values()))

    def images(self, ids: np.ndarray, round: int | None) -> np.ndarray:
        """See `Cache`; without a round nothing is kept."""
        if round is None:
            self.hits.missed += len(ids)
            return self._fetcher.images(self._rows[ids])
        with self._lock:
            current, following = self._turn(self._windows.number(round))
            labels = self._labels[ids]
            classes = np.unique(labels)
            there = current.has(labels)
            current.load(classes)
            following.load_beside(classes)
            images, inside = current.take(ids, labels)
            self.hits.count(there & inside)
            if not inside.all():
                images[~inside] = self._fetcher.images(self._rows[ids[~inside]])
            return images

    def _turn(self, number: int) -> tuple[_Window, _Window]:
        """Let go of what is neither this window nor the next, and return these."""
        wanted = (number, number + 1)
        for other in [held for held in self._held if held not in wanted]:
            self._held.pop(other).end()
        for one in wanted:
            if one not in self._held:
                self._held[one] = _Window(self._fetcher, self._rows, self._windows, one, self._ended)
        return self._held[number], self._held[number + 1]


class _Window:
    """One window of the classes that were asked for."""

    def __init__(
        self, fetcher: Fetcher, rows: np.ndarray, windows: Windows, number: int, ended: threading.Event
    ) -> None:
        self._fetcher, self._rows, self._windows, self._number, self._ended = fetcher, rows, windows, number, ended
        self._first = _before(windows.counts)  # ids
        self._base = _before(windows.sizes)  # places in the room
        self._starts = np.zeros(len(windows.counts), dtype=np.int64)
        self._asked, self._begun, self._loaded = (np.zeros(len(windows.counts), dtype=bool) for _ in range(3))
        self._images = lazy_images(int(windows.sizes.sum()), fetcher)
        self._lock = threading.Lock()
        self._let_go = False

    @property
    def held_bytes(self) -> int:
        return int(self._windows.sizes[self._begun].sum()) * self._fetcher.image_bytes

    def has(self, labels: np.ndarray) -> np.ndarray:
        """Return for each label whether its class has been read, bool `(n,)`."""
        return self._loaded[labels]

    def load_beside(self, classes: np.ndarray) -> None:
        """Begin to load classes in a thread; who needs them waits for it, and meets its errors by trying again."""
        new = classes[~self._asked[classes]]
        self._asked[new] = True
        if len(new):
            threading.Thread(target=self._try_to_load, args=(new,), name="raydd-window", daemon=True).start()

    def _try_to_load(self, classes: np.ndarray) -> None:
        try:
            self.load(classes, threads=1)
        except (RaydError, OSError, RuntimeError):  # the last: the interpreter is about to end
            return

    def load(self, classes: np.ndarray, threads: int = THREADS) -> None:
        """Read and decode classes that are not there yet."""
        with self._lock:
            new = classes[~self._loaded[classes]]
            if not len(new) or self._over:
                return
            self._begun[new] = True
            self._starts[new] = [self._windows.start(self._number, int(label)) for label in new]
            ids, places = self._ids_and_places(new)
            parts = self._fetcher.parts(self._rows[ids], self._images, places)
            for _ in self._fetcher.fetch(parts, threads=threads):
                if self._over:
                    return
            self._loaded[new] = True

    @property
    def _over(self) -> bool:
        return self._let_go or self._ended.is_set()

    def _ids_and_places(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of classes' windows and where they belong in the room."""
        sizes, counts = self._windows.sizes[classes], self._windows.counts[classes]
        within = _counted(sizes)
        places_in_class = (np.repeat(self._starts[classes], sizes) + within) % np.repeat(counts, sizes)
        return np.repeat(self._first[classes], sizes) + places_in_class, np.repeat(self._base[classes], sizes) + within

    def take(self, ids: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return images, uint8 `(n, C, H, W)`, and which ids are in the window, bool `(n,)`; others' are any."""
        within = (ids - self._first[labels] - self._starts[labels]) % self._windows.counts[labels]
        inside = within < self._windows.sizes[labels]
        return self._images[np.where(inside, self._base[labels] + within, 0)], inside

    def end(self) -> None:
        """Stop loading, and let the memory go."""
        self._let_go = True
        with self._lock:
            self._images = self._images[:0].copy()
            self._begun[:] = False


def _before(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the sum of all sizes before each."""
    return np.cumsum(sizes) - sizes


def _counted(sizes: np.ndarray) -> np.ndarray:
    """Return 0 to size - 1 for each size, laid end to end."""
    return np.arange(int(sizes.sum())) - np.repeat(_before(sizes), sizes)
