"""Config of DD."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt

from raydd.config.base import Auto, DataFacts
from raydd.config.methods.unrolled import UnrolledConfig
from raydd.errors import ConfigError

MOST_STEPS = 10


class DDConfig(UnrolledConfig):
    """Dataset distillation (Wang, Zhu, Torralba and Efros, 2018)."""

    default_protocol: ClassVar[str] = "dd"

    name: Literal["dd"] = "dd"
    ipc: int = Field(10, ge=1, description="images per class, over all inner steps")
    rounds: int = Field(19_600, ge=1, description="updates; the paper's 400 epochs of 50,000 real images")
    init: Literal["noise", "real"] = "noise"
    net_init: Literal["random", "fixed"] = Field(
        "random", description="networks that the set is for: any random one, or a single one that goes with the set"
    )
    init_from: str | None = Field(
        None,
        description="URL of a list of trained networks that steps start from, as `raydd app adapt` writes it: the first with "
        "net_init fixed, else drawn; null: drawn by the Xavier-normal law",
    )
    inner_steps: PositiveInt | Auto = Field(
        "auto", description="steps, each on images of its own; auto: the most, up to 10, that share ipc evenly"
    )
    inner_epochs: int = Field(3, ge=1, description="passes over the steps; each pass has step sizes of its own")
    lr_inner: PositiveFloat | Auto = Field(
        "auto", description="where step sizes start; auto: 0.001 on CIFAR-10, else 0.02"
    )
    lr_syn: float = Field(0.01, gt=0, description="Adam's rate on images and step sizes")
    beta1_syn: float = Field(0.5, ge=0, lt=1, description="Adam's first beta")
    decay_epochs: int = Field(
        40, ge=1, description="passes over the real images after which lr_syn halves, again and again"
    )
    real_batch: int = Field(1024, ge=1, description="real images a round")
    augment: Literal["crop_flip"] | Auto | None = Field(
        "auto", description="of the real images: reflected border, crop, mirror; auto: on CIFAR-10 only; null: none"
    )
    learn_labels: bool = Field(False, description="learn soft labels too; not in the paper")

    def resolved(self, facts: DataFacts) -> Self:
        """Fill steps, step sizes and augmentation; see the base class."""
        steps = self.inner_steps
        if steps == "auto":
            steps = max(n for n in range(1, MOST_STEPS + 1) if self.ipc % n == 0)
        if self.ipc % steps:
            raise ConfigError(
                f"method.ipc must be a multiple of method.inner_steps ({steps}), since every step has as many images a class, "
                f"got {self.ipc}"
            )
        cifar10 = facts.name == "cifar10"
        update: dict[str, Any] = {"inner_steps": steps}
        if self.lr_inner == "auto":
            update["lr_inner"] = 0.001 if cifar10 else 0.02
        if self.augment == "auto":
            update["augment"] = "crop_flip" if cifar10 else None
        return self.model_copy(update=update)
