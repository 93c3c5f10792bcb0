"""The one training loop: a network on a distilled set, on real images, or on a stream of batches.

Every draw is keyed by (seed, purpose, indices, epoch or step), so that a training is a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from raydd.errors import ConfigError
from raydd.functional import losses
from raydd.functional.optim import OptimState, adam_init, adam_step, sgd_init, sgd_step
from raydd.functional.recipe import TrainRecipe
from raydd.nets import NetState, apply
from raydd.seeding import generator

Batches = Callable[[int], tuple[Tensor, Tensor]]
Augment = Callable[[Tensor, torch.Generator], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Look = Callable[[int, NetState], None]

LOSSES: dict[str, Loss] = {"cross_entropy": losses.cross_entropy, "mse": losses.mse}


def train(
    module: nn.Module,
    state: NetState,
    x: Tensor,
    y: Tensor,
    recipe: TrainRecipe,
    *,
    seed: int,
    indices: tuple[int | str, ...] = (),
    augment: Augment | None = None,
    look: Look | None = None,
) -> NetState:
    """Train a network on images in memory.

    Args:
        module: From `raydd.nets.build`.
        state: Its numbers at the start; left as they are.
        x: Float images `(n, C, H, W)` on the device of the state.
        y: Labels: int64 `(n,)`, or soft `(n, c)` (the only kind for loss "mse").
        recipe: How.
        seed: Root seed of the shuffles and augmentations.
        indices: Tell this training from others under the same seed: repeat, network.
        augment: Called as `augment(batch, generator)` with a generator of its own every step.
        look: Called as `look(updates, state)` after every update, with how many are done; must leave the state as it is.

    Returns:
        The numbers at the end.

    Raises:
        ConfigError: There are no images, or the labels do not fit the loss.
    """
    check_set(x, y, recipe)
    batches = epoch_batches(x, y, recipe, seed=seed, indices=indices)
    return train_on(module, state, batches, len(x), recipe, seed=seed, indices=indices, augment=augment, look=look)


def check_set(x: Tensor, y: Tensor, recipe: TrainRecipe) -> None:
    """Check that images `(n, ...)` and labels `(n,)` or `(n, c)` can be trained on.

    Raises:
        ConfigError: There are no images, or the labels do not fit the loss.
    """
    if len(x) == 0 or len(x) != len(y):
        raise ConfigError(
            f"training takes one label an image and at least one image, got {len(x)} images, {len(y)} labels"
        )
    if recipe.loss == "mse" and y.ndim != 2:
        raise ConfigError(f"loss 'mse' takes soft labels (n, classes), got shape {tuple(y.shape)}: use centred_labels")


def train_on(
    module: nn.Module,
    state: NetState,
    batches: Batches,
    count: int,
    recipe: TrainRecipe,
    *,
    seed: int,
    indices: tuple[int | str, ...] = (),
    augment: Augment | None = None,
    loss: Loss | None = None,
    look: Look | None = None,
) -> NetState:
    """Train a network on `batches(step)`, each a pair of images and labels on the device of the state.

    Args:
        module: From `raydd.nets.build`.
        state: Its numbers at the start; left as they are.
        batches: Gives the batch of a step, from 0; asked once for each, in order.
        count: Number of images that an epoch goes over, >= 1; decides the length and the schedule.
        recipe: How. Its `shuffle` is the affair of `batches`.
        seed: As in `train`.
        indices: As in `train`.
        augment: As in `train`.
        loss: Another loss than the recipe's.
        look: As in `train`.
    """
    state = state.clone()
    optim = init_optimiser(state, recipe)
    drop = recipe.drop_step(count)
    for step in range(recipe.num_updates(count)):
        if step == drop:
            optim = init_optimiser(state, recipe)
        x, y = batches(step)
        if augment is not None:
            x = augment(x, generator(seed, "augment", *indices, step))
        state, optim, _ = train_step(module, state, optim, x, y, recipe, recipe.lr_at(step, count), loss=loss)
        if look is not None:
            look(step + 1, state)
    return state


def train_step(
    module: nn.Module,
    state: NetState,
    optim: OptimState,
    x: Tensor,
    y: Tensor,
    recipe: TrainRecipe,
    lr: float,
    *,
    loss: Loss | None = None,
) -> tuple[NetState, OptimState, Tensor]:
    """Do one update of a network in train mode.

    Args:
        module: From `raydd.nets.build`.
        state: Its numbers; the parameters are left as they are, BatchNorm's buffers are updated in place.
        optim: From `init_optimiser` or the step before.
        x: Float images `(b, C, H, W)`.
        y: Labels `(b,)` or `(b, c)`.
        recipe: Loss, optimiser, momentum and weight decay are taken from it.
        lr: Learning rate of this step.
        loss: Another loss than the recipe's.

    Returns:
        The new numbers (with the same buffers), the optimiser's new state, and the loss, a detached scalar.
    """
    params = {name: p.detach().requires_grad_() for name, p in state.params.items()}
    value = (loss or LOSSES[recipe.loss])(apply(module, params, state.buffers, x, train=True), y)
    grads = dict(zip(params, torch.autograd.grad(value, list(params.values())), strict=True))
    with torch.no_grad():
        if recipe.optimiser == "adam":
            moved, optim = adam_step(state.params, grads, optim, lr, weight_decay=recipe.weight_decay)
        else:
            decay = recipe.weight_decay
            moved, optim = sgd_step(state.params, grads, optim, lr, momentum=recipe.momentum, weight_decay=decay)
    return NetState(moved, state.buffers), optim, value.detach()


def init_optimiser(state: NetState, recipe: TrainRecipe) -> OptimState:
    """Return the state of the recipe's optimiser before its first step."""
    return adam_init(state.params) if recipe.optimiser == "adam" else sgd_init(state.params)


def epoch_batches(
    x: Tensor, y: Tensor, recipe: TrainRecipe, *, seed: int, indices: tuple[int | str, ...] = ()
) -> Batches:
    """Return the batches of images in memory, epoch after epoch; `shuffle` gives each epoch its own keyed order."""
    count, length = len(x), recipe.epoch_length(len(x))
    order = torch.arange(count, device=x.device)
    last = -1

    def batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal order, last
        epoch, place = divmod(step, length)
        if recipe.shuffle and epoch != last:
            order = torch.randperm(count, generator=generator(seed, "shuffle", *indices, epoch)).to(x.device)
            last = epoch
        chosen = slice(place * recipe.batch, (place + 1) * recipe.batch)
        return (x[order[chosen]], y[order[chosen]]) if recipe.shuffle else (x[chosen], y[chosen])

    return batch
