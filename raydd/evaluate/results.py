"""What an evaluation gives: accuracies, each with all that says how it came about."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raydd.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """What networks of one kind score after training on one kind of set.

    What was added later has a default, so that older records can be read.

    Attributes:
        of: `distilled`; `random` (real images at the same count per class, a new draw each repeat; beside an addressed
            memory as many as it takes the storage of as float32 images); `random@bytes` (as many real images, at a byte a
            pixel, as take no more bytes than the set); a coreset's name; or `whole`.
        protocol: Name of the protocol.
        net: The network that was trained, as text that a config reads back; empty where none is.
        mean: Percent, over repeats.
        std: Sample deviation in percent; 0 for a single repeat.
        repeats: Networks trained.
        each: Percent of each repeat.
        images: Images trained on.
        storage_bytes: Bytes of those images and their labels: all that was learned for a distilled set, uint8 pixels
            and int64 labels for real images.
        set: The distilled set that was scored or compared with, as the caller names it.
        predictor: `train` for the networks themselves, `krr` for kernel ridge regression on their features, `knn` for
            nearest neighbours in pixels.
        augment: Whose augmentation networks were trained with and which operations, such as `dsa:color_crop`; None for
            none.
        labels: `hard` or `soft`: what networks were trained on.
        lr: Learning rate at the start; None where no network was trained at one.
        images_per_class: Images trained on over classes, one reading of "images per class".
        stored_images_per_class: How many float32 images with an int64 label take those bytes, over classes: the other.
        note: What a reader must know besides.
        sets: How many sets, distilled alike with a seed each, the networks were trained on; as many on each.
    """

    of: str
    protocol: str
    net: str
    mean: float
    std: float
    repeats: int
    each: list[float]
    images: int
    storage_bytes: int
    set: str | None = None
    predictor: str = "train"
    augment: str | None = None
    labels: str | None = None
    lr: float | None = None
    images_per_class: float | None = None
    stored_images_per_class: float | None = None
    note: str | None = None
    sets: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> Accuracy:
        """Read it back.

        Raises:
            DataError: When it is something else.
        """
        try:
            return TypeAdapter(cls).validate_python(raw)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the record"
            raise DataError(f"expected an accuracy, got {where}: {first['msg']}; evaluate again") from None


def deviation(each: list[float]) -> float:
    """Return the sample deviation; 0 of a single number."""
    return statistics.stdev(each) if len(each) > 1 else 0.0


def pooled(results: Sequence[Accuracy]) -> list[Accuracy]:
    """Return the results of several sets that were distilled alike as those of one, over all their networks.

    What was scored beside one of them only, such as baselines, stays as it is.
    """
    alike: dict[tuple[str | None, ...], list[Accuracy]] = {}
    for result in results:
        alike.setdefault(_kind(result), []).append(result)
    return [_pooled(each) for each in alike.values()]


def _pooled(alike: Sequence[Accuracy]) -> Accuracy:
    each = [percent for one in alike for percent in one.each]
    mean, std = statistics.fmean(each), deviation(each)
    joined = replace(alike[0], mean=mean, std=std, repeats=len(each), each=each, sets=len(alike))
    rates = sorted({one.lr for one in alike if one.lr is not None})
    if len(rates) < 2:
        return joined
    note = f"the learning rate was chosen for each set: {', '.join(f'{rate:g}' for rate in rates)}"
    return replace(joined, lr=None, note="; ".join(filter(None, [joined.note, note])))


def _kind(result: Accuracy) -> tuple[str | None, ...]:
    return (result.of, result.protocol, result.net, result.predictor, result.augment, result.labels)
