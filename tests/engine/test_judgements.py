"""Bad luck, or a run that cannot go on?"""

from __future__ import annotations

import errno

import pytest
import torch

from raydd.engine import faults
from raydd.engine.faults import Doubts, Losses, NotFinite, WorkersLost, explain, out_of_memory
from raydd.engine.numerics import differences, versions
from raydd.errors import EngineError


def test_losses_of_one_round() -> None:
    losses = Losses()
    for _ in range(faults.MOST_LOSSES_OF_A_ROUND - 1):
        losses.count(WorkersLost("gone"), 7, 4)
    losses.count(WorkersLost("gone"), 8, 4)
    with pytest.raises(
        EngineError, match=r"lost workers 6 times since .*, 5 times in round 7 \(last: gone\); .* memory"
    ):
        losses.count(WorkersLost("gone"), 7, 4)


def test_losses_with_progress_are_no_end() -> None:
    losses = Losses()
    for round in range(100):
        losses.count(WorkersLost("gone"), round, round // 10)


def test_losses_in_ever_other_rounds_end_too() -> None:
    losses = Losses()
    for round in range(faults.MOST_LOSSES_OF_A_CHECKPOINT - 1):
        losses.count(WorkersLost("gone"), round, None)
    with pytest.raises(EngineError, match="lost workers 20 times since the last checkpoint"):
        losses.count(WorkersLost("gone"), 99, None)


def test_not_finite_is_asked_again_once() -> None:
    doubts = Doubts()
    for slot in (2, 3):
        with pytest.raises(NotFinite, match=f"slot {slot} gave NaN or infinity in round 7"):
            doubts.meet(7, slot, workers=2)
    with pytest.raises(EngineError, match=r"slot 2 gave NaN or infinity in round 7, on another worker as well; lower"):
        doubts.meet(7, 2, workers=2)
    with pytest.raises(EngineError, match=r"slot 3 gave NaN or infinity in round 7; lower method.lr_syn"):
        doubts.meet(7, 3, workers=1)
    with pytest.raises(EngineError, match=r"slot 9 gave NaN or infinity in round 1; lower"):
        doubts.meet(1, 9, workers=0)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
        (None, False),
    ],
)
def test_out_of_memory(error: BaseException | None, memory: bool) -> None:
    assert out_of_memory(error) == memory


def test_explanations_are_one_line() -> None:
    error = explain(ValueError("\n  first line\nsecond"), "worker 7 at here", "round 3")
    assert str(error) == (
        "worker 7 at here failed at round 3 (ValueError: first line); this is a fault in raydd or the method. "
        "The last checkpoint is kept"
    )
    assert error.exit_code == 1
    assert str(explain(MemoryError(), "this process", "round 3")).startswith(
        "this process ran out of memory at round 3 (no message); give workers more memory"
    )


def test_workers_of_another_kind() -> None:
    here = versions()
    assert differences(here) == []
    assert differences({**here, "device": "NVIDIA", "torch": "1.0"}) == [f"torch is 1.0 there, {here['torch']} here"]
