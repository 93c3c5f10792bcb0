"""Kernel ridge regression on network features: FRePo's predictor.

Zhou, Nezhadarya & Ba, "Dataset Distillation using Neural Feature Regression", NeurIPS 2022, Eq. (2) and Algorithm 1.
The ridge is a share of the mean of the kernel's diagonal, as in the authors' code, so that it does not depend on the
scale of the features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def krr_predict(f_syn: Tensor, y_syn: Tensor, f_target: Tensor, ridge: float = 1e-6) -> Tensor:
    """Predict labels of targets: `K_ts (K_ss + lambda I)^-1 y_syn`, with `lambda = ridge * trace(K_ss) / m`.

    Differentiable in all three tensors.

    Args:
        f_syn: Features of the synthetic images `(m, d)`, float32 or float64; the sum is done in their dtype.
        y_syn: Their labels `(m, c)`, same dtype.
        f_target: Features of the targets `(b, d)`, same dtype.
        ridge: Relative regularisation, > 0.

    Returns:
        Predictions `(b, c)`; all NaN if the kernel is not positive definite in this precision, without waiting for the
        device to find out.
    """
    # In this order no (b, m) kernel is made, and the cost does not grow with b * m.
    return f_target @ krr_weights(f_syn, y_syn, ridge)


def krr_weights(f_syn: Tensor, y_syn: Tensor, ridge: float = 1e-6) -> Tensor:
    """Return `f_syn^T (K_ss + lambda I)^-1 y_syn`, `(d, c)`: what features of targets are multiplied with; see `krr_predict`."""
    kernel = f_syn @ f_syn.T
    shift = ridge * kernel.diagonal().mean()
    factor, info = torch.linalg.cholesky_ex(
        kernel + shift * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    )
    # A failed factorisation is only reported in `info`; what it leaves in `factor` looks like numbers.
    factor = torch.where(info == 0, factor, torch.nan)
    return f_syn.T @ torch.cholesky_solve(y_syn, factor)
