"""What ordinary training of one network may be told."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raydd.config.base import Auto, Section, Url
from raydd.config.run import EngineConfig, checked_name

AUGMENTATIONS = ("dc", "dsa", "frepo")


class TrainConfig(Section):
    """An ordinary, data-parallel training of a network on a distilled set or on packed shards."""

    data: Url = Field(description="a run, a distilled set, or packed shards, at any fsspec URL")
    net: str = Field(description="such as `resnet18`, `convnet:width=64`, `torchvision:resnet18` or `timm:NAME`")
    test: Url | None = Field(None, description="packed test shards that the network is scored on at the end")
    name: str | Auto = Field("auto", description="the run's folder in the store; auto: by data and network")
    seed: int = Field(0, ge=0, lt=2**63)
    epochs: Annotated[int, Field(ge=1)] | Auto = Field(
        "auto", description="auto: 20 for shards; for a set as many as make 1000 updates"
    )
    batch: int = Field(256, ge=1, description="images an update, of all workers together; at most all there are")
    optimiser: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Field(gt=0)] | Auto = Field("auto", description="auto: 0.01 for SGD, 0.001 for Adam")
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD")
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "constant"] = Field("cosine", description="cosine: to zero, after the warm-up")
    warmup: int = Field(0, ge=0, description="updates of linear warm-up, for the cosine")
    augment: str | Auto | None = Field(
        "auto", description="such as `dsa:crop_flip`; auto: the set's own, for shards none; null: none"
    )
    engine: EngineConfig = EngineConfig(workers=0)
    store: Url = Field("runs", description="folder of runs, at any fsspec URL")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return checked_name(name)

    @field_validator("augment")
    @classmethod
    def _check_augment(cls, augment: str | None) -> str | None:
        if augment not in (None, "auto") and augment.partition(":")[0] not in AUGMENTATIONS:
            raise ValueError("must name whose and which operations, as in dsa:crop_flip (out of dc, dsa and frepo)")
        return augment

    @field_validator("engine", mode="before")
    @classmethod
    def _in_this_process(cls, engine: Any) -> Any:
        # Unlike distilling, training is done without Ray unless workers are asked for.
        return {"workers": 0, **engine} if isinstance(engine, dict) else engine

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.batch < self.engine.workers:
            raise ValueError(f"batch must be >= engine.workers ({self.engine.workers}), got {self.batch}")
        if self.engine.gpus_per_worker not in (0, 1):
            raise ValueError(
                f"data-parallel training takes engine.gpus_per_worker 0 or 1, got {self.engine.gpus_per_worker:g}"
            )
        return self

    def identity(self, data_hash: str) -> dict[str, Any]:
        """Return what decides the result, to rounding, for a config without `auto` on the data named by `data_hash`."""
        kept = ("seed", "net", "epochs", "batch", "optimiser", "lr", "momentum", "weight_decay", "schedule", "warmup")
        return {
            "data": data_hash,
            **self.model_dump(include={*kept, "augment"}),
            "engine": self.engine.model_dump(include={"cpus_per_worker", "deterministic", "precision"}),
        }

    def hash(self, data_hash: str) -> str:
        """Return the sha256 of `identity`: a run goes on only with its own."""
        return hashlib.sha256(json.dumps(self.identity(data_hash), sort_keys=True).encode()).hexdigest()
