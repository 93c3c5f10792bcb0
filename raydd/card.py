"""What an artifact shows to people: a picture of its images, and a dataset card."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from raydd.distilled import DistilledSet


def picture(pixels: Tensor, columns: int, *, gap: int = 2, least: int = 48) -> bytes:
    """Return a PNG of images in rows of `columns`.

    Args:
        pixels: uint8 (N, C, H, W).
        columns: Images a row.
        gap: White pixels between images.
        least: Images smaller than this many pixels are enlarged by a whole factor to reach it.
    """
    factor = max(1, -(-least // pixels.shape[-1]))
    pixels = pixels.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    n, channels, height, width = pixels.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    array = sheet[0].numpy() if channels == 1 else sheet.permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def card(ds: DistilledSet) -> str:
    """Return the dataset card that lies beside the tensors."""
    return "\n".join(_card_lines(ds)) + "\n"


def _card_lines(ds: DistilledSet) -> Iterator[str]:
    recipe = ds.recipe
    n, channels, height, width = ds.images.shape
    yield f"# {recipe.name}: {n} distilled images"
    yield ""
    of = int(recipe.config.get("method", {}).get("rounds", recipe.rounds))
    chosen = f", the best of {of} on validation images" if recipe.rounds < of else ""
    yield f"Made by raydd with method `{recipe.method}` ({recipe.paper}) in {recipe.rounds} rounds{chosen}."
    yield ""
    yield f"- images: float32 ({n}, {channels}, {height}, {width}), normalised and not clamped; `ds.pixels()` gives uint8"
    yield f"- labels: {recipe.label_kind}; {recipe.label_convention}"
    yield f"- classes: {len(recipe.classes)}"
    yield f"- augmentation in training: {recipe.augmentation or 'none'}; protocol: {recipe.protocol}"
    yield f"- storage: {ds.storage_bytes} bytes"
    yield ""
    yield "```python"
    yield "import raydd"
    yield 'ds = raydd.load("this folder")'
    yield "for images, labels in ds.loader(batch_size=256): ...   # train"
    yield "network(ds.transform(real_images))                     # test"
    yield "```"
