"""Several distilled sets as one: training sets over classes that were never distilled together.

Deng & Russakovsky, "Remember the Past", NeurIPS 2022, compose tasks so from memories of other tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from raydd.config.net import read_net
from raydd.distilled import QUERY, DistilledSet
from raydd.errors import DataError, UserError
from raydd.nets import NetState, apply, build, fresh_buffers


def join(sets: Sequence[DistilledSet], classes: Sequence[str] | None = None) -> DistilledSet:
    """Put images of several sets together, so that a network can be trained on classes that were never distilled together.

    Args:
        sets: Sets with hard labels, equally normalised, without a class in common.
        classes: Names of classes, in the order of the new label indices; by default all, set by set.

    Returns:
        A set of their images, class by class, with the first set's recipe but for its classes. It is no memory itself.

    Raises:
        DataError: When a class is in none of the sets or in two, or images or labels of two sets are not alike.
    """
    first = sets[0]
    names = [name for ds in sets for name in ds.classes]
    wanted = list(names if classes is None else classes)
    wrong = next((name for name in wanted if names.count(name) != 1 or wanted.count(name) != 1), None)
    if wrong is not None:
        raise DataError(f"expected every class once, got {wrong!r} in {names.count(wrong)} of {len(sets)} sets")
    for ds in sets:
        if ds.labels.ndim != 1 or ds.images.shape[1:] != first.images.shape[1:] or not _same_transform(ds, first):
            raise DataError(
                f"expected sets with hard labels, one shape and one normalisation, got {ds.recipe.name} unlike "
                f"{first.recipe.name}; distil them with the same data.zca and data.statistics"
            )
    of = {name: ds.images[ds.labels == i] for ds in sets for i, name in enumerate(ds.classes)}
    labels = torch.arange(len(wanted)).repeat_interleave(torch.tensor([len(of[name]) for name in wanted]))
    recipe = replace(first.recipe, classes=tuple(wanted))
    images = torch.cat([of[name] for name in wanted])
    return DistilledSet(images=images, labels=labels, recipe=recipe, preprocessing=first.preprocessing)


def ask(extras: Mapping[str, Tensor], net: Mapping[str, Any], x: Tensor) -> Tensor:
    """Return the query vectors of images, for `DistilledSet.recall`: the query network's softmax over classes.

    Args:
        extras: Of a memory that was learned together with a query network (method rtp, `address: image`).
        net: The query network's config as plain data, that of the memory's run: `ds.recipe.config["net"]`.
        x: float32 `(n, C, H, W)`, normalised as `ds.transform` does.

    Returns:
        float32 `(n, classes)`.

    Raises:
        UserError: When there is no query network.
    """
    module, state = query_network(extras, net, (x.shape[1], x.shape[2], x.shape[3]))
    with torch.no_grad():
        return apply(module, state.params, state.buffers, x).softmax(1)


def query_network(
    extras: Mapping[str, Tensor], net: Mapping[str, Any], shape: tuple[int, int, int]
) -> tuple[nn.Module, NetState]:
    """Return the network that turns images into the logits of queries, and its numbers; see `ask`.

    Raises:
        UserError: When there is no query network.
    """
    params = {name.removeprefix(QUERY): value for name, value in extras.items() if name.startswith(QUERY)}
    if not params:
        raise UserError(
            "recall by image needs a memory learned with method.address image, got one without a query network"
        )
    module = build(read_net(dict(net)), shape, len(extras["addresses"]))
    return module, NetState(params, fresh_buffers(module))


def _same_transform(one: DistilledSet, other: DistilledSet) -> bool:
    mine, theirs = one.preprocessing.to_tensors(), other.preprocessing.to_tensors()
    same = mine.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in mine.items())
    return same and one.preprocessing.to_json() == other.preprocessing.to_json()
