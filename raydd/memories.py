"""Several distilled sets as one: training sets over classes that were never distilled together.

Deng & Russakovsky, "Remember the Past", NeurIPS 2022, compose tasks so from memories of other tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from raydd.distilled import DistilledSet
from raydd.errors import DataError


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


def _same_transform(one: DistilledSet, other: DistilledSet) -> bool:
    mine, theirs = one.preprocessing.to_tensors(), other.preprocessing.to_tensors()
    same = mine.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in mine.items())
    return same and one.preprocessing.to_json() == other.preprocessing.to_json()
