"""Networks of one kind trained side by side as one wide network, so that a step is a few large kernels.

Networks that `fold` does not know, such as announced ones, are trained one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raydd.functional.fold import fold, fold_images, fold_states, unfold_states
from raydd.functional.recipe import TrainRecipe
from raydd.functional.train import LOSSES, Augment, Batches, Loss, check_set, init_optimiser, train, train_step
from raydd.nets import NetState
from raydd.seeding import generator

# Images times their pixels that a step sees, of all networks: 1024 images of 32 pixels. More of them fill a GPU without
# stacking, and would fill its memory.
MOST_PIXELS = 2**20


def train_group(
    module: nn.Module,
    states: Sequence[NetState],
    x: Tensor,
    y: Tensor,
    recipe: TrainRecipe,
    *,
    seeds: Sequence[int],
    augment: Augment | None = None,
) -> list[NetState]:
    """Train R networks, each as `train` would with its own seed, to rounding; a single one to the last bit.

    As many are stacked as `MOST_PIXELS` allows, which depends on the images and the batch alone.

    Args:
        module: From `raydd.nets.build`, of one network.
        states: Their numbers at the start; left as they are.
        x: Float images of each network `(R, n, C, H, W)`; `expand` makes the same images serve all of them.
        y: Their labels, int64 `(R, n)` or soft `(R, n, c)`.
        recipe: How.
        seeds: Root seeds of their shuffles and augmentations.
        augment: As in `train`; called for each network with a generator of its own.

    Returns:
        Their numbers at the end.

    Raises:
        ConfigError: There are no images, or the labels do not fit the loss.
    """
    check_set(x[0], y[0], recipe)
    trained: list[NetState] = []
    together = max(1, MOST_PIXELS // (min(recipe.batch, x.shape[1]) * x.shape[3] * x.shape[4]))
    for first in range(0, len(states), together):
        part = slice(first, first + together)
        trained += _train_folded(module, states[part], x[part], y[part], recipe, seeds[part], augment)
    return trained


def _train_folded(
    module: nn.Module,
    states: Sequence[NetState],
    x: Tensor,
    y: Tensor,
    recipe: TrainRecipe,
    seeds: Sequence[int],
    augment: Augment | None,
) -> list[NetState]:
    count, images = x.shape[:2]
    wide = fold(module, count) if count > 1 else None
    if wide is None:
        every = zip(states, x, y, seeds, strict=True)
        return [train(module, state, xs, ys, recipe, seed=seed, augment=augment) for state, xs, ys, seed in every]
    state = fold_states(states)
    optim = init_optimiser(state, recipe)
    batches, loss = group_batches(x, y, recipe, seeds), _group_loss(recipe, count)
    drop = recipe.drop_step(images)
    for step in range(recipe.num_updates(images)):
        if step == drop:
            optim = init_optimiser(state, recipe)
        xs, ys = batches(step)
        if augment is not None:
            draws = [generator(seed, "augment", step) for seed in seeds]
            xs = torch.stack([augment(batch, gen) for batch, gen in zip(xs, draws, strict=True)])
        state, optim, _ = train_step(
            wide, state, optim, fold_images(xs), ys, recipe, recipe.lr_at(step, images), loss=loss
        )
    return unfold_states(state, count)


def group_batches(x: Tensor, y: Tensor, recipe: TrainRecipe, seeds: Sequence[int]) -> Batches:
    """Return the batches `(R, b, ...)` of networks, for each in the order that `epoch_batches` gives it."""
    count, images = x.shape[:2]
    length = recipe.epoch_length(images)
    networks = torch.arange(count, device=x.device)[:, None]
    order = torch.arange(images, device=x.device).expand(count, images)
    last = -1

    def batch(step: int) -> tuple[Tensor, Tensor]:
        nonlocal order, last
        epoch, place = divmod(step, length)
        if recipe.shuffle and epoch != last:
            drawn = [torch.randperm(images, generator=generator(seed, "shuffle", epoch)) for seed in seeds]
            order, last = _to(torch.stack(drawn), x.device), epoch
        chosen = order[:, place * recipe.batch : (place + 1) * recipe.batch]
        return x[networks, chosen], y[networks, chosen]

    return batch


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Move to a device without waiting for what it still does; copies from pageable memory would."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _group_loss(recipe: TrainRecipe, count: int) -> Loss:
    """Return the sum over networks of the recipe's loss, of folded logits `(b, R * c)` and labels `(R, b, ...)`."""
    one = LOSSES[recipe.loss]

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        each = logits.unflatten(1, (count, -1)).transpose(0, 1)
        # The mean over all images of all networks, which have equally many, times networks.
        return count * one(each.flatten(0, 1), y.flatten(0, 1))

    return loss
