"""What a user may say of architecture search."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, ValidationError, model_validator

from raydd.config.apps.base import AppConfig, KeepingSection, check_baselines, check_protocols
from raydd.config.net import NETS, AnyNetConfig


class SearchSection(KeepingSection):
    """Which networks are compared, and how long they are trained."""

    grid: dict[str, list[int | str]] = Field(
        {
            "width": [32, 64, 128, 256],
            "depth": [1, 2, 3, 4],
            "norm": ["none", "batch", "layer", "instance", "group"],
            "act": ["sigmoid", "relu", "leaky_relu"],
            "pool": ["none", "max", "avg"],
        },
        min_length=1,
        description="options of the network and their values; every combination is a candidate. The papers' 720 ConvNets",
    )
    sample: int | None = Field(None, ge=2, description="candidates drawn from the grid; null: all of it")
    updates: int = Field(
        400, ge=1, description="updates on a proxy, cosine to zero; the whole set is stopped there too"
    )
    batch: int = Field(250, ge=1, description="images of an update")
    top: float = Field(0.05, gt=0, le=1, description="share of the candidates that the second correlation is over")


class SearchConfig(AppConfig):
    """Architecture search on a proxy of the training set."""

    summary: ClassVar[str] = "how well few images rank networks, beside training each on the whole set"
    paper: ClassVar[str] = "Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023, Section 4.5"

    app: SearchSection = SearchSection()

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        if not self.data.val_fraction:
            raise ValueError(
                "data.val_fraction must be > 0, since networks are compared on the validation part of the training split, "
                "got 0; set it to 0.1"
            )
        if self.evaluate.protocol == "dd":
            raise ValueError("evaluate.protocol must train any network on any set, got dd; set it to dsa")
        check_baselines(check_protocols(self, learned_steps=True), ("random", "random@bytes", "whole"))
        kinds = [NETS["convnet"]()] if self.evaluate.nets == "auto" else self.evaluate.nets
        for net in kinds:
            _check_grid(net, self.app.grid)
        return self


def _check_grid(net: AnyNetConfig, grid: dict[str, list[int | str]]) -> None:
    options = type(net).model_fields.keys() - {"name"}
    for key, values in grid.items():
        if key not in options:
            has = ", ".join(sorted(options)) or "none"
            raise ValueError(f"app.grid must name options of the network {net.name} ({has}), got {key!r}")
        if not values or len(set(values)) < len(values):
            raise ValueError(f"app.grid.{key} must be one or more values, each once, got {values}")
        for value in values:
            try:
                type(net).model_validate({**net.model_dump(), key: value})
            except ValidationError as error:
                raise ValueError(f"app.grid.{key}: {error.errors()[0]['msg']}, got {value!r}") from None
