"""Something done every few seconds behind a run's rounds."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Behind:
    """A thread that calls `do(False)` every so often until it is stopped, then, if it is asked to, `do(True)` once.

    A daemon: what hangs in it keeps no process from its end. What `do` raises ends the thread and nothing else.

    Args:
        name: The thread's.
        every_s: Seconds between two calls; the first comes after as many.
        do: What is done; told whether it is for the last time.
    """

    def __init__(self, name: str, every_s: float, do: Callable[[bool], None]) -> None:
        self._every_s, self._do = every_s, do
        self._stop, self._last = threading.Event(), False
        self._thread = threading.Thread(target=self._go, name=name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float, *, last: bool = False) -> bool:
        """End it; returns whether it did so within `timeout_s`. Harmless when done twice."""
        if not self._stop.is_set():
            self._last = last
            self._stop.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _go(self) -> None:
        while not self._stop.wait(self._every_s):
            self._do(False)
        if self._last:
            self._do(True)
