"""MMD: the mean of synthetic images is matched to the mean of real ones, in the space of pixels.

Maximum mean discrepancy with a linear kernel (Gretton et al., "A Kernel Two-Sample Test", JMLR 2012), the baseline of Zhao and
Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, supplement, Table 1: DM (`dm.py`) whose embedding is the
identity,

    sum over classes c of  || mean A(real of c) - mean A(synthetic of c) ||^2        (a sum over the pixels)

Everything else, slots included, is DM's.

Deviations:
1. The supplement does not give the rate. A step of DM's 1.0 would overshoot under augmentations that stretch pixels; 0.1 here.
2. Those of DM.
"""

from __future__ import annotations

from torch import Tensor

from raydd.methods.dm import DM
from raydd.nets import NetState


class MMD(DM):
    """Distribution matching in the space of pixels."""

    def shared_state(self, round: int) -> NetState:
        """Return nothing: the embedding is the identity."""
        return NetState({}, {})

    @property
    def _mixed(self) -> bool:
        return False

    def _features(self, x: Tensor, embedding: NetState) -> Tensor:
        return x.flatten(1)
