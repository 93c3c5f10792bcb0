"""Real images to stand beside the learned ones: one of each class that is shown, kept in the run's folder.

They lie in `history/real.safetensors`: `images` uint8 (k, C, H, W) and `labels` int64 (k,). A report that is written anew
needs the data no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raydd.data.images import decode
from raydd.data.index import load_index
from raydd.data.plan import class_batch
from raydd.distilled import tensors_from
from raydd.errors import DataError
from raydd.report.pictures import shown_classes
from raydd.seeding import generator
from raydd.store import Folder

NAME = "real.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class RealImages:
    """Real images of some classes.

    Attributes:
        images: uint8 (k, C, H, W).
        labels: Class indices of the distilled set, int64 (k,).
    """

    images: Tensor
    labels: Tensor

    def by_class(self) -> dict[int, Tensor]:
        """Return the first image of each class, uint8 (C, H, W)."""
        pairs = list(zip(self.labels.tolist(), self.images, strict=True))
        return dict(reversed(pairs))


def draw_real(shards: Folder, classes: Sequence[str], seed: int) -> RealImages:
    """Draw one real image of each class that a report shows, keyed by class; reads their bytes and nothing else.

    Args:
        shards: Packed training images.
        classes: Names of the distilled set's classes; those that the shards do not have are left out.
        seed: The run's root seed.

    Raises:
        DataError: When there are no shards, or an image does not decode.
        FileNotFoundError: When a shard is missing.
        StoreError: When they are out of reach.
    """
    index = load_index(shards)
    shown = [c for c in shown_classes(len(classes), _shape(index.channels, index.size)) if classes[c] in index.classes]
    rows = [_row(index.label, index.classes.index(classes[c]), generator(seed, "report-real", c)) for c in shown]
    places = [(index.shards[index.shard[r]].name, int(index.offset[r]), int(index.length[r])) for r in rows]
    folder = index.shard_folder(shards)
    read = folder.read_ranges([(name, start, start + length) for name, start, length in places])
    pixels = [
        decode(data, index.channels, index.size, f"{folder.url}/{name} at {start}")
        for data, (name, start, _) in zip(read, places, strict=True)
    ]
    images = np.stack(pixels).transpose(0, 3, 1, 2) if pixels else np.zeros((0, *_shape(index.channels, index.size)))
    return RealImages(torch.from_numpy(np.ascontiguousarray(images, np.uint8)), torch.tensor(shown, dtype=torch.int64))


def _shape(channels: int, edge: int) -> tuple[int, int, int]:
    return channels, edge, edge


def _row(labels: np.ndarray, label: int, gen: torch.Generator) -> int:
    rows = torch.from_numpy(np.flatnonzero(labels == label))
    return int(class_batch(rows, 1, gen)[0])


def keep_real(run: Folder, real: RealImages) -> None:
    """Write real images into a run's folder."""
    run.folder("history").write(NAME, safetensors.torch.save({"images": real.images, "labels": real.labels}))


def has_real(run: Folder) -> bool:
    """Whether a run's folder holds real images."""
    return run.folder("history").exists(NAME)


def read_real(run: Folder, shape: Sequence[int], num_classes: int) -> RealImages:
    """Read the real images of a run.

    Args:
        run: The run's folder.
        shape: (C, H, W) of the distilled images, which they must have.
        num_classes: Number of classes, of which they must be.

    Raises:
        FileNotFoundError: When it holds none.
        DataError: When they are something else than expected.
    """
    folder = run.folder("history")
    tensors = tensors_from(folder.read(NAME), f"{folder.url}/{NAME}")
    images, labels = tensors.get("images", torch.empty(0)), tensors.get("labels", torch.empty(0))
    fits = images.dtype == torch.uint8 and images.shape[1:] == torch.Size(shape) and labels.dtype == torch.int64
    if not fits or labels.shape != images.shape[:1] or not ((labels >= 0) & (labels < num_classes)).all():
        raise DataError(
            f"expected uint8 images (k, {', '.join(map(str, shape))}) and k labels below {num_classes} in "
            f"{folder.url}/{NAME}, got {images.dtype} {tuple(images.shape)} and {tuple(labels.shape)}; delete the file"
        )
    return RealImages(images, labels)
