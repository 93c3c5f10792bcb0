"""One config model per method, a file for each family, and the list of methods that there are.

A method is announced here without torch; its arithmetic stands in `raydd/methods/`. Third parties announce
theirs through the entry-point group `raydd.methods`, whose entries are `MethodSpec` objects.
"""

from __future__ import annotations

import logging
from functools import cache
from importlib.metadata import entry_points

from raydd.config.methods.base import MethodConfig, MethodSpec
from raydd.config.methods.coresets import (
    AverageConfig,
    ForgettingConfig,
    HerdingConfig,
    KCenterConfig,
    KMeansConfig,
    OptimisedConfig,
    RandomConfig,
)
from raydd.config.methods.dc import DCConfig, DSAConfig
from raydd.config.methods.dd import DDConfig
from raydd.config.methods.dm import DMConfig, MMDConfig
from raydd.config.methods.frepo import FRePoConfig
from raydd.config.methods.rtp import RTPConfig

__all__ = [
    "BUILT_IN",
    "DCConfig",
    "DDConfig",
    "DMConfig",
    "DSAConfig",
    "FRePoConfig",
    "MethodConfig",
    "MethodSpec",
    "RTPConfig",
    "RandomConfig",
    "methods",
]

_log = logging.getLogger("raydd")

BUILT_IN = (
    MethodSpec(
        config=DDConfig,
        implementation="raydd.methods.dd:DD",
        paper="Wang, Zhu, Torralba & Efros, Dataset Distillation, 2018",
        learns="images and step sizes",
        slots="sampled network",
    ),
    MethodSpec(
        config=DCConfig,
        implementation="raydd.methods.dc:DC",
        paper="Zhao, Mopuri & Bilen, Dataset Condensation with Gradient Matching, ICLR 2021",
        learns="images",
        slots="block of classes at a network",
    ),
    MethodSpec(
        config=DSAConfig,
        implementation="raydd.methods.dc:DSA",
        paper="Zhao & Bilen, Dataset Condensation with Differentiable Siamese Augmentation, ICML 2021",
        learns="images",
        slots="block of classes at a network",
    ),
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
        config=RTPConfig,
        implementation="raydd.methods.rtp:RTP",
        paper="Deng & Russakovsky, Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks, "
        "NeurIPS 2022",
        learns="bases and addressing matrices",
        slots="sampled network",
    ),
    MethodSpec(
        config=RandomConfig,
        implementation="raydd.methods.coresets:Random",
        paper="baseline",
        learns="nothing: real images",
        slots="none",
    ),
    MethodSpec(
        config=HerdingConfig,
        implementation="raydd.methods.coresets:Herding",
        paper="Welling, Herding Dynamical Weights to Learn, ICML 2009",
        learns="nothing: real images",
        slots="none",
    ),
    MethodSpec(
        config=KCenterConfig,
        implementation="raydd.methods.coresets:KCenter",
        paper="Sener & Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018",
        learns="nothing: real images",
        slots="none",
    ),
    MethodSpec(
        config=ForgettingConfig,
        implementation="raydd.methods.coresets:Forgetting",
        paper="Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, ICLR 2019",
        learns="nothing: real images",
        slots="none",
    ),
    MethodSpec(
        config=KMeansConfig,
        implementation="raydd.methods.coresets:KMeans",
        paper="baseline of Wang et al., Dataset Distillation, 2018",
        learns="nothing: centroids of real images",
        slots="none",
    ),
    MethodSpec(
        config=AverageConfig,
        implementation="raydd.methods.coresets:Average",
        paper="baseline of Wang et al., Dataset Distillation, 2018",
        learns="nothing: mean images",
        slots="none",
    ),
    MethodSpec(
        config=OptimisedConfig,
        implementation="raydd.methods.coresets:Optimised",
        paper="baseline of Wang et al., Dataset Distillation, 2018",
        learns="nothing: the best of many random sets",
        slots="none",
    ),
    MethodSpec(
        config=MMDConfig,
        implementation="raydd.methods.mmd:MMD",
        paper="baseline of Zhao & Bilen, Dataset Condensation with Distribution Matching, WACV 2023",
        learns="images",
        slots="block of classes",
    ),
)


@cache
def methods() -> dict[str, MethodSpec]:
    """Return every method by name: raydd's own, then third parties' from the entry-point group `raydd.methods`."""
    found = {spec.name: spec for spec in BUILT_IN}
    for entry in entry_points(group="raydd.methods"):
        spec = entry.load()
        if spec.name in found:
            _log.warning("the method %s of %s is left out: there is one of that name", spec.name, entry.value)
        found.setdefault(spec.name, spec)
    return found
