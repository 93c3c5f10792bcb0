"""Images for the page: which are shown, and their PNGs as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from raydd.distilled import DistilledSet

MOST_SHOWN = 200
MOST_BYTES = 7_000_000
MOST_STRIPS = 10
TOP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Strongest:
    """One of the strongest classes of a soft label: its name, value, and value as a percentage of the largest shown."""

    name: str
    value: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """An image with its class, and the strongest classes of its label where that is soft."""

    uri: str
    name: str
    strongest: tuple[Strongest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """One image over the rounds: class, and pairs of round and data URI."""

    name: str
    frames: tuple[tuple[int, str], ...]


def data_uri(data: bytes, kind: str) -> str:
    """Return bytes as a data URI of a media type such as `image/png`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def png_uri(pixels: Tensor) -> str:
    """Return one image, uint8 (C, H, W) with 1 or 3 channels, as a PNG's data URI."""
    buffer = io.BytesIO()
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def chosen(targets: Tensor, num_classes: int, most: int) -> list[Tensor]:
    """Return the ids of the images to show, class by class.

    Every class gets the same number of images; where there are more classes than `most`, classes evenly spread over
    all of them get one each. Classes without an image are left out.

    Args:
        targets: Class indices, int64 (N,).
        num_classes: Number of classes.
        most: How many images may be shown in all, at least 1.
    """
    classes = torch.linspace(0, num_classes - 1, min(num_classes, most)).round().long().tolist()
    each = max(1, most // num_classes)
    ids = [(targets == c).nonzero()[:, 0][:each] for c in classes]
    return [of_class for of_class in ids if len(of_class)]


def affordable(shape: Sequence[int]) -> int:
    """Return how many images of (C, H, W) fit the page's budget, taking them for incompressible."""
    channels, height, width = shape
    return max(1, min(MOST_SHOWN, MOST_BYTES * 3 // (4 * channels * height * width)))


def tiles(ds: DistilledSet) -> list[list[Tile]]:
    """Return the images to show, one list a class."""
    ids = chosen(ds.targets, len(ds.classes), affordable(ds.images.shape[1:]))
    flat = torch.cat(ids)
    pixels = dict(zip(flat.tolist(), ds.preprocessing.pixels(ds.images[flat]), strict=True))
    targets = ds.targets
    largest = float(ds.labels[flat].max()) if ds.labels.ndim == 2 else 1.0
    return [
        [
            Tile(uri=png_uri(pixels[i]), name=ds.classes[int(targets[i])], strongest=_strongest(ds, i, largest))
            for i in of_class.tolist()
        ]
        for of_class in ids
    ]


def _strongest(ds: DistilledSet, i: int, largest: float) -> tuple[Strongest, ...]:
    if ds.labels.ndim != 2:
        return ()
    values, classes = ds.labels[i].topk(min(TOP, len(ds.classes)))
    return tuple(
        Strongest(
            name=ds.classes[c], value=value, share=max(0.0, min(100.0, 100 * value / largest)) if largest > 0 else 0.0
        )
        for value, c in zip(values.tolist(), classes.tolist(), strict=True)
    )


def strips(ds: DistilledSet, history: Sequence[tuple[int, Tensor]]) -> list[Strip]:
    """Return how the first image of up to ten classes changed.

    Args:
        ds: The distilled set.
        history: Rounds and the images of that round, float32 of the shape of `ds.images`, normalised.
    """
    if not history:
        return []
    ids = torch.cat([of_class[:1] for of_class in chosen(ds.targets, len(ds.classes), MOST_STRIPS)])
    pixels = [(round, ds.preprocessing.pixels(images[ids])) for round, images in history]
    names = [ds.classes[int(c)] for c in ds.targets[ids]]
    return [
        Strip(name=name, frames=tuple((round, png_uri(frame[i])) for round, frame in pixels))
        for i, name in enumerate(names)
    ]
