"""The section `sweep`: what is varied, how points are chosen, which trials are stopped, and how they are scored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from raydd.config.base import Auto, ProtocolName, Section

KINDS = ("choice", "uniform", "loguniform", "integer", "grid")
# Of all else trials must be alike: what they are scored on, and where they lie.
SWEPT = ("method.", "net.", "data.zca", "data.statistics", "data.window", "data.window_rounds")

Bounds = tuple[float, float]


def _check_key(key: str) -> str:
    if not any(key.startswith(part) if part.endswith(".") else key == part for part in SWEPT):
        raise ValueError(
            "sweep.space may vary method.*, net.* and data.zca, statistics, window, window_rounds, "
            f"got {key!r}; trials must be alike in all else to be compared"
        )
    return key


class Dimension(Section):
    """What one key may be: exactly one of five kinds, and for which other values it matters."""

    choice: list[Any] | None = Field(None, min_length=1, description="one of these, each as likely")
    uniform: Bounds | None = Field(None, description="a number between two")
    loguniform: Bounds | None = Field(None, description="a number between two, each factor as likely")
    integer: tuple[int, int] | None = Field(None, description="a whole number from the first to the last")
    grid: list[Any] | None = Field(None, min_length=1, description="one of these, each in turn")
    when: dict[str, Any] = Field({}, description="other keys with the value, or values, for which this key is set")

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"must be one of {', '.join(KINDS)}, got {' and '.join(given) or 'none of them'}")
        bounds = self.bounds
        if bounds is not None and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]} must be [smallest, largest], got {list(bounds)}")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform must be above 0, got {list(self.loguniform)}")
        return self

    @property
    def values(self) -> list[Any] | None:
        """All values where they are listed, else None."""
        return self.choice if self.choice is not None else self.grid

    @property
    def bounds(self) -> Bounds | tuple[int, int] | None:
        """Smallest and largest value, or None where values are listed."""
        return self.uniform or self.loguniform or self.integer


class SweepConfig(Section):
    """A sweep over a config: many short runs, of which the best is kept."""

    space: dict[Annotated[str, AfterValidator(_check_key)], Dimension] = Field(
        min_length=1, description="dotted keys, each with what it may be"
    )
    metric: Literal["val_accuracy"] = "val_accuracy"
    search: Literal["random", "grid", "optuna"] = Field(
        "random", description="how points are chosen; grid: every combination; optuna: by the scores so far, an extra"
    )
    scheduler: Literal["asha", "median", "none"] = Field(
        "asha", description="which trials are stopped early, by the scores of others of equal storage"
    )
    trials: int | Auto = Field("auto", description="how many; auto: 16, and all of a grid")
    hours: float | None = Field(None, gt=0, description="for all trials together, by the clock; null: no limit")
    max_concurrent: int | None = Field(None, ge=1, description="trials at a time; null: as many as there is room for")
    scores: int = Field(4, ge=1, description="scores of a trial on the validation part, evenly over its rounds")
    protocol: ProtocolName | Auto = Field("auto", description="of all scores; auto: the config's own evaluate.protocol")
    repeats: int = Field(1, ge=1, description="networks trained for a score")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.trials != "auto" and self.trials < 1:
            raise ValueError(f"sweep.trials must be >= 1 or auto, got {self.trials}")
        endless = [key for key, dimension in self.space.items() if dimension.values is None]
        if self.search == "grid" and endless:
            raise ValueError(
                f"sweep.search grid goes through lists of values, so sweep.space.{endless[0]} must be choice or grid, "
                f"got {next(kind for kind in KINDS if getattr(self.space[endless[0]], kind) is not None)}"
            )
        return self
