"""Configs of DC and DSA, the methods that match gradients."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field

from raydd.config.base import Auto, DataFacts
from raydd.config.methods.base import MethodConfig
from raydd.config.methods.dm import DSA_STRATEGY, Strategy
from raydd.errors import ConfigError

# The authors' steps of S and epochs of the network between two of them, by ipc.
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
ITERATIONS = 1000


def loops(ipc: int) -> tuple[int, int]:
    """Return (outer_loop, inner_loop) of the authors' table; of its entry nearest by ratio where `ipc` is not in it."""
    nearest = min(LOOPS, key=lambda known: (max(ipc, known) / min(ipc, known), -known))
    return LOOPS[nearest]


class GradientMatchingConfig(MethodConfig):
    """What DC and DSA have in common."""

    rounds: int = Field(0, ge=0, description="updates of the synthetic images; 0: the paper's 1000 * outer_loop")
    init: Literal["real", "noise"] = "noise"
    lr_syn: float = Field(0.1, gt=0, description="SGD's rate on the images; published with an MLP: 0.01")
    momentum_syn: float = Field(0.5, ge=0, lt=1)
    real_batch: int = Field(256, ge=1, description="real images per class and round")
    distance: Literal["layerwise", "mse", "cos"] = Field(
        "layerwise", description="of gradients; layerwise: the paper's, cosine by output unit"
    )
    outer_loop: int | Auto = Field(
        "auto", description="updates of the images with one network; auto: the authors' table by ipc, nearest by ratio"
    )
    inner_loop: int | Auto = Field(
        "auto", description="epochs that the network trains on the images between two of them; auto: as outer_loop"
    )
    lr_net: float = Field(0.01, gt=0, description="SGD's rate on the network")
    net_batch: int = Field(256, ge=1, description="synthetic images in a training step of the network")
    nets_per_round: int = Field(1, ge=1, description="networks whose gradients are averaged in a round; published: 1")
    classes_per_slot: int | Literal["all"] = Field(
        1, description="classes of one slot, the unit that a worker is dealt; changes no result"
    )

    def resolved(self, facts: DataFacts) -> Self:
        """Fill the loops, the rounds and the slots; see the base class."""
        per_slot = facts.num_classes if self.classes_per_slot == "all" else self.classes_per_slot
        if not per_slot >= 1:
            raise ConfigError(f"method.classes_per_slot must be >= 1 or all, got {self.classes_per_slot}")
        outer, inner = self.published_loops(facts)
        outer = outer if self.outer_loop == "auto" else self.outer_loop
        inner = inner if self.inner_loop == "auto" else self.inner_loop
        if outer < 1 or inner < 0:
            raise ConfigError(
                f"method.outer_loop must be >= 1 and method.inner_loop >= 0, or auto, got {outer} and {inner}"
            )
        update: dict[str, Any] = {
            "outer_loop": outer,
            "inner_loop": inner,
            "rounds": self.rounds or ITERATIONS * outer,
            "classes_per_slot": min(per_slot, facts.num_classes),
        }
        return self.model_copy(update=update)

    def published_loops(self, facts: DataFacts) -> tuple[int, int]:
        """Return the paper's (outer_loop, inner_loop)."""
        return loops(self.ipc)


class DCConfig(GradientMatchingConfig):
    """Gradient matching (Zhao, Mopuri and Bilen, ICLR 2021)."""

    default_protocol: ClassVar[str] = "dc"

    name: Literal["dc"] = "dc"


class DSAConfig(GradientMatchingConfig):
    """Gradient matching with differentiable siamese augmentation (Zhao and Bilen, ICML 2021)."""

    name: Literal["dsa"] = "dsa"
    init: Literal["real", "noise"] = "real"
    augment: Strategy | Auto | None = Field(
        "auto", description="DSA strategy; auto: all six, no flip on digits; null: none"
    )

    def resolved(self, facts: DataFacts) -> Self:
        """Fill the augmentation as well; see the base class."""
        config = super().resolved(facts)
        if config.augment != "auto":
            return config
        strategy = DSA_STRATEGY.replace("flip_", "") if facts.handwritten else DSA_STRATEGY
        return config.model_copy(update={"augment": strategy})

    def published_loops(self, facts: DataFacts) -> tuple[int, int]:
        """Return the table's loops, but for CIFAR-100 at ipc 50, where the authors gave DSA fewer."""
        return (10, 10) if facts.name == "cifar100" and self.ipc == 50 else loops(self.ipc)
