"""What a network is trained on: a distilled set, or real images in packed shards, behind one face."""

from __future__ import annotations

import hashlib
from typing import Literal, Protocol

import torch
from torch import Tensor

from raydd.config import DataFacts
from raydd.data.index import load_index
from raydd.data.names import data_name
from raydd.data.reader import RealData
from raydd.data.transforms import Transform, channel_statistics, statistics
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError, DataError
from raydd.store import Folder

Shape = tuple[int, int, int]
Loss = Literal["cross_entropy", "mse"]
LEAST_UPDATES = 1000  # of a training on a distilled set, where nothing else is said
EPOCHS = 20  # of a training on real images


class Data(Protocol):
    """Labelled images by number.

    Attributes:
        name: What to call a training on it.
        hash: Names the contents.
        classes: Their names.
        shape: (C, H, W) of an image.
        transform: What makes real images comparable with those of `batch`.
        loss: What the labels are for: cross entropy for hard ones and probabilities, FRePo's squared error for others.
        augmentation: What `augment: auto` means.
    """

    name: str
    hash: str
    classes: tuple[str, ...]
    shape: Shape
    transform: Transform
    loss: Loss
    augmentation: str | None

    def __len__(self) -> int: ...

    def epochs(self, batch: int) -> int:
        """Return what `epochs: auto` means for batches of this size."""
        ...

    def to(self, device: torch.device) -> None:
        """Give batches on `device` from now on."""
        ...

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return normalised float32 images (n, C, H, W) and labels, int64 (n,) or float32 (n, classes), of int64 (n,)."""
        ...


class SetData:
    """A distilled set; see `Data`."""

    def __init__(self, ds: DistilledSet) -> None:
        if not len(ds):
            raise DataError(f"expected a distilled set with images, got {ds.recipe.name} without any; distil it again")
        self.name, self.classes = ds.recipe.name, ds.classes
        self.shape: Shape = (ds.images.shape[1], ds.images.shape[2], ds.images.shape[3])
        self.transform, self.augmentation = ds.preprocessing, ds.recipe.augmentation
        self.loss: Loss = "mse" if ds.labels.ndim == 2 and not _are_probabilities(ds.labels) else "cross_entropy"
        self.hash = _hash(ds.images, ds.labels)
        self._images, self._labels = ds.images, ds.labels

    def __len__(self) -> int:
        return len(self._images)

    def epochs(self, batch: int) -> int:
        """Return the epochs that make `LEAST_UPDATES`."""
        return max(1, -(-LEAST_UPDATES * min(batch, len(self)) // len(self)))

    def to(self, device: torch.device) -> None:
        """Hold the set on `device`."""
        self._images, self._labels = self._images.to(device), self._labels.to(device)
        self.transform = self.transform.to(device)

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See `Data`."""
        ids = ids.to(self._images.device)
        return self._images[ids], self._labels[ids]


class ShardData:
    """Real images in packed shards, each normalised when it is its turn; see `Data`.

    Every process holds the decoded images of all shards it has met, which with shuffled batches is soon all of them.
    """

    loss: Loss = "cross_entropy"
    augmentation = None

    def __init__(self, real: RealData) -> None:
        index = real.index
        self._real, self._device = real, torch.device("cpu")
        name = data_name(index.name, real.class_names)
        self.name, self.hash = f"{name}-{index.split}", index.hash
        self.classes, self.shape = tuple(real.class_names), real.shape
        mean, std = statistics(name, "dc") or channel_statistics(index)
        self.transform = Transform(mean, std)

    def __len__(self) -> int:
        return len(self._real)

    def epochs(self, batch: int) -> int:
        """Return `EPOCHS`, whatever the batch."""
        return EPOCHS

    def to(self, device: torch.device) -> None:
        """Give batches on `device` from now on."""
        self._device, self.transform = device, self.transform.to(device)

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See `Data`; reads the shards that are needed and were not yet."""
        images = self._real.images(ids).to(self._device)
        return self.transform(images), self._real.labels[ids].to(self._device)


def open_data(url: str) -> Data:
    """Open what lies at a URL: packed shards, a run, or a distilled set.

    Raises:
        DataError: When there is neither.
        IntegrityError: When it was altered.
    """
    return ShardData(RealData(url)) if Folder(url).exists("index.json") else SetData(DistilledSet.load(url))


def open_test(url: str, data: Data) -> RealData:
    """Open packed test shards for a network that was trained on `data`; their classes are matched by name.

    Raises:
        DataError: When they lack a class, or their images have another shape.
    """
    index = load_index(Folder(url))
    missing = [name for name in data.classes if name not in index.classes]
    if missing:
        raise DataError(
            f"expected test images of the {len(data.classes)} classes of {data.name} in {url}, got none of "
            f"{len(missing)} ({missing[0]!r}); pack a split of the same data set"
        )
    got = (index.channels, index.size, index.size)
    if got != data.shape:
        expected, found = ("x".join(map(str, shape)) for shape in (data.shape, got))
        raise DataError(
            f"expected test images of {expected}, got {found} in {url}; pack it with --size {data.shape[-1]}"
        )
    return RealData(url, classes=list(data.classes))


def facts_of(data: Data) -> DataFacts:
    """Return what a network's defaults may depend on."""
    return DataFacts(
        name=data.name,
        channels=data.shape[0],
        size=data.shape[-1],
        num_classes=len(data.classes),
        smallest_class=1,
    )


def check_batch(data: Data, batch: int, workers: int, *, least: int) -> int:
    """Return the images of an update, at most all there are.

    Args:
        data: The images.
        batch: How many are asked for.
        workers: How many processes share them, >= 1.
        least: How many each must get: 2 for BatchNorm.

    Raises:
        ConfigError: When some would get fewer.
    """
    batch = min(batch, len(data))
    if batch // workers < least:
        why = "each wants 2 for BatchNorm" if least > 1 else "each wants one"
        raise ConfigError(
            f"an update has {batch} images for {workers} workers and {why}; take fewer, or a larger batch"
        )
    return batch


def _are_probabilities(labels: Tensor) -> bool:
    return bool((labels >= 0).all() and ((labels.sum(1) - 1).abs() <= 1e-3).all())


def _hash(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
