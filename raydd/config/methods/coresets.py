"""Configs of the coresets: sets of real images, chosen rather than learned."""

from __future__ import annotations

from typing import ClassVar, Literal

from raydd.config.methods.base import MethodConfig


class RandomConfig(MethodConfig):
    """Random real images, `ipc` a class, without replacement: the baseline that every method must beat."""

    iterative: ClassVar[bool] = False

    name: Literal["random"] = "random"
