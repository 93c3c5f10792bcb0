"""How work is spread: whoever has processes to give passes a function that maps over items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741
R = TypeVar("R")
Progress = Callable[[int, int], None]


class MapFunction(Protocol):
    """Applies a function to items, wherever and in whatever order, and returns the results in the order of the items.

    `function` is a module-level function, `shared` and the items are picklable plain data with numpy arrays.
    `on_result` is called in the calling process with (done, total) whenever an item is done.
    """

    def __call__(
        self, function: Callable[[S, I], R], items: Sequence[I], shared: S, on_result: Progress | None = None
    ) -> list[R]:
        """Return `[function(shared, item) for item in items]`."""
        ...


def sequential(
    function: Callable[[S, I], R], items: Sequence[I], shared: S, on_result: Progress | None = None
) -> list[R]:
    """Apply a function to items one after the other in this process; see `MapFunction`."""
    results = []
    for item in items:
        results.append(function(shared, item))
        if on_result is not None:
            on_result(len(results), len(items))
    return results
