"""Images for the page: which are shown, and their PNGs as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from raydd.distilled import DistilledSet

MOST_SHOWN = 200
MOST_BYTES = 4_500_000  # of learned images on a page, and as many of real ones
MOST_STRIPS = 10
STRIP_BYTES = 2_000_000
MOST_BASES = 64
SHEET_PIXELS = 600_000
TOP = 3
FAINT = 0.35  # of black to white: images of a memory that span less are shown with their contrast stretched
STRETCHED = 0.8
MOST_STRETCH = 50.0
SMALL = 64  # edge in pixels that suffices where images are looked at side by side


@dataclass(frozen=True, slots=True, kw_only=True)
class Strongest:
    """One of the strongest classes of a soft label: its name, value, and value as a percentage of the largest shown."""

    name: str
    value: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """An image, and the strongest classes of its label where that is soft."""

    uri: str
    strongest: tuple[Strongest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OfClass:
    """The images of a class that are shown: its name, learned ones, and a real one's data URI, or None."""

    name: str
    tiles: tuple[Tile, ...]
    real: str | None = None


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


def shrunk(pixels: Tensor, most: int = SMALL) -> Tensor:
    """Return images uint8 (N, C, H, W), shrunk by a whole factor until their edges are at most about `most` pixels."""
    factor = max(1, round(pixels.shape[-1] / most))
    return pixels if factor == 1 else avg_pool2d(pixels.float(), factor, ceil_mode=True).round().byte()


def stretch(ds: DistilledSet) -> float:
    """Return by how much the contrast of a set's images is to be raised for people to see something; 1 for not at all.

    The images of an addressed memory are sums of bases that nothing keeps at the size of real pixels: a network that is
    trained on them does not mind, but on a screen they are all grey. One factor for the whole set, so that its images can be
    compared.
    """
    if not ds.is_memory or not len(ds):
        return 1.0
    # In portions, because whitened images are float64 on their way back; some of them tell enough.
    some = torch.linspace(0, len(ds) - 1, min(len(ds), 500)).round().long()
    spans = [ds.preprocessing.inverse(ds.images[part]).flatten(1).aminmax(dim=1) for part in some.split(100)]
    span = float(torch.cat([high - low for low, high in spans]).median())
    return 1.0 if span >= FAINT else min(MOST_STRETCH, STRETCHED / max(span, 1e-12))


def visible(ds: DistilledSet, images: Tensor, factor: float) -> Tensor:
    """Return images of a set, float32 (n, C, H, W), as uint8 pixels with the contrast that `stretch` told, about their means."""
    if factor == 1:
        return ds.preprocessing.pixels(images)
    light = ds.preprocessing.inverse(images)
    mean = light.mean((1, 2, 3), keepdim=True)
    return (255 * (mean + factor * (light - mean))).round().clamp(0, 255).byte()


def shown_classes(num_classes: int, shape: Sequence[int], most: int | None = None) -> list[int]:
    """Return the classes of which images are shown: all, or as many as fit, evenly spread over all of them.

    Args:
        num_classes: Number of classes.
        shape: (C, H, W) of an image.
        most: How many at most; by default as many images as the page can hold.
    """
    most = affordable(shape) if most is None else most
    return torch.linspace(0, num_classes - 1, min(num_classes, most)).round().long().tolist()


def affordable(shape: Sequence[int]) -> int:
    """Return how many images of (C, H, W) fit the page's budget, taking them for incompressible."""
    return max(1, min(MOST_SHOWN, MOST_BYTES // _uri_bytes(shape)))


def _uri_bytes(shape: Sequence[int]) -> int:
    channels, height, width = shape
    # Base64 makes four of three; a PNG's frame is some tens of bytes.
    return (channels * height * width + 100) * 4 // 3


def gallery(ds: DistilledSet, real: Mapping[int, Tensor]) -> list[OfClass]:
    """Return the images to show, class by class, as many of each as of any other; empty classes are left out.

    Args:
        ds: The distilled set.
        real: A real image, uint8 (C, H, W), of each class that there is one of.
    """
    shape, targets = ds.images.shape[1:], ds.targets
    each = max(1, affordable(shape) // len(ds.classes))
    ids = {c: (targets == c).nonzero()[:each, 0] for c in shown_classes(len(ds.classes), shape)}
    flat = torch.cat(list(ids.values()))
    factor = stretch(ds)
    largest = float(ds.labels[flat].max()) if ds.labels.ndim == 2 and len(flat) else 1.0
    found = []
    for c, of_class in ids.items():
        pixels = visible(ds, ds.images[of_class], factor) if len(of_class) else ()
        tiles = tuple(
            Tile(uri=png_uri(image), strongest=_strongest(ds, i, largest))
            for i, image in zip(of_class.tolist(), pixels, strict=True)
        )
        if tiles:
            found.append(OfClass(name=ds.classes[c], tiles=tiles, real=png_uri(real[c]) if c in real else None))
    return found


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
        history: Rounds and the first images of that round, float32 (k, C, H, W) with k the same in all, normalised.
    """
    if not history:
        return []
    firsts = first_of_each(ds, len(history[0][1]))
    least = shrunk(torch.zeros(1, *ds.images.shape[1:], dtype=torch.uint8))[0].shape
    most = max(1, min(MOST_STRIPS, STRIP_BYTES // (_uri_bytes(least) * len(history))))
    classes = [list(firsts)[k] for k in shown_classes(len(firsts), least, most)]
    ids = torch.tensor([firsts[c] for c in classes])
    factor = stretch(ds)
    pixels = [(round, shrunk(visible(ds, images[ids], factor))) for round, images in history]
    return [
        Strip(name=ds.classes[c], frames=tuple((round, png_uri(frame[i])) for round, frame in pixels))
        for i, c in enumerate(classes)
    ]


def first_of_each(ds: DistilledSet, among: int) -> dict[int, int]:
    """Return the id of the first image of each class among the first `among` of a set; in the order of classes."""
    targets = ds.targets[:among].tolist()
    return dict(sorted({c: i for i, c in reversed(list(enumerate(targets)))}.items()))


def sheet(ds: DistilledSet) -> tuple[str, tuple[int, int]]:
    """Return the first image of every class on one picture, row by row, and the picture's width and height.

    Images are shrunk until the picture has at most `SHEET_PIXELS` pixels or they are too small to see.
    """
    ids = torch.tensor(list(first_of_each(ds, len(ds)).values()))
    edge = max(8, min(SMALL, int((SHEET_PIXELS / len(ids)) ** 0.5)))
    # In portions, because whitened images are float64 on their way back.
    factor = stretch(ds)
    pixels = torch.cat([shrunk(visible(ds, ds.images[part], factor), edge) for part in ids.split(100)])
    n, channels, height, width = pixels.shape
    columns = min(n, max(1, round((1.6 * n) ** 0.5)))
    rows = -(-n // columns)
    grid = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    grid[:n] = pixels
    picture = grid.view(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
    return png_uri(picture.reshape(channels, rows * height, columns * width)), (columns * width, rows * height)


def bases(memory: Tensor) -> list[str]:
    """Return the bases of an addressed memory, float32 (K, C, h, w), as pictures: zero is grey, each has its own contrast."""
    shown = memory[:MOST_BASES].float()
    largest = shown.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    pixels = shrunk((127.5 + 127.5 * shown / largest).round().byte())
    return [png_uri(image) for image in pixels]
