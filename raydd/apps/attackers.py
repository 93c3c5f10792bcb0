"""Membership inference: was an image among those that a network has to do with, by what the network says of it?

The five attackers of Zhou et al., "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, Section 5 (there those of
TensorFlow Privacy): a threshold on the loss, logistic regression, a multi-layer perceptron, a random forest and nearest
neighbours, here scikit-learn's with settings that are fixed. All but the threshold learn from one half of members and
non-members, by logits, loss and label, each brought to mean 0 and deviation 1 on that half, and are scored on the other half. A
threshold learns nothing: its area under the curve is that of the loss itself, over all images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from raydd.seeding import derive, generator

LEARNERS: dict[str, Callable[[int, int], Any]] = {  # of a seed and the number of images to learn from
    "logistic regression": lambda seed, _: LogisticRegression(max_iter=1000, random_state=seed),
    "mlp": lambda seed, _: MLPClassifier((64,), alpha=1e-3, max_iter=100, random_state=seed),
    "random forest": lambda seed, _: RandomForestClassifier(100, min_samples_leaf=5, random_state=seed),
    "nearest neighbours": lambda _, images: KNeighborsClassifier(min(15, images)),
}
STOPPED = "Training interrupted by user"
ATTACKERS = ("threshold", *LEARNERS)


def attack(
    members: tuple[np.ndarray, np.ndarray, np.ndarray],
    others: tuple[np.ndarray, np.ndarray, np.ndarray],
    seed: int,
) -> dict[str, float]:
    """Return what each attacker reaches, as the area under its receiver operating characteristic; 0.5 is chance.

    Args:
        members: Of each member what the network says: logits `(n, classes)`, losses `(n,)` and its labels, int64 `(n,)`.
        others: The same of images that the network has nothing to do with.
        seed: Names the halves and whatever an attacker draws.
    """
    losses = np.concatenate([members[1], others[1]])
    truth = np.repeat([1, 0], [len(members[1]), len(others[1])])
    features = np.concatenate([_features(*members), _features(*others)])
    learn = np.concatenate([_half(len(side[1]), seed, i) for i, side in enumerate((members, others))])
    found = {"threshold": float(roc_auc_score(truth, -losses))}
    # A library's own threads would change the order of sums.
    with threadpool_limits(1), warnings.catch_warnings():
        # An attacker that has not settled is an attacker still.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("error", STOPPED)
        for name, make in LEARNERS.items():
            # What scikit-learn takes is 32 bits wide.
            attacker = make_pipeline(StandardScaler(), make(derive(seed, "attacker", name) % 2**32, int(learn.sum())))
            _fit(attacker, features[learn], truth[learn])
            found[name] = float(roc_auc_score(truth[~learn], attacker.predict_proba(features[~learn])[:, 1]))
    return found


def _fit(attacker: Any, features: np.ndarray, truth: np.ndarray) -> None:
    """Train an attacker; scikit-learn takes an interrupt for the end of a training, and its numbers would be kept."""
    try:
        attacker.fit(features, truth)
    except UserWarning as warning:
        if STOPPED in str(warning):
            raise KeyboardInterrupt from None
        raise


def _features(logits: np.ndarray, losses: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what an attacker sees of each image, float64 `(n, 2 * classes + 1)`."""
    return np.column_stack([logits, losses, np.eye(logits.shape[1])[labels]]).astype(np.float64)


def _half(count: int, seed: int, side: int) -> np.ndarray:
    """Return which of `count` images an attacker learns from: half of them, bool `(count,)`."""
    chosen = np.zeros(count, dtype=bool)
    chosen[torch.randperm(count, generator=generator(seed, "attack-half", side)).numpy()[: count // 2]] = True
    return chosen
