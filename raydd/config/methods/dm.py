"""Configs of DM, and of its form in the space of pixels."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat

from raydd.config.base import Auto, DataFacts
from raydd.config.methods.base import MethodConfig
from raydd.errors import ConfigError

DSA_STRATEGY = "color_crop_cutout_flip_scale_rotate"


def _check_strategy(strategy: str) -> str:
    known = DSA_STRATEGY.split("_")
    if not set(strategy.split("_")) <= set(known):
        raise ValueError(f"must be one or more of {', '.join(known)}, joined by '_'")
    return strategy


Strategy = Annotated[str, AfterValidator(_check_strategy)]


class MeanMatchingConfig(MethodConfig):
    """What DM and its form in the space of pixels have in common."""

    name: str
    rounds: int = Field(20_000, ge=1, description="updates of the synthetic images")
    init: Literal["real", "noise"] = "real"
    lr_syn: PositiveFloat | Auto
    momentum_syn: float = Field(0.5, ge=0, lt=1)
    real_batch: int = Field(256, ge=1, description="real images per class and round")
    classes_per_slot: int | Literal["all"] = Field(
        10, description="classes of one slot, the unit that a worker is dealt"
    )
    augment: Strategy | Auto | None = Field(
        "auto", description="DSA strategy; auto: all six, no flip on digits; null: none"
    )

    def resolved(self, facts: DataFacts) -> Self:
        """Fill the augmentation; see the base class."""
        per_slot = facts.num_classes if self.classes_per_slot == "all" else self.classes_per_slot
        if not per_slot >= 1:
            raise ConfigError(f"method.classes_per_slot must be >= 1 or all, got {self.classes_per_slot}")
        update: dict[str, Any] = {"classes_per_slot": min(per_slot, facts.num_classes)}
        if self.augment == "auto":
            update["augment"] = DSA_STRATEGY.replace("flip_", "") if facts.handwritten else DSA_STRATEGY
        return self.model_copy(update=update)


class DMConfig(MeanMatchingConfig):
    """Distribution matching (Zhao and Bilen, WACV 2023)."""

    batches_slots: ClassVar[bool] = True

    name: Literal["dm"] = "dm"
    lr_syn: PositiveFloat | Auto = Field(
        "auto", description="SGD's rate on the images; auto: 1, but 10 on CIFAR-10 from 100 images a class on"
    )

    def resolved(self, facts: DataFacts) -> Self:
        """Fill the rate as well; see the base class."""
        config = super().resolved(facts)
        if config.lr_syn != "auto":
            return config
        many = facts.name == "cifar10" and self.ipc >= 100
        return config.model_copy(update={"lr_syn": 10.0 if many else 1.0})


class MMDConfig(MeanMatchingConfig):
    """Matching of mean images: DM with pixels as features (its supplement's baseline, MMD with a linear kernel)."""

    name: Literal["mmd"] = "mmd"
    lr_syn: float = Field(0.1, gt=0, description="SGD's rate on the images")
