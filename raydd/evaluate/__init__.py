"""Evaluation: train networks from scratch on a distilled set by somebody's protocol, and score them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from raydd.evaluate.protocols import PROTOCOLS, Protocol
from raydd.evaluate.score import Accuracy, MapFunction, evaluate, net_text, sequential

__all__ = ["PROTOCOLS", "Accuracy", "MapFunction", "Protocol", "evaluate", "net_text", "sequential"]


class _Callable(ModuleType):
    """Lets `raydd.evaluate(...)` stay the public function after Python has bound that name to this package."""

    def __call__(self, *args: Any, **options: Any) -> list[Accuracy]:
        return sys.modules["raydd"].__getattr__("evaluate")(*args, **options)


sys.modules[__name__].__class__ = _Callable
