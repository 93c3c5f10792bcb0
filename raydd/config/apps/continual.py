"""What a user may say of continual learning."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from raydd.config.apps.base import AppConfig, KeepingSection


class ContinualSection(KeepingSection):
    """How classes or tasks come, and what is remembered of them."""

    kind: str


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
            if method.variant is not None or getattr(method, "net_init", "") == "fixed":
                what = "address: class" if method.variant is not None else "net_init: random"
                raise ValueError(
                    f"methods.{i} ({method.name}) must be a set for any network and nothing else, got one that keeps a network "
                    f"with it; say {what}"
                )
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
