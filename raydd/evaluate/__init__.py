"""Evaluation: train networks from scratch on a distilled set by somebody's protocol, and score them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from raydd.evaluate.grid import parse_grid, parse_nets
from raydd.evaluate.mapping import MapFunction, sequential
from raydd.evaluate.matrix import Matrix, arrange
from raydd.evaluate.protocols import PROTOCOLS, Protocol
from raydd.evaluate.record import Evaluation, record, recorded
from raydd.evaluate.request import Request, net_text
from raydd.evaluate.results import Accuracy, pooled
from raydd.evaluate.resume import Keeping
from raydd.evaluate.robust import Robustness, robust_requests, robustness
from raydd.evaluate.score import evaluate_all
from raydd.evaluate.validate import validate

__all__ = [
    "PROTOCOLS",
    "Accuracy",
    "Evaluation",
    "Keeping",
    "MapFunction",
    "Matrix",
    "Protocol",
    "Request",
    "Robustness",
    "arrange",
    "evaluate_all",
    "net_text",
    "parse_grid",
    "parse_nets",
    "pooled",
    "record",
    "recorded",
    "robust_requests",
    "robustness",
    "sequential",
    "validate",
]


class _Callable(ModuleType):
    """Lets `raydd.evaluate(...)` stay the public function after Python has bound that name to this package."""

    def __call__(self, *args: Any, **options: Any) -> list[Accuracy]:
        return sys.modules["raydd"].__getattr__("evaluate")(*args, **options)


sys.modules[__name__].__class__ = _Callable
