"""Applications that are stopped in the middle of a `Bench.map`."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest


class Stopped(BaseException):
    """Somebody pressed a key."""


def counted(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, stop_after: int | None = None
) -> Callable[[], list[Any]]:
    """Let a function of a module note its items, each sent through pickle as to a worker; the items so far are returned.

    With `stop_after` it raises once it has done so many.
    """
    real, seen = getattr(module, name), []

    # The name is a part of what is kept.
    @functools.wraps(real)
    def noted(shared: Any, item: Any) -> Any:
        if len(seen) == stop_after:
            raise Stopped
        seen.append(item)
        return real(*pickle.loads(pickle.dumps((shared, item))))

    monkeypatch.setattr(module, name, noted)
    return lambda: list(seen)
