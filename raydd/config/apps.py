"""What a user may say of an application: the sections of a run, several methods instead of one, and an `app:` section."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, PositiveInt, SerializeAsAny, ValidationInfo, field_validator, model_validator

from raydd.config.base import Auto, Section
from raydd.config.methods import MethodConfig
from raydd.config.run import BaselineName, Config, DataConfig, EngineConfig, EvaluateConfig, checked_name, method_from

Config_ = TypeVar("Config_", bound="AppConfig")


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


class ContinualSection(AppSection):
    """How classes or tasks come, and what is remembered of them."""

    kind: str
    keep: Literal["float32", "uint8"] = Field(
        "float32", description="how learned images are kept; uint8: 256 levels between each image's extremes"
    )


class ClassesSection(ContinualSection):
    """New classes in every step."""

    kind: Literal["classes"] = Field("classes", description="new classes in every step")
    steps: int = Field(5, ge=1, description="the classes are cut into as many parts, as equal as can be")
    orders: int = Field(1, ge=1, description="orders of the classes; results are means over them")
    budget: int | None = Field(
        None, ge=1, description="most bytes of memory for each class seen; null: what the largest filler takes"
    )


class TasksSection(ContinualSection):
    """One network trained on several data sets, one after the other."""

    kind: Literal["tasks"] = Field("tasks", description="several data sets of the same classes, one after the other")
    tasks: list[str] = Field(min_length=2, description="SOURCEs or packed training shards, in order")
    tests: list[str] | None = Field(
        None, description="test splits of the tasks, as many; left out: the sources' own test splits"
    )
    updates: int = Field(5000, ge=1, description="updates of the network on each task")
    finetune: int = Field(
        500, ge=0, description="updates on the memory alone at the end of each task, at a tenth of lr"
    )
    batch: int = Field(128, ge=1, description="new images an update, and as many of the memory")
    lr: float = Field(0.01, gt=0, description="SGD's rate; momentum 0.9, weight decay 5e-4")
    kd_weight: float = Field(1.0, ge=0, description="weight of the distillation from the network before; 0: none")
    temperature: float = Field(2.0, gt=0, description="of that distillation")

    @model_validator(mode="after")
    def _check_tests(self) -> Self:
        if self.tests is not None and len(self.tests) != len(self.tasks):
            raise ValueError(
                f"app.tests must name a test split for each of {len(self.tasks)} tasks, got {len(self.tests)}"
            )
        return self


class StreamSection(ContinualSection):
    """Compress, then recall: tasks that are streamed once."""

    kind: Literal["stream"] = Field("stream", description="tasks streamed once, their images compressed as they end")
    stream: Literal["rotations", "permutations", "classes"] = Field(
        "rotations", description="what tells tasks apart: an angle, an order of the pixels, or the classes"
    )
    tasks: int = Field(5, ge=2, description="tasks of the stream")
    images: int = Field(1000, ge=1, description="training images of a task, about; never more than there are")
    batch: int = Field(10, ge=1, description="images of a mini-batch of the stream")
    budget: int = Field(
        ge=1, description="bytes of all that is kept; each finished task may take its share of 1 / tasks"
    )


CONTINUAL = {str(s.model_fields["kind"].default): s for s in (ClassesSection, TasksSection, StreamSection)}


class ContinualConfig(AppConfig):
    """Continual learning with a memory of distilled images."""

    summary: ClassVar[str] = "what a memory of distilled images is worth when classes or tasks come one after another"
    paper: ClassVar[str] = (
        "Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023, Section 4.4; Zhao, Mopuri & Bilen, "
        "Dataset Condensation with Gradient Matching, ICLR 2021, Section 4.2; Deng & Russakovsky, Remember the Past, "
        "NeurIPS 2022"
    )

    app: SerializeAsAny[ContinualSection] = ClassesSection()

    @model_validator(mode="before")
    @classmethod
    def _name_data(cls, raw: Any) -> Any:
        """Let the first of `app.tasks` be the training split that every application has."""
        app = raw.get("app") if isinstance(raw, dict) else None
        if not isinstance(app, dict) or app.get("kind") != "tasks":
            return raw
        named: dict[str, Any] = {}
        for key, many in (("train", "tasks"), ("test", "tests")):
            if isinstance(app.get(many), list) and app[many]:
                named[key] = app[many][0]
        data = raw.get("data") or {}
        for key, many in (("train", "tasks"), ("test", "tests")):
            if isinstance(data, dict) and key in named and data.get(key) not in (None, named[key]):
                raise ValueError(f"data.{key} must be left out, since app.{many} names the data, got {data[key]!r}")
        return {**raw, "data": {**data, **named}} if isinstance(data, dict) else raw

    @field_validator("app", mode="before")
    @classmethod
    def _pick_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = value.get("kind", "classes")
        if not isinstance(kind, str) or kind not in CONTINUAL:
            raise ValueError(f"app.kind must be one of {', '.join(CONTINUAL)}, got {kind!r}")
        return CONTINUAL[kind].model_validate(value)

    @model_validator(mode="after")
    def _check_baselines(self) -> Self:
        known = {"random", "random@bytes"} | ({"whole"} if self.app.kind != "tasks" else set())
        other = next((name for name in self.evaluate.baselines if name not in known), None)
        if other is not None:
            raise ValueError(
                f"evaluate.baselines must be out of {', '.join(sorted(known))} for app.kind {self.app.kind}, got {other!r}; "
                "coresets stand under methods"
            )
        return self

    @model_validator(mode="after")
    def _check_networks(self) -> Self:
        if self.evaluate.repeats < 1:
            raise ValueError(f"evaluate.repeats must be >= 1, got {self.evaluate.repeats}")
        if self.evaluate.nets != "auto" and len(self.evaluate.nets) != 1:
            raise ValueError(f"evaluate.nets must be auto or one network here, got {len(self.evaluate.nets)}")
        return self

    @model_validator(mode="after")
    def _check_methods(self) -> Self:
        for i, method in enumerate(self.methods):
            protocol = method.default_protocol if self.evaluate.protocol == "auto" else self.evaluate.protocol
            if protocol == "dd" and self.app.kind != "stream":
                raise ValueError(
                    f"methods.{i}.name: steps learned for one part of the classes or tasks train no network on several; set "
                    f"evaluate.protocol to another than dd, or choose another method, got {method.name}"
                )
            if protocol == "fair":
                raise ValueError(
                    "evaluate.protocol must choose nothing on training images, of which a memory keeps none, got fair"
                )
        return self


class PrivacySection(AppSection):
    """Whose images an attacker wants to recognise, in what networks."""

    members: int = Field(
        10_000, ge=2, description="images of a chunk of the training split, by class as even as can be"
    )
    chunks: int = Field(5, ge=1, description="chunks, each distilled and attacked on its own")
    updates: list[PositiveInt] = Field(
        [100, 400, 1600], min_length=1, description="of a network's training, after which it is attacked; one training"
    )
    batch: int = Field(256, ge=1, description="images a step; all where there are fewer")
    augment: bool = Field(False, description="whether networks are trained with the protocol's augmentation")

    @field_validator("updates")
    @classmethod
    def _check_updates(cls, updates: list[int]) -> list[int]:
        if sorted(set(updates)) != updates:
            raise ValueError("must be ascending, each number once")
        return updates


class PrivacyConfig(AppConfig):
    """Membership inference against networks trained on distilled images."""

    summary: ClassVar[str] = "whether networks trained on distilled images tell which real images these were made from"
    paper: ClassVar[str] = "Zhou, Nezhadarya & Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022"

    app: PrivacySection = PrivacySection()

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        return check_baselines(self, ("random", "random@bytes", "whole"))


class RecallSection(AppSection):
    """What is composed of the memories of tasks, and what images recall."""

    tasks: int = Field(20, ge=2, description="the classes are cut into so many tasks, as equal as can be")
    ways: list[Annotated[int, Field(ge=2)]] = Field(
        [2, 5], min_length=1, description="classes of a draw, each of a task"
    )
    draws: int = Field(1000, ge=1, description="draws of so many classes; a classifier is trained for each")
    whole_draws: int = Field(100, ge=1, description="draws of these on which the baseline `whole` is trained")
    test_images: int = Field(100, ge=1, description="test images of each class that a draw is scored on")
    updates: PositiveInt | None = Field(None, description="of every classifier, at the full rate; null: the protocol's")
    episodes: int = Field(0, ge=0, description="draws of any classes that are recalled by images of theirs; 0: none")
    episode_ways: int = Field(5, ge=2, description="classes of an episode")
    shots: list[PositiveInt] = Field([1, 5], min_length=1, description="images of each class that recall its memory")


class RecallConfig(AppConfig):
    """Recall from memories: classes never seen together, and classes named by an image."""

    summary: ClassVar[str] = "classifiers of classes that were never distilled together, and recall by an image"
    paper: ClassVar[str] = "Deng & Russakovsky, Remember the Past, NeurIPS 2022"

    app: RecallSection = RecallSection()

    @model_validator(mode="after")
    def _check_draws(self) -> Self:
        wrong = next((ways for ways in self.app.ways if ways > self.app.tasks), None)
        if wrong is not None:
            raise ValueError(f"app.ways must be <= app.tasks ({self.app.tasks}), one class of each, got {wrong}")
        if not self.app.episodes and any(method.variant for method in self.methods):
            raise ValueError("app.episodes must be > 0 with a memory that is asked by images, got 0")
        if self.app.whole_draws > self.app.draws:
            raise ValueError(f"app.whole_draws must be <= app.draws ({self.app.draws}), got {self.app.whole_draws}")
        return check_baselines(self, ("random", "random@bytes", "whole"))


APPS: dict[str, type[AppConfig]] = {"continual": ContinualConfig, "privacy": PrivacyConfig, "recall": RecallConfig}
