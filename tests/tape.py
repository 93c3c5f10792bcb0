"""How much autograd holds for a backward pass."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import Tensor


class _Tape:
    def __init__(self) -> None:
        self.alive = self.most = 0

    def pack(self, value: Tensor) -> _Saved:
        return _Saved(value, self)


class _Saved:
    def __init__(self, value: Tensor, tape: _Tape) -> None:
        self.value, self.tape = value, tape
        tape.alive += value.numel()
        tape.most = max(tape.most, tape.alive)

    def __del__(self) -> None:
        self.tape.alive -= self.value.numel()


def most_held(function: Callable[[], object]) -> int:
    """Call a function; return how many numbers autograd held at most at a time, those held twice counted twice."""
    tape = _Tape()
    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(tape.pack, lambda saved: saved.value):
        function()
    return tape.most
