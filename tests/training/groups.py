"""Several processes that train together, as threads of this one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


class Member:
    """One of several; adds up in the order of ranks."""

    def __init__(self, rank: int, size: int, parts: dict[int, Tensor], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, size
        self._parts, self._barrier = parts, barrier

    def add(self, flat: Tensor) -> Tensor:
        self._parts[self.rank] = flat
        self._barrier.wait(60)
        total = self._parts[0].clone()
        for rank in range(1, self.size):
            total += self._parts[rank]
        self._barrier.wait(60)
        return total


def together(size: int, function: Callable[[Member], R]) -> list[R]:
    """Return `function(member)` of all members, by rank."""
    parts: dict[int, Tensor] = {}
    barrier = threading.Barrier(size)

    def call(rank: int) -> R:
        torch.set_num_threads(1)  # which holds for a thread
        try:
            return function(Member(rank, size, parts, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(call, rank) for rank in range(size)]
    errors = [error for future in futures if (error := future.exception()) is not None]
    # Those that were let down by another's error tell nothing.
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]
