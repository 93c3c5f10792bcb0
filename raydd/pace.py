"""How fast something goes of late. No torch, no ray."""

from __future__ import annotations

import time
from collections import deque

WINDOW_S = 60.0
MARKS = 30


class Pace:
    """Counts what is done and tells how many a second over the last `window_s` seconds.

    Not over the whole time: the first rounds load data and compile kernels, and what matters is when it will end. Something
    that stands still gets slower and slower. One thread tells, others may ask.
    """

    def __init__(self, done: float = 0, *, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        self._marks: deque[tuple[float, float]] = deque([(time.monotonic(), done)], maxlen=2 * MARKS)
        self.done = done

    def tell(self, done: float) -> None:
        """Say how much is done by now; less than before starts anew."""
        if done < self.done:
            self._marks.clear()
        self.done = done
        now = time.monotonic()
        if not self._marks or now - self._marks[-1][0] >= self.window_s / MARKS:
            self._marks.append((now, done))

    def per_second(self) -> float | None:
        """Return how many are done a second; None before the first."""
        earlier = [mark for mark in list(self._marks) if mark[1] < self.done]
        if not earlier:
            return None
        now = time.monotonic()
        # The last one before the window, where there is one: slow rounds may all lie before it.
        before = [mark for mark in earlier if mark[0] <= now - self.window_s]
        at, done = before[-1] if before else earlier[0]
        return (self.done - done) / (now - at) if now > at else None

    def seconds_left(self, total: float) -> float | None:
        """Return the seconds until `total` are done; None where nobody can tell."""
        rate = self.per_second()
        return (total - self.done) / rate if rate else None
