"""FRePo's other predictor: kernel ridge regression on the features of a network that was trained on the set.

Zhou et al., "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, Table 1, "KRR": the set is the support,
`argmax K_ts (K_ss + lambda I)^-1 y`, with the features of the trained network in the kernel and its classifier unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from raydd.errors import DataError
from raydd.functional.krr import krr_weights
from raydd.functional.losses import centred_labels
from raydd.nets import NetState, apply

CHUNK = 500


@torch.no_grad()
def krr_accuracy(
    module: nn.Module,
    state: NetState,
    x: Tensor,
    labels: Tensor,
    test: Iterable[tuple[Tensor, Tensor]],
    preprocessing: Callable[[Tensor], Tensor],
    *,
    num_classes: int,
) -> float:
    """Return the share of test images whose strongest prediction is their class, in percent.

    The regression is done in float64: at a ridge of 1e-6 the kernel of a few thousand features is as good as singular in
    float32.

    Args:
        module: From `raydd.nets.build`.
        state: A trained network's numbers.
        x: The set, float32 `(N, C, H, W)`, normalised, on the device of the state.
        labels: int64 `(N,)`, which become one-hot minus 1/C, or soft `(N, num_classes)`, which are regressed on as they are.
        test: Batches of real images and their labels int64 `(b,)`.
        preprocessing: Makes real images on that device comparable with the set's.
        num_classes: C.

    Raises:
        DataError: There are no test images.
    """

    def features(images: Tensor) -> Tensor:
        parts = [apply(module, state.params, state.buffers, part, features=True) for part in images.split(CHUNK)]
        return torch.cat(parts).double()

    y = (labels if labels.ndim == 2 else centred_labels(labels, num_classes)).to(x.device).double()
    weights = krr_weights(features(x), y)
    correct = total = 0
    for images, truth in test:
        predictions = features(preprocessing(images.to(x.device))) @ weights
        correct += int((predictions.argmax(1).cpu() == truth).sum())
        total += len(truth)
    if total == 0:
        raise DataError("expected test images to score kernel ridge regression on, got none")
    return 100.0 * correct / total
