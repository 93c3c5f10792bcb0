"""What every application's config has: the sections of a run, several methods instead of one, and an `app:` section."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from raydd.config.base import Auto, Section, Url
from raydd.config.methods import MethodConfig
from raydd.config.run import BaselineName, Config, DataConfig, EngineConfig, EvaluateConfig, checked_name, method_from

Config_ = TypeVar("Config_", bound="AppConfig")

ONE_RUN = {"sets": 1, "every": 0, "select": "last"}


class AppSection(Section):
    """What an application wants to know besides."""


class KeepingSection(AppSection):
    """Of an application that weighs what is kept of learned images against real ones of as many bytes."""

    keep: Literal["float32", "uint8"] = Field(
        "float32", description="how learned images are kept; uint8: 256 levels between each image's extremes"
    )


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
    store: Url = Field("runs", description="folder of runs, at any fsspec URL")
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
        for key, only in ONE_RUN.items():
            if getattr(self.evaluate, key) != only:
                raise ValueError(
                    f"evaluate.{key} must be {only} in an application, which takes one set a method as it ends, got "
                    f"{getattr(self.evaluate, key)}"
                )
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


def check_baselines(config: Config_, allowed: Sequence[BaselineName]) -> Config_:
    """Return a config whose `evaluate.baselines` are those that its application knows, and which trains any network.

    Raises:
        ValueError: When it asks for others, or for no network.
    """
    wrong = next((name for name in config.evaluate.baselines if name not in allowed), None)
    if wrong is not None:
        raise ValueError(
            f"evaluate.baselines must be out of {', '.join(allowed)} here, got {wrong!r}; put a coreset into methods"
        )
    if config.evaluate.repeats < 1:
        raise ValueError(f"evaluate.repeats must be >= 1 here, got {config.evaluate.repeats}")
    return config


def check_protocols(config: Config_, *, learned_steps: bool) -> Config_:
    """Return a config whose networks are trained as its application trains them: at one rate, and not by DD's steps.

    Args:
        config: The application's.
        learned_steps: Whether `auto` may mean DD's own protocol.

    Raises:
        ValueError: When a protocol is another.
    """
    said = config.evaluate.protocol
    if said == "fair":
        raise ValueError("evaluate.protocol must say one rate and one augmentation here, got fair; set it to dsa")
    for i, method in enumerate(config.methods):
        if not learned_steps and "dd" in (said, method.default_protocol if said == "auto" else said):
            raise ValueError(
                f"evaluate.protocol must train networks by other steps than those learned with a set, got dd for methods.{i} "
                f"({method.name}); set it to dsa"
            )
    return config
