"""The label-robust and the augmentation-robust score: how much of an accuracy is the images'.

Li et al., "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025. With accuracies as fractions:

    HLR  = acc(real, hard labels) - acc(set, hard labels)             what hard labels lose
    IOR  = acc(set, its own recipe) - acc(random, the same recipe)    what is gained over random images
    LRS  = f(w IOR - (1 - w) HLR),   w = 1/2
    ARS  = f(g (set - random, augmented) + (1 - g) (set - random, not augmented)),   g = 1/2
    f(a) = (e^a - e^-1) / (e - e^-1), which takes [-1, 1] to [0, 1]

Deviations from the published tool (v0.2.0), which are its errors:

1. Accuracies are fractions, as the formula means them; the tool puts percent into it, and its scores leave [0, 1].
2. The whole set is trained on for its own length, not for that of the synthetic set.
3. The rates of the set and of random images are chosen in the same way, and on validation images; the tool searches the
   random images' only, and on the test set.

What is not the set's own recipe is the protocol `fair` here: the whole set and the set's hard labels with augmentation,
and the four accuracies of ARS. Soft labels become hard as their strongest class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate.request import Request
from raydd.evaluate.results import Accuracy

FAIR = "fair"
STEP = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Robustness:
    """The scores of one set and what they are made of, all as fractions.

    Attributes:
        set: The set, as results call it.
        lrs: Label-robust score in [0, 1]; the higher the better.
        ars: Augmentation-robust score in [0, 1].
        hard_label_loss: HLR.
        gain_over_random: IOR.
        augmented_gain: Set over random images, both trained with augmentation.
        plain_gain: The same without.
        lrs_std: Deviation of the label-robust score, as those of the accuracies, taken to be independent, make it; None
            where one of them is of a single network, and in older records.
        ars_std: Likewise of the augmentation-robust score.
    """

    set: str | None
    lrs: float
    ars: float
    hard_label_loss: float
    gain_over_random: float
    augmented_gain: float
    plain_gain: float
    lrs_std: float | None = None
    ars_std: float | None = None

    def to_json(self) -> dict[str, str | float | None]:
        """Return it as plain data."""
        return asdict(self)


def label_robust_score(
    *, real_hard: float, syn_hard: float, syn_own: float, random_own: float, weight: float = 0.5
) -> float:
    """Return LRS in [0, 1].

    Args:
        real_hard: Accuracy of networks trained on the whole real set with hard labels, a fraction.
        syn_hard: On the set with hard labels.
        syn_own: On the set by its own recipe.
        random_own: On as many random real images by the same recipe.
        weight: Of IOR, in [0, 1]; HLR has the rest.

    Raises:
        ConfigError: When something is no fraction.
    """
    _check(real_hard=real_hard, syn_hard=syn_hard, syn_own=syn_own, random_own=random_own, weight=weight)
    return normalised(weight * (syn_own - random_own) - (1 - weight) * (real_hard - syn_hard))


def augmentation_robust_score(
    *, syn_augmented: float, random_augmented: float, syn_plain: float, random_plain: float, weight: float = 0.5
) -> float:
    """Return ARS in [0, 1].

    Args:
        syn_augmented: Accuracy of networks trained on the set with augmentation, a fraction.
        random_augmented: On as many random real images with it.
        syn_plain: On the set without.
        random_plain: On random real images without.
        weight: Of the augmented pair, in [0, 1]; the other has the rest.

    Raises:
        ConfigError: When something is no fraction.
    """
    _check(
        syn_augmented=syn_augmented,
        random_augmented=random_augmented,
        syn_plain=syn_plain,
        random_plain=random_plain,
        weight=weight,
    )
    return normalised(weight * (syn_augmented - random_augmented) + (1 - weight) * (syn_plain - random_plain))


def normalised(alpha: float) -> float:
    """Return `(e^alpha - e^-1) / (e - e^-1)`: -1 becomes 0 and 1 becomes 1."""
    return (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))


def _check(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} must be a fraction between 0 and 1, got {value:g}; divide percent by 100")


def robust_requests(request: Request) -> list[Request]:
    """Return what must be scored for a set's robustness: by the protocol `fair`, with hard labels, by its own recipe.

    Args:
        request: The set, its name, at most one network, and further baselines.

    Raises:
        ConfigError: When it asks for several networks, or for a protocol.
    """
    if len(request.nets or ()) > 1 or request.grid:
        raise ConfigError("robust scores are of one network, got several; name one")
    if request.protocol is not None or tuple(request.predictors) != ("train",):
        raise ConfigError("robust scores choose protocols and predictors themselves, got one; leave it out")
    ds, baselines = request.ds, dict.fromkeys(["random", *request.baselines, "whole"])
    wanted = [replace(request, protocol=FAIR, baselines=tuple(baselines))]
    bare = replace(request, baselines=(), coresets={})
    if ds.labels.ndim == 2:
        wanted.append(replace(bare, protocol=FAIR, ds=_hardened(ds)))
    return [*wanted, replace(bare, protocol=ds.recipe.protocol, baselines=("random",))]


def _hardened(ds: DistilledSet) -> DistilledSet:
    recipe = replace(ds.recipe, label_kind="hard", label_convention="the strongest class of soft labels")
    return replace(ds, labels=ds.targets, recipe=recipe)


def robustness(results: Sequence[Accuracy]) -> list[Robustness]:
    """Return the scores of every set of which `results` hold all that `robust_requests` asked for."""
    return [_robustness([r for r in results if r.set == name]) for name in dict.fromkeys(r.set for r in results)]


def _robustness(results: Sequence[Accuracy]) -> Robustness:
    fair = [r for r in results if r.protocol == FAIR]
    own = [r for r in results if r.protocol != FAIR] or [r for r in fair if r.augment]
    augmented, plain = [r for r in fair if r.augment], [r for r in fair if not r.augment]
    pairs = {
        "syn_augmented": _first(augmented, "distilled"),
        "random_augmented": _first(augmented, "random"),
        "syn_plain": _first(plain, "distilled"),
        "random_plain": _first(plain, "random"),
    }
    hard = {
        "real_hard": _first(augmented, "whole"),
        "syn_hard": _first([r for r in augmented if r.labels == "hard"], "distilled"),
        "syn_own": _first(own, "distilled"),
        "random_own": _first(own, "random"),
    }
    lrs, lrs_std = _scored(label_robust_score, hard)
    ars, ars_std = _scored(augmentation_robust_score, pairs)
    mean = {name: result.mean / 100 for name, result in (hard | pairs).items()}
    return Robustness(
        set=results[0].set,
        lrs=lrs,
        ars=ars,
        hard_label_loss=mean["real_hard"] - mean["syn_hard"],
        gain_over_random=mean["syn_own"] - mean["random_own"],
        augmented_gain=mean["syn_augmented"] - mean["random_augmented"],
        plain_gain=mean["syn_plain"] - mean["random_plain"],
        lrs_std=lrs_std,
        ars_std=ars_std,
    )


def _scored(function: Callable[..., float], results: Mapping[str, Accuracy]) -> tuple[float, float | None]:
    """Return a score of accuracies, and its deviation to first order; None for single networks."""
    means = {name: result.mean / 100 for name, result in results.items()}
    score, variance = function(**means), 0.0
    for name, result in results.items():
        step = STEP if means[name] < 0.5 else -STEP
        slope = (function(**{**means, name: means[name] + step}) - score) / step
        variance += (slope * result.std / 100) ** 2
    return score, math.sqrt(variance) if all(result.repeats > 1 for result in results.values()) else None


def _first(results: Sequence[Accuracy], of: str) -> Accuracy:
    """Return the first accuracy of a kind; the results of the set's own labels come before those of hard ones."""
    return next(r for r in results if r.of == of)
