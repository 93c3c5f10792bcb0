"""One config model per method, and the list of methods that there are.

A method is announced here without torch; its arithmetic stands in `raydd/methods/`, one file each. Third parties announce
theirs through the entry-point group `raydd.methods`, whose entries are `MethodSpec` objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from raydd.config.base import Auto, DataFacts, Section
from raydd.errors import ConfigError

DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"


class MethodConfig(Section):
    """What every method's section has.

    Class attributes tell what the rest of raydd must know of a method before it is imported:
    `default_net` and `default_protocol` name the paper's; `scheduled` says that a schedule depends on `rounds`, so that
    `rounds` cannot be raised afterwards; `iterative` is false for coresets, which have no rounds.
    """

    default_net: ClassVar[str] = "convnet"
    default_protocol: ClassVar[str] = "dsa"
    scheduled: ClassVar[bool] = False
    iterative: ClassVar[bool] = True

    name: str
    ipc: int = Field(1, ge=1, description="images per class")
    rounds: int = Field(0, ge=0, description="updates of the variables")

    def resolved(self, facts: DataFacts) -> Self:
        """Return a copy in which every `auto` is replaced by the paper's value for this data set."""
        return self

    def default_zca(self, facts: DataFacts) -> str | None:
        """Return the whitening that the paper uses on this data set."""
        return None


class RandomConfig(MethodConfig):
    """Random real images, `ipc` a class, without replacement: the baseline that every method must beat."""

    iterative: ClassVar[bool] = False

    name: Literal["random"] = "random"


class DMConfig(MethodConfig):
    """Distribution matching (Zhao and Bilen, WACV 2023)."""

    name: Literal["dm"] = "dm"
    rounds: int = Field(20_000, ge=1, description="updates of the synthetic images")
    init: Literal["real", "noise"] = "real"
    lr_syn: float = Field(1.0, gt=0, description="SGD's rate on the images")
    momentum_syn: float = Field(0.5, ge=0, lt=1)
    real_batch: int = Field(256, ge=1, description="real images per class and round")
    classes_per_slot: int | Literal["all"] = Field(
        10, description="classes of one slot, the unit that a worker is dealt"
    )
    augment: str | Auto | None = Field("auto", description="DSA strategy; auto: all six, no flip on digits; null: none")

    def resolved(self, facts: DataFacts) -> Self:
        """Fill the augmentation; see the base class."""
        per_slot = facts.num_classes if self.classes_per_slot == "all" else self.classes_per_slot
        if not per_slot >= 1:
            raise ConfigError(f"method.classes_per_slot must be >= 1 or all, got {self.classes_per_slot}")
        update: dict[str, Any] = {"classes_per_slot": min(per_slot, facts.num_classes)}
        if self.augment == "auto":
            update["augment"] = DSA_STRATEGY.replace("flip_", "") if facts.handwritten else DSA_STRATEGY
        return self.model_copy(update=update)


class FRePoConfig(MethodConfig):
    """Neural feature regression with pooling (Zhou, Nezhadarya and Ba, NeurIPS 2022)."""

    default_net: ClassVar[str] = "frepo_convnet"
    default_protocol: ClassVar[str] = "frepo"
    scheduled: ClassVar[bool] = True

    name: Literal["frepo"] = "frepo"
    rounds: int = Field(500_000, ge=1, description="updates of the synthetic set")
    init: Literal["real", "noise"] = "real"
    learn_labels: bool = True
    flip: bool | Auto = Field(
        "auto", description="add mirrored copies of the synthetic images; auto: the paper's table"
    )
    lr_syn: float = Field(3e-4, gt=0, description="LAMB's rate on images and labels")
    lr_syn_final: float = Field(0.1, ge=0, le=1, description="share of lr_syn that the cosine ends at")
    real_batch: int = Field(1024, ge=1, description="real images per member and round")
    ridge: float = Field(
        1e-6, gt=0, description="ridge of the kernel regression, in units of the Gram matrix's mean trace"
    )
    pool_size: int = Field(10, ge=1)
    models_per_round: int = Field(1, ge=1, description="pool members that give a gradient in a round; published: 1")
    max_online_updates: int = Field(100, ge=1)
    lr_net: float = Field(3e-4, gt=0, description="Adam's rate on a pool member")
    online_batch: int = Field(
        1000, ge=1, description="synthetic images in a member's training step; all where there are fewer"
    )
    chunk: int = Field(1000, ge=1, description="images in one forward pass; bounds memory, and is part of the numerics")

    def resolved(self, facts: DataFacts) -> Self:
        """Fill the flip by the paper's table; see the base class."""
        if self.models_per_round > self.pool_size:
            raise ConfigError(
                f"method.models_per_round must be <= method.pool_size ({self.pool_size}), got {self.models_per_round}"
            )
        if self.flip != "auto":
            return self
        never = facts.handwritten or facts.name == "imagenet"
        only_one = facts.name in {"cifar100", "tiny-imagenet"}
        return self.model_copy(update={"flip": not never and not (only_one and self.ipc > 1)})

    def default_zca(self, facts: DataFacts) -> str | None:
        """Whiten colour images, as the paper does on everything but MNIST and FashionMNIST."""
        return "frepo" if facts.channels == 3 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """A method's announcement, free of torch.

    Attributes:
        config: Its config model; the method's name is the default of the model's field `name`.
        implementation: Where its class is, as `package.module:Class`.
        paper: Authors, venue and year.
        learns: What its variables are, in a few words.
        slots: What one of its slots is, in a few words.
    """

    config: type[MethodConfig]
    implementation: str
    paper: str
    learns: str
    slots: str

    @property
    def name(self) -> str:
        """The name in `method.name`."""
        return str(self.config.model_fields["name"].default)


BUILT_IN = (
    MethodSpec(
        config=DMConfig,
        implementation="raydd.methods.dm:DM",
        paper="Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023",
        learns="images",
        slots="block of classes",
    ),
    MethodSpec(
        config=FRePoConfig,
        implementation="raydd.methods.frepo:FRePo",
        paper="Zhou, Nezhadarya & Ba, Dataset Distillation using Neural Feature Regression, NeurIPS 2022",
        learns="images and soft labels",
        slots="member of the model pool",
    ),
    MethodSpec(
        config=RandomConfig,
        implementation="raydd.methods.coresets:Random",
        paper="baseline",
        learns="nothing: real images",
        slots="none",
    ),
)


@cache
def methods() -> dict[str, MethodSpec]:
    """Return every method by name: raydd's own, then third parties' from the entry-point group `raydd.methods`."""
    found = {spec.name: spec for spec in BUILT_IN}
    for entry in entry_points(group="raydd.methods"):
        spec = entry.load()
        found.setdefault(spec.name, spec)
    return found
