"""What tables call the methods that are compared: no two rows have the same name."""

from __future__ import annotations

from collections.abc import Sequence

from raydd.config import MethodConfig


def numbered(names: Sequence[str]) -> list[str]:
    """Return names with a number behind those that several have."""
    return [name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]


def sized(methods: Sequence[MethodConfig]) -> list[str]:
    """Return each method's name with its images a class, numbered where that tells no methods apart."""
    return numbered([f"{method.name}, ipc {method.ipc}" for method in methods])
