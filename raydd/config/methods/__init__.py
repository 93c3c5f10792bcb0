"""One config model per method, a file each, and the list of methods that there are.

A method is announced here without torch; its arithmetic stands in `raydd/methods/`, one file each. Third parties announce
theirs through the entry-point group `raydd.methods`, whose entries are `MethodSpec` objects.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from raydd.config.methods.base import MethodConfig, MethodSpec
from raydd.config.methods.coresets import RandomConfig
from raydd.config.methods.dc import DCConfig, DSAConfig
from raydd.config.methods.dm import DMConfig
from raydd.config.methods.frepo import FRePoConfig

__all__ = [
    "BUILT_IN",
    "DCConfig",
    "DMConfig",
    "DSAConfig",
    "FRePoConfig",
    "MethodConfig",
    "MethodSpec",
    "RandomConfig",
    "methods",
]

BUILT_IN = (
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
