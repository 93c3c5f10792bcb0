"""Distilled sets that were never distilled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from raydd.data.reader import RealData
from raydd.data.transforms import Transform, Zca
from raydd.distilled import DistilledSet, Recipe

NAMES = ("cat", "dog", "emu", "fox")


def large_zca(channels: int = 3, size: int = 16) -> Zca:
    """A whitening of more than 1 MB at 16 pixels, whose inverse is known: a permutation of features, doubled."""
    dim = channels * size * size
    order = torch.randperm(dim, generator=torch.Generator().manual_seed(1))
    permuted = torch.eye(dim)[order]
    mean = torch.rand(channels, size, size, generator=torch.Generator().manual_seed(2))
    return Zca("frepo", mean, 2 * permuted, permuted.T / 2, 1)


def random_pixels(n: int, channels: int, size: int) -> Tensor:
    """uint8 (n, channels, size, size)."""
    return torch.randint(
        0, 256, (n, channels, size, size), generator=torch.Generator().manual_seed(3), dtype=torch.uint8
    )


def make_set(
    *,
    classes: int = 4,
    ipc: int = 2,
    channels: int = 3,
    size: int = 8,
    soft: bool = True,
    zca: Zca | None = None,
    extras: dict[str, Tensor] | None = None,
    **recipe: Any,
) -> DistilledSet:
    """A set whose images are `random_pixels`, normalised."""
    transform = Transform(torch.full((channels,), 0.5), torch.full((channels,), 0.25), zca)
    labels = torch.arange(classes).repeat_interleave(ipc)
    given = {
        "name": "made",
        "method": "frepo" if soft else "dm",
        "paper": "Somebody, A Paper, 2022",
        "config": {"name": "made", "seed": 0, "net": {"name": "convnet", "width": 4, "depth": 1}},
        "classes": NAMES[:classes],
        "label_kind": "soft" if soft else "hard",
        "label_convention": "as made",
        "protocol": "frepo" if soft else "dsa",
        "augmentation": "dsa:color_crop_flip",
        "transform": transform.to_json(),
        "index_hash": "ab" * 32,
        "rounds": 10,
        "versions": {"torch": "2"},
    }
    return DistilledSet(
        images=transform(random_pixels(classes * ipc, channels, size)),
        labels=torch.nn.functional.one_hot(labels, classes) - 1 / classes if soft else labels,
        recipe=Recipe(**{**given, **recipe}),
        preprocessing=transform,
        extras=extras or {},
    )


def digits_set(shards: str, *, ipc: int = 3, soft: bool = False) -> DistilledSet:
    """The first images of every class of packed digits."""
    real, made = RealData(shards), make_set(channels=1, soft=soft)
    ids = torch.cat([ids[:ipc] for ids in real.by_class])
    labels = torch.nn.functional.one_hot(real.labels[ids]) - 0.1 if soft else real.labels[ids]
    recipe = replace(made.recipe, name="digits", classes=real.class_names)
    return replace(made, images=made.transform(real.images(ids)), labels=labels, recipe=recipe)
