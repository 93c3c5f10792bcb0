"""The sections of a run's config, and their resolution against the facts of the data."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal, Self, get_args

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from raydd.config.base import Auto, DataFacts, ProtocolName, Section, Url
from raydd.config.methods import MethodConfig, methods
from raydd.config.net import NETS, NetConfig
from raydd.config.sweep import SweepConfig
from raydd.errors import ConfigError

BaselineName = Literal[
    "random", "random@bytes", "herding", "kcenter", "forgetting", "kmeans", "average", "optimised", "whole"
]
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
TrackerName = Literal["tensorboard", "mlflow", "wandb"]
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def checked_name(name: str) -> str:
    """Return the name of a run's folder.

    Raises:
        ValueError: When it cannot be one.
    """
    if not RUN_NAME.fullmatch(name):
        raise ValueError(
            "must be letters, digits, dots, dashes and underscores, at most 100, starting with a letter or digit"
        )
    return name


def method_from(value: Any, context: Any, key: str) -> Any:
    """Return plain data as the config of the method that it names; whatever is no section as it is.

    Raises:
        ValueError: When there is no such method, naming the key.
    """
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if not isinstance(name, str) or name not in methods():
        raise ValueError(f"{key} must be one of {', '.join(methods())}, got {name!r} (see `raydd methods`)")
    return methods()[name].config.model_validate(value, context=context)


class DataConfig(Section):
    """Where the real images are, and which of them are used."""

    train: Url = Field(description="packed shards (URL), or a SOURCE such as `digits` that is packed first")
    test: Url | None = Field(None, description="packed shards or a SOURCE; left out: the source's own test split")
    size: int | None = Field(None, ge=4, description="edge in pixels a SOURCE's images are resized to when packed")
    val_fraction: float = Field(0.0, ge=0, lt=1, description="share of the training split that is kept for selection")
    classes: Literal["all"] | list[int | str] = Field("all", description="a subset, by index or name")
    zca: Literal["frepo", "rtp"] | Auto | None = Field("auto", description="whitening; auto: the paper's; null: none")
    statistics: Literal["table", "fit"] | Auto = Field(
        "auto",
        description="channel mean and deviation: the papers' table, or exact from the data; auto: table where known",
    )
    cache: Literal["memory", "disk"] | Auto = Field(
        "auto",
        description="decoded images: in each process, or in one file a node that outlives the run; auto: a file over 1 GiB",
    )
    window: Literal["all"] | int = Field("all", description="images per class that are seen, and held, at a time")
    window_rounds: int = Field(100, ge=1, description="rounds that a window serves")

    @field_validator("window")
    @classmethod
    def _check_window(cls, window: Literal["all"] | int) -> Literal["all"] | int:
        if window != "all" and window < 1:
            raise ValueError("must be >= 1 or all")
        return window

    @model_validator(mode="after")
    def _check_cache(self) -> Self:
        if self.window != "all" and self.cache == "disk":
            raise ValueError(
                f"data.cache must be auto or memory where data.window bounds what is held ({self.window}), got disk"
            )
        return self


class EngineConfig(Section):
    """Where the work is done."""

    workers: int = Field(1, ge=0, description="worker processes; 0: none, all in this process and without Ray")
    min_workers: int = Field(1, ge=1, description="start and go on with as few as this")
    cpus_per_worker: int = Field(1, ge=1, description="also the number of torch threads, which is part of the numerics")
    gpus_per_worker: float = Field(0, ge=0)
    checkpoint_every: int = Field(500, ge=1, description="rounds")
    checkpoint_every_s: float = Field(300, gt=0)
    keep_checkpoints: int = Field(2, ge=1)
    start_timeout_s: float = Field(600, gt=0)
    replace_timeout_s: float = Field(300, gt=0)
    step_timeout_s: float = Field(3600, gt=0, description="a worker that is silent for longer counts as lost")
    exchange: Literal["auto", "store", "resident", "collective"] = Field(
        "auto",
        description="how variables and gradients travel: by the object store; not at all, where classes need nothing of "
        "each other or one worker has all; among the workers by torch.distributed. The result is the same",
    )
    deterministic: bool = True
    precision: Literal["fp32", "tf32", "bf16"] = Field(
        "fp32",
        description="arithmetic of a network's convolutions and products: tf32 on a GPU; bf16 wherever it is, norms and "
        "all else staying float32. No paper's; the recipe records it",
    )

    @model_validator(mode="after")
    def _check_workers(self) -> Self:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(f"engine.gpus_per_worker must be at most 1 or whole, got {self.gpus_per_worker:g}")
        if self.workers and self.min_workers > self.workers:
            raise ValueError(f"engine.min_workers must be <= engine.workers ({self.workers}), got {self.min_workers}")
        return self


class EvaluateConfig(Section):
    """How the distilled set is scored."""

    protocol: ProtocolName | Auto = Field("auto", description="auto: the method's own")
    nets: list[NetConfig] | Auto = Field("auto", description="auto: the method's own network")
    every: int = Field(0, ge=0, description="rounds between scores on the validation part on the way; 0: none")
    select: Literal["last", "val"] = Field("last", description="the result: the last set, or the best of those scores")
    sets: int = Field(1, ge=1, description="how many sets are distilled, each with a seed of its own")
    repeats: int = Field(5, ge=0, description="networks trained on each set; 0: no evaluation")
    baselines: list[BaselineName] = Field(
        ["random", "random@bytes"], description="scored beside the distilled set; `whole` takes longest"
    )
    whole_epochs: int = Field(20, ge=1, description="epochs of the training on the whole set, cosine to zero")


class Config(Section):
    """A whole run, as YAML says it.

    The same model holds what the user wrote and, after `resolved`, what it means: no field is `auto` any more.
    """

    name: str = Field(description="the run's folder in the store")
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig
    method: SerializeAsAny[MethodConfig]
    net: NetConfig | Auto = "auto"
    engine: EngineConfig = EngineConfig()
    store: Url = Field("runs", description="folder of runs, at any fsspec URL")
    evaluate: EvaluateConfig = EvaluateConfig()
    track: list[TrackerName] = Field(
        ["tensorboard"], description="where metrics go besides metrics.jsonl; out of tensorboard, mlflow, wandb"
    )
    # Never dumped: it says nothing of the run that a config describes.
    sweep: SweepConfig | None = Field(None, exclude=True, description="what `raydd sweep` varies; nothing else looks")

    @model_validator(mode="after")
    def _check_selection(self) -> Self:
        if self.evaluate.every and not self.data.val_fraction:
            raise ValueError(
                "evaluate.every scores on the validation part of the training split, so data.val_fraction must be > 0, "
                f"got {self.data.val_fraction:g}; set it to 0.1, or evaluate.every to 0"
            )
        if self.evaluate.select == "val" and not self.evaluate.every:
            raise ValueError(
                "evaluate.select val chooses among scores on the way, so evaluate.every must be > 0, got 0"
            )
        return self

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        if self.data.window != "all" and not self.method.iterative:
            raise ValueError(
                f"data.window must be all for method.name {self.method.name}, which looks at all images and has no rounds, "
                f"got {self.data.window}"
            )
        return self

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        return checked_name(name)

    @field_validator("method", mode="before")
    @classmethod
    def _pick_method(cls, value: Any, info: ValidationInfo) -> Any:
        return method_from(value, info.context, "method.name")

    @model_validator(mode="before")
    @classmethod
    def _name_net(cls, raw: Any) -> Any:
        """Let `net: {width: 32}` mean the method's own network at width 32."""
        if isinstance(raw, dict) and isinstance(raw.get("net"), dict) and "name" not in raw["net"]:
            method = raw.get("method")
            name = method.get("name") if isinstance(method, dict) else getattr(method, "name", None)
            spec = methods().get(name) if isinstance(name, str) else None
            # Of an unknown method the field itself will tell; the net then needs some name only.
            raw = {**raw, "net": {"name": spec.config.default_net if spec else "convnet", **raw["net"]}}
        return raw

    def resolved(self, facts: DataFacts) -> Config:
        """Return a copy in which every `auto` is replaced by the method's and the data set's own default.

        Raises:
            ConfigError: When the method asks for more than the data has.
        """
        method = self.method.resolved(facts)
        if method.ipc > facts.smallest_class and getattr(method, "init", "real") == "real":
            raise ConfigError(
                f"method.ipc must be <= the size of the smallest class ({facts.smallest_class}) when images start as real "
                f"ones, got {method.ipc}; lower method.ipc or set method.init to noise"
            )
        net = self.net
        if net == "auto":
            net = NETS[method.default_net]()
        if (
            method.batches_slots
            and getattr(net, "norm", "") == "batch"
            and getattr(method, "classes_per_slot", facts.num_classes) != facts.num_classes
        ):
            raise ConfigError(
                "net.norm batch mixes all classes in one batch, so method.classes_per_slot must be all, "
                f"got {getattr(method, 'classes_per_slot', None)}"
            )
        zca = method.default_zca(facts) if self.data.zca == "auto" else self.data.zca
        protocol = method.default_protocol if self.evaluate.protocol == "auto" else self.evaluate.protocol
        return self.model_copy(
            update={
                "method": method,
                "net": net.resolved(facts),
                "data": self.data.model_copy(update={"zca": zca}),
                "evaluate": self.evaluate.model_copy(update={"protocol": protocol}),
            }
        )

    def identity(self, index_hash: str) -> dict[str, Any]:
        """Return what decides the bits of the result, for a resolved config over the data set named by `index_hash`."""
        method = self.method.model_dump()
        if not self.method.scheduled:
            del method["rounds"]
        data = {"classes", "val_fraction", "zca", "statistics", "window"}
        if self.data.window != "all":
            data.add("window_rounds")
        return {
            "seed": self.seed,
            "data": {"index": index_hash, **self.data.model_dump(include=data)},
            "net": self.net if isinstance(self.net, str) else self.net.model_dump(),
            "method": method,
            "engine": self.engine.model_dump(include={"cpus_per_worker", "deterministic", "precision"}),
        }

    def hash(self, index_hash: str) -> str:
        """Return the sha256 of `identity`: a run goes on only with its own."""
        return hashlib.sha256(json.dumps(self.identity(index_hash), sort_keys=True).encode()).hexdigest()
