"""What a user may say of an application: the sections of a run, several methods instead of one, and an `app:` section."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from raydd.config.base import Auto, Section
from raydd.config.methods import MethodConfig
from raydd.config.run import Config, DataConfig, EngineConfig, EvaluateConfig, checked_name, method_from


class AppSection(Section):
    """What an application wants to know besides."""


class AppConfig(Section):
    """An application's config; every distillation in it is an ordinary run, made of these sections."""

    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""

    name: str = Field(description="the application's folder in the store")
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig
    methods: list[SerializeAsAny[MethodConfig]] = Field(
        min_length=1, description="what is compared: methods and coresets"
    )
    net: dict[str, Any] | Auto = Field("auto", description="as in a run's config; without a name each method's own")
    engine: EngineConfig = EngineConfig()
    store: str = Field("runs", description="folder of runs, at any fsspec URL")
    evaluate: EvaluateConfig = EvaluateConfig()
    app: AppSection = AppSection()

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return checked_name(name)

    @field_validator("methods", mode="before")
    @classmethod
    def _pick_methods(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list):
            return value
        return [method_from(each, info.context, f"methods.{i}.name") for i, each in enumerate(value)]

    @model_validator(mode="after")
    def _check_runs(self) -> Self:
        for method in self.methods:
            self.run(method, "run", "runs")
        return self

    def run(self, method: MethodConfig, name: str, store: str, **data: Any) -> Config:
        """Return the config of one distillation.

        Args:
            method: Out of `methods`, perhaps changed.
            name: Of the run.
            store: The folder of the application's runs.
            data: Changes to the `data` section, such as `classes`.

        Raises:
            ValidationError: When they do not fit together.
        """
        raw = self.model_dump(exclude={"methods", "app"}) | {"name": name, "store": store, "track": []}
        raw["method"] = method.model_dump()
        raw["data"] |= data
        raw["evaluate"] |= {"every": 0, "select": "last", "sets": 1}
        return Config.model_validate(raw)

    def identity(self, train: str, test: str | None) -> dict[str, Any]:
        """Return what decides the results, on data named by the hashes of their indexes."""
        elsewhere = {"name", "store", "engine", "data"}
        data = self.data.model_dump(exclude={"train", "test", "cache"})
        engine = self.engine.model_dump(include={"cpus_per_worker", "deterministic", "precision"})
        return {**self.model_dump(exclude=elsewhere), "data": {**data, "train": train, "test": test}, "engine": engine}

    def hash(self, train: str, test: str | None) -> str:
        """Return the sha256 of `identity`: an application goes on only with its own."""
        return hashlib.sha256(json.dumps(self.identity(train, test), sort_keys=True).encode()).hexdigest()


class ContinualSection(AppSection):
    """How classes or tasks come, and what is remembered of them."""

    kind: Literal["classes"] = Field("classes", description="classes: new classes in every step")
    steps: int = Field(5, ge=1, description="the classes are cut into as many parts, as equal as can be")
    orders: int = Field(1, ge=1, description="orders of the classes; results are means over them")


class ContinualConfig(AppConfig):
    """Continual learning with a memory of distilled images."""

    summary: ClassVar[str] = "what a memory of distilled images is worth when classes or tasks come one after another"
    paper: ClassVar[str] = "Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023, Section 4.4"

    app: ContinualSection = ContinualSection()


APPS: dict[str, type[AppConfig]] = {"continual": ContinualConfig}
