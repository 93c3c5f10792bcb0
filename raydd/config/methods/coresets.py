"""Configs of the coresets: sets of real images, or means of them, chosen rather than learned."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raydd.config.methods.base import MethodConfig


class CoresetConfig(MethodConfig):
    """What is chosen at once, without rounds."""

    # The published accuracies of coresets are the DC paper's.
    default_protocol: ClassVar[str] = "dc"
    iterative: ClassVar[bool] = False

    name: str
    rounds: int = Field(0, ge=0, le=0, description="a coreset has none")


class TrainedCoresetConfig(CoresetConfig):
    """What is chosen by a network that was trained on the whole set."""

    epochs: int = Field(20, ge=1, description="passes of that network over the whole set; cosine to zero")
    batch: int = Field(256, ge=1, description="images of a training step, and of one forward pass")
    lr_net: float = Field(0.01, gt=0, description="SGD's rate at the start; momentum 0.9, weight decay 5e-4")


class RandomConfig(CoresetConfig):
    """Random real images, `ipc` a class, without replacement: the baseline that every method must beat."""

    name: Literal["random"] = "random"


class HerdingConfig(TrainedCoresetConfig):
    """Real images whose mean in feature space stays nearest to their class's (Welling, ICML 2009)."""

    name: Literal["herding"] = "herding"


class KCenterConfig(TrainedCoresetConfig):
    """Real images that leave no image of their class far away in feature space (Sener and Savarese, ICLR 2018)."""

    name: Literal["kcenter"] = "kcenter"


class ForgettingConfig(TrainedCoresetConfig):
    """Real images that a network forgets most often while it is trained (Toneva et al., ICLR 2019)."""

    name: Literal["forgetting"] = "forgetting"


class KMeansConfig(CoresetConfig):
    """The centroids of each class's pixels (a baseline of Wang et al., Dataset Distillation, 2018)."""

    name: Literal["kmeans"] = "kmeans"
    restarts: int = Field(10, ge=1, description="runs of k-means; the one of the least inertia is kept")


class AverageConfig(CoresetConfig):
    """The mean image of each class (a baseline of Wang et al., Dataset Distillation, 2018)."""

    name: Literal["average"] = "average"
    ipc: int = Field(1, ge=1, le=1, description="images per class: a class has one mean")


class OptimisedConfig(CoresetConfig):
    """The best of many random sets, by training on them (a baseline of Wang et al., Dataset Distillation, 2018)."""

    name: Literal["optimised"] = "optimised"
    candidates: int = Field(20, ge=1, description="random sets that a network is trained on")
    judges: int = Field(5000, ge=1, description="training images that score them and are in none of them, at most")
    epochs: int = Field(100, ge=1, description="passes of a network over a set")
    batch: int = Field(256, ge=1, description="images of a training step, and of one forward pass")
    lr_net: float = Field(0.01, gt=0, description="SGD's rate; momentum 0.9, weight decay 5e-4")
