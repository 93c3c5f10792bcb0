"""raydd: distributed dataset distillation on Ray.

    import raydd

    ds = raydd.load("s3://bucket/runs/mnist-dm-ipc1")
    for images, labels in ds.loader(batch_size=256):
        ...

Importing this package loads neither ray nor torch; they come with the first use of what needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raydd.api import Run, distill, evaluate, load
    from raydd.config import Config
    from raydd.distilled import DistilledSet

__all__ = ["Config", "DistilledSet", "Run", "distill", "evaluate", "load"]

_HOMES = {
    "Config": "raydd.config",
    "DistilledSet": "raydd.distilled",
    "Run": "raydd.api",
    "distill": "raydd.api",
    "evaluate": "raydd.api",
    "load": "raydd.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'raydd' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
