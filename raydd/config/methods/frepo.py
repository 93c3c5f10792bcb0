"""Config of FRePo."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field

from raydd.config.base import Auto, DataFacts
from raydd.config.methods.base import MethodConfig
from raydd.errors import ConfigError


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
        never = facts.handwritten or facts.name in {"fashion-mnist", "imagenet"}
        only_one = facts.name in {"cifar100", "tiny-imagenet"}
        return self.model_copy(update={"flip": not never and not (only_one and self.ipc > 1)})

    def default_zca(self, facts: DataFacts) -> str | None:
        """Whiten colour images, as the paper does on everything but MNIST and FashionMNIST."""
        return "frepo" if facts.channels == 3 else None
