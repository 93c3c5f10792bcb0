"""What one draw of an augmentation is, and the parsing that DSA and FRePo have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raydd.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Params:
    """One drawn operation.

    Attributes:
        op: Name of the operation.
        values: Its parameters by name, CPU tensors of one row an image: `(n,)`, or `(1,)` for one set of parameters
            that holds for every image of any batch (siamese).
    """

    op: str
    values: dict[str, Tensor]

    @property
    def count(self) -> int:
        """Number of rows: 1 for siamese parameters."""
        return len(next(iter(self.values.values())))


def parse(strategy: str, known: Sequence[str]) -> tuple[str, ...]:
    """Split a strategy such as "color_crop" into its operations.

    Raises:
        ConfigError: It names an operation that is not in `known`, or none.
    """
    ops = tuple(strategy.split("_"))
    for op in ops:
        if op not in known:
            raise ConfigError(
                f"an augmentation must be one or more of {', '.join(known)}, joined by '_', got {op!r} in {strategy!r}"
            )
    return ops


def choose(ops: Sequence[str], gen: torch.Generator) -> str:
    """Draw one operation uniformly."""
    return ops[int(torch.randint(len(ops), (1,), generator=gen))]


def uniform(gen: torch.Generator, count: int, low: float, high: float) -> Tensor:
    """Draw `count` numbers from U(low, high), float32."""
    return torch.rand(count, generator=gen) * (high - low) + low


def rows(x: Tensor, params: Params) -> dict[str, Tensor]:
    """Return the parameters on the device of images `x` `(N, C, H, W)`, floating ones in their dtype.

    Raises:
        DataError: There are neither one nor N rows of parameters.
    """
    if params.count not in (1, len(x)):
        raise DataError(
            f"augmentation drawn for {params.count} images cannot be applied to {len(x)}: draw for that many"
        )
    return {name: v.to(x.device, x.dtype if v.is_floating_point() else None) for name, v in params.values.items()}
