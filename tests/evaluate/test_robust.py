from __future__ import annotations

import math
from dataclasses import replace

import pytest

from raydd.errors import ConfigError
from raydd.evaluate import Accuracy, Request, robust_requests, robustness
from raydd.evaluate.robust import augmentation_robust_score, label_robust_score, normalised

E = math.e


def test_the_ends_and_the_middle_by_hand():
    assert normalised(-1) == 0
    assert normalised(1) == pytest.approx(1)
    # (1 - 1/e) / (e - 1/e) = 1 / (e + 1).
    assert normalised(0) == pytest.approx(1 / (E + 1))


def test_lrs_by_hand():
    # The worst there is: nothing over random images, everything lost to hard labels; and the best.
    assert label_robust_score(real_hard=1, syn_hard=0, syn_own=0, random_own=1) == pytest.approx(0)
    assert label_robust_score(real_hard=0, syn_hard=1, syn_own=1, random_own=0) == pytest.approx(1)
    # IOR = .5, HLR = .3, alpha = .25 - .15 = .1.
    expected = (E**0.1 - 1 / E) / (E - 1 / E)
    assert label_robust_score(real_hard=0.8, syn_hard=0.5, syn_own=0.7, random_own=0.2) == pytest.approx(expected)
    # All weight on IOR.
    expected = (E**0.5 - 1 / E) / (E - 1 / E)
    found = label_robust_score(real_hard=0.8, syn_hard=0.5, syn_own=0.7, random_own=0.2, weight=1)
    assert found == pytest.approx(expected)


def test_ars_by_hand():
    assert augmentation_robust_score(syn_augmented=0, random_augmented=1, syn_plain=0, random_plain=1) == pytest.approx(
        0
    )
    # beta = .5 * .3 + .5 * -.1 = .1.
    found = augmentation_robust_score(syn_augmented=0.6, random_augmented=0.3, syn_plain=0.3, random_plain=0.4)
    assert found == pytest.approx((E**0.1 - 1 / E) / (E - 1 / E))
    found = augmentation_robust_score(
        syn_augmented=0.6, random_augmented=0.3, syn_plain=0.3, random_plain=0.4, weight=0
    )
    assert found == pytest.approx((E**-0.1 - 1 / E) / (E - 1 / E))


def test_percent_is_refused():
    expected = r"real_hard must be a fraction between 0 and 1, got 46.4; divide percent by 100"
    with pytest.raises(ConfigError, match=expected):
        label_robust_score(real_hard=46.4, syn_hard=0.5, syn_own=0.7, random_own=0.2)
    with pytest.raises(ConfigError, match=r"random_plain must be a fraction .*, got -0.1"):
        augmentation_robust_score(syn_augmented=0.6, random_augmented=0.3, syn_plain=0.3, random_plain=-0.1)
    with pytest.raises(ConfigError, match="weight must be"):
        label_robust_score(real_hard=0.4, syn_hard=0.5, syn_own=0.7, random_own=0.2, weight=2)


def result(of: str, mean: float, protocol: str = "fair", *, labels: str = "hard", augmented: bool = True) -> Accuracy:
    return Accuracy(
        of=of,
        protocol=protocol,
        net="convnet",
        mean=mean,
        std=0.0,
        repeats=1,
        each=[mean],
        images=1,
        storage_bytes=1,
        set="s",
        labels=labels,
        augment="dsa:color" if augmented else None,
    )


def test_scores_of_results_by_hand():
    results = [
        result("distilled", 60, labels="soft"),
        result("distilled", 30, labels="soft", augmented=False),
        result("random", 30),
        result("random", 40, augmented=False),
        result("whole", 80),
        result("whole", 75, augmented=False),
        result("distilled", 50, labels="hard"),
        result("distilled", 45, labels="hard", augmented=False),
        result("distilled", 70, "frepo", labels="soft"),
        result("random", 20, "frepo", labels="soft"),
    ]
    (found,) = robustness(results)
    assert found.set == "s"
    assert found.hard_label_loss == pytest.approx(0.3)
    assert found.gain_over_random == pytest.approx(0.5)
    assert (found.augmented_gain, found.plain_gain) == pytest.approx((0.3, -0.1))
    assert (found.lrs, found.ars) == pytest.approx(((E**0.1 - 1 / E) / (E - 1 / E),) * 2)


def test_deviations_of_scores_by_hand():
    """The slope of (e^a - 1/e) / (e - 1/e) is e^a / (e - 1/e), and a is half the sum of four accuracies with their signs."""
    kinds = [("distilled", 60), ("random", 30), ("whole", 80)]
    fair = [result(of, mean, augmented=how) for how in (True, False) for of, mean in kinds]
    results = [replace(one, std=4.0, repeats=2) for one in fair]
    own = [replace(result(of, mean, "dsa"), std=3.0, repeats=5) for of, mean in (("distilled", 70), ("random", 20))]
    (found,) = robustness([*results, *own])
    # Of LRS: IOR = .5, HLR = .2, alpha = .15; of ARS: beta = .3.
    slopes = [E**a / (E - 1 / E) for a in (0.15, 0.3)]
    assert found.lrs_std == pytest.approx(slopes[0] * 0.5 * math.sqrt(2 * 0.03**2 + 2 * 0.04**2), rel=1e-5)
    assert found.ars_std == pytest.approx(slopes[1] * 0.5 * math.sqrt(4 * 0.04**2), rel=1e-5)
    (single,) = robustness([*fair, *own])
    assert (single.lrs_std, single.ars_std) == (None, None)


def test_what_is_asked_for(make_set):
    soft = make_set(soft=True)
    fair, hard, own = robust_requests(Request(ds=soft, name="s", baselines=("herding",)))
    assert (fair.protocol, tuple(fair.baselines)) == ("fair", ("random", "herding", "whole"))
    assert (hard.protocol, tuple(hard.baselines), hard.ds.labels.tolist()) == ("fair", (), [0, 1, 2])
    assert (own.protocol, tuple(own.baselines), own.ds) == ("dsa", ("random",), soft)
    # Hard labels need no network more.
    assert [r.protocol for r in robust_requests(Request(ds=make_set()))] == ["fair", "dsa"]


def test_what_cannot_be_asked_for(make_set):
    with pytest.raises(ConfigError, match="robust scores are of one network, got several"):
        robust_requests(Request(ds=make_set(), nets=["convnet", "mlp"]))
    with pytest.raises(ConfigError, match="robust scores choose protocols and predictors themselves"):
        robust_requests(Request(ds=make_set(), protocol="dc"))
