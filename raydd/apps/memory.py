"""What is kept: several sets of different classes as one, real images, and learned images of a byte a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from raydd.config import MethodConfig, methods
from raydd.config.methods.dd import MOST_STEPS, DDConfig
from raydd.data.transforms import Transform
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError
from raydd.evaluate.request import MEANS, float_bytes, real_bytes

LEVEL_BYTES = 8  # an image's least value and step, two float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory(DistilledSet):
    """Sets put together. Its bytes are those of its parts: an addressed memory among them counts as what it is made of."""

    parts: tuple[DistilledSet, ...] = field(default=())

    @property
    def storage_bytes(self) -> int:
        """Bytes of all that is kept."""
        return sum(part.storage_bytes for part in self.parts)

    @property
    def is_memory(self) -> bool:
        """Whether the images are recalled from bases by addresses, those of each part."""
        return any(part.is_memory for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealSet(DistilledSet):
    """Real images with hard labels, which take a byte a pixel."""

    @property
    def storage_bytes(self) -> int:
        """Bytes of pixels and labels."""
        return len(self) * real_bytes(self.images.shape[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundedSet(DistilledSet):
    """Learned images that are kept as one of 256 levels a pixel, between each image's least and greatest value."""

    @property
    def storage_bytes(self) -> int:
        """Bytes of levels, of each image's least value and step, and of labels and extras."""
        kept = (self.labels, *self.extras.values())
        levels = len(self) * (self.images[0].numel() + LEVEL_BYTES)
        return levels + sum(value.numel() * value.element_size() for value in kept)


def remembered(ds: DistilledSet, keep: str) -> DistilledSet:
    """Return a distilled set as it is kept.

    Coresets are real images, which a byte a pixel holds exactly. Addressed memories stay as they are.

    Args:
        ds: The set.
        keep: `float32`, or `uint8`: images rounded to 256 levels each.
    """
    spec = methods().get(ds.recipe.method)
    if spec is not None and not spec.config.iterative and ds.recipe.method not in MEANS:
        return RealSet(images=ds.images, labels=ds.labels, recipe=ds.recipe, preprocessing=ds.preprocessing)
    if keep == "float32" or ds.is_memory:
        return ds
    return RoundedSet(
        images=rounded(ds.images), labels=ds.labels, recipe=ds.recipe, preprocessing=ds.preprocessing, extras=ds.extras
    )


def rounded(images: Tensor) -> Tensor:
    """Return images (n, C, H, W) with every value at the nearest of 256 equal steps between its image's extremes."""
    flat = images.flatten(1)
    least = flat.min(1, keepdim=True).values
    step = ((flat.max(1, keepdim=True).values - least) / 255).clamp(min=torch.finfo(flat.dtype).tiny)
    return (least + ((flat - least) / step).round() * step).view_as(images)


def bytes_of(method: MethodConfig, shape: Sequence[int], classes: int, keep: str) -> int:
    """Return the most bytes that a method's set of so many classes takes as it is kept.

    Args:
        method: The method.
        shape: (C, H, W) of an image.
        classes: Of the set.
        keep: As for `remembered`.
    """
    count = method.ipc * classes
    if not method.iterative and method.name not in MEANS:
        return count * real_bytes(shape)
    image = float_bytes(shape) if keep == "float32" or method.name == "rtp" else real_bytes(shape) + LEVEL_BYTES
    # Rows of float32 instead of a class index; these two store them whether they are learned or not.
    soft = 4 * classes - 8 if method.name in ("dd", "frepo") else 0
    return count * (image + soft) + _steps(method)


def _steps(method: MethodConfig) -> int:
    """Return the most bytes of the step sizes that are learned with a set of DD: one a step and pass, float32."""
    if not isinstance(method, DDConfig):
        return 0
    steps = MOST_STEPS if method.inner_steps == "auto" else method.inner_steps
    return 4 * method.inner_epochs * steps


def check_within(ds: DistilledSet, most: int, name: str) -> DistilledSet:
    """Return a set that takes no more than so many bytes as it is kept.

    Args:
        ds: The set.
        most: Bytes.
        name: What errors call it.

    Raises:
        ConfigError: When it takes more.
    """
    if ds.storage_bytes > most:
        raise ConfigError(f"{name} may take {most} bytes, got {ds.storage_bytes}; lower its ipc, or raise app.budget")
    return ds


def real_set(like: DistilledSet, pixels: Tensor, labels: Tensor) -> RealSet:
    """Return real images normalised as those of a distilled set of the same classes, to be trained on like it.

    Args:
        like: The set.
        pixels: uint8 (n, C, H, W).
        labels: int64 (n,).
    """
    recipe = replace(like.recipe, name="real", method="random", label_kind="hard", label_convention="class index")
    images = like.preprocessing(pixels)
    return RealSet(images=images, labels=labels, recipe=recipe, preprocessing=like.preprocessing)


def together(parts: Sequence[DistilledSet]) -> Memory:
    """Return sets of different classes as one set of all their classes, in their order.

    Images are brought into the first set's normalisation, soft labels into those of all classes (`widened`).

    Args:
        parts: One set or more, made by the same method.
    """
    first, classes = parts[0], tuple(name for part in parts for name in part.classes)
    starts = [sum(len(part.classes) for part in parts[:i]) for i in range(len(parts))]
    images = [renormalised(part, first.preprocessing) for part in parts]
    labels = [
        part.labels + start if part.labels.ndim == 1 else widened(part.labels, start, len(classes))
        for part, start in zip(parts, starts, strict=True)
    ]
    return Memory(
        images=torch.cat(images),
        labels=torch.cat(labels),
        recipe=replace(first.recipe, classes=classes),
        preprocessing=first.preprocessing,
        parts=tuple(parts),
    )


def renormalised(ds: DistilledSet, normal: Transform) -> Tensor:
    """Return a set's images, float32 (N, C, H, W), normalised in another way; as they are where it is the same way."""
    own, other = ds.preprocessing.to_tensors(), normal.to_tensors()
    same = ds.preprocessing.to_json() == normal.to_json() and own.keys() == other.keys()
    if same and all(torch.equal(value, other[name]) for name, value in own.items()):
        return ds.images
    return normal(ds.preprocessing.inverse(ds.images))


def widened(labels: Tensor, start: int, classes: int) -> Tensor:
    """Return soft labels of some classes as labels of more.

    Rows that are probabilities get zeros. Any others are FRePo's: `(p - 1/c) / sqrt(c / 10)` of the c classes that they speak
    of. They become the same p, zero for the other classes, centred and scaled for all of them; so what starts as the
    labels of c classes is what would have started as those of all.

    Args:
        labels: float (n, c).
        start: Where the c classes begin among all.
        classes: How many there are in all, at least `start + c`.

    Returns:
        float (n, classes).
    """
    own = labels.shape[1]
    probable = bool((labels >= 0).all() and ((labels.sum(1) - 1).abs() <= 1e-3).all())
    wide = torch.zeros(len(labels), classes, dtype=labels.dtype)
    wide[:, start : start + own] = labels if probable else labels * (own / 10) ** 0.5 + 1 / own
    return wide if probable else (wide - 1 / classes) / (classes / 10) ** 0.5
