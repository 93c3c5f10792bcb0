"""The test of DD: exactly the learned steps, in order, with the learned step sizes, on fresh networks.

Wang et al., "Dataset Distillation", 2018, Section 4: nothing else is trained, tuned or augmented.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import init_optimiser, train_step
from raydd.nets import NetState, fresh_buffers

STEP_SIZES = "lr_inner"
FIXED = "init."


def apply_steps(module: nn.Module, state: NetState, x: Tensor, y: Tensor, step_sizes: Tensor) -> NetState:
    """Train a network by the learned steps.

    Args:
        module: From `raydd.nets.build`.
        state: Its numbers at the start; left as they are.
        x: The distilled images `(N, C, H, W)`, step by step.
        y: Their labels, int64 `(N,)` or probabilities `(N, classes)`.
        step_sizes: float `(E, S)`, for each of E passes over the S steps; S divides N.
    """
    state = state.clone()
    passes, steps = step_sizes.shape
    recipe = TrainRecipe(optimiser="sgd", lr=1.0, updates=passes * steps, batch=len(x) // steps)
    images, labels = x.chunk(steps), y.chunk(steps)
    for step, rate in enumerate(step_sizes.flatten().tolist()):
        place = step % steps
        optim = init_optimiser(state, recipe)
        state, _, _ = train_step(module, state, optim, images[place], labels[place], recipe, rate)
    return state


def is_fixed(module: nn.Module, learned: Mapping[str, np.ndarray]) -> bool:
    """Return whether a set was learned for one initial network of this kind.

    Args:
        module: From `raydd.nets.build`.
        learned: The set's extras; those of the network begin with `FIXED`.
    """
    shapes = {name.removeprefix(FIXED): value.shape for name, value in learned.items() if name.startswith(FIXED)}
    fresh = NetState(dict(module.named_parameters()), fresh_buffers(module)).tensors()
    return shapes == {name: tuple(value.shape) for name, value in fresh.items()}


def with_fixed(state: NetState, fixed: dict[str, Tensor]) -> NetState:
    """Return the initial network that a set was learned for, where it is one of this kind, else the network given.

    Args:
        state: A network freshly drawn.
        fixed: The flat tensors of the set's own, as `NetState.tensors` names them; none where any network will do.
    """
    drawn = state.tensors()
    if {name: value.shape for name, value in fixed.items()} != {name: value.shape for name, value in drawn.items()}:
        return state
    return NetState.from_tensors({name: value.to(drawn[name]) for name, value in fixed.items()})
