"""One algorithm, or family of them, a file, in pure torch; `raydd.config.methods` announces them, `create` builds one."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from raydd.config import MethodConfig, methods
from raydd.methods.base import HARD, Contribution, Labels, Method, Problem, Slot, Tensors

__all__ = ["HARD", "Contribution", "Labels", "Method", "Problem", "Slot", "Tensors", "create"]


def create(config: MethodConfig, net: Any, problem: Problem) -> Method[Any]:
    """Build the method that `config.name` announces, for a resolved config."""
    module, _, name = (config.variant or methods()[config.name].implementation).partition(":")
    implementation: type[Method[Any]] = getattr(import_module(module), name)
    return implementation(config, net, problem)
