"""Threads that may hang: nobody has to wait for them, not even the interpreter when it ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task:
    future: Future[Any]
    do: Callable[[], Any]


class Threads:
    """Threads that do what they are given, in that order.

    Unlike those of `concurrent.futures`, which an interpreter that ends waits for, they are daemons: a file system that
    is away may keep a write for ever.

    Args:
        name: The threads'.
        most: How many there may be; they start as they are needed.
    """

    def __init__(self, name: str, most: int = 1) -> None:
        self._name, self._most = name, most
        self._todo: SimpleQueue[_Task | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, do: Callable[[], T]) -> Future[T]:
        """Let a thread call `do`; what it returns or raises is the future's."""
        assert not self._closed, "they have been closed"
        future: Future[T] = Future()
        self._todo.put(_Task(future, do))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=f"{self._name}-{len(self._threads)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self, timeout_s: float | None, *, drop: bool = False) -> bool:
        """Take nothing more, and wait until all is done; harmless when done twice.

        Args:
            timeout_s: How long to wait; None for as long as it takes.
            drop: Whether what no thread has begun is cancelled.

        Returns:
            Whether all is done.
        """
        if drop:
            self._drop()
        if not self._closed:
            self._closed = True
            for _ in self._threads:
                self._todo.put(None)
            deadline = None if timeout_s is None else time.monotonic() + timeout_s
            for thread in self._threads:
                thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _drop(self) -> None:
        while not self._closed:
            try:
                task = self._todo.get_nowait()
            except Empty:
                return
            if task is not None:
                task.future.cancel()

    def _work(self) -> None:
        while (task := self._todo.get()) is not None:
            if not task.future.set_running_or_notify_cancel():
                continue
            try:
                task.future.set_result(task.do())
            except BaseException as error:  # noqa: BLE001 - whoever asks for the result meets it
                task.future.set_exception(error)
            del task
