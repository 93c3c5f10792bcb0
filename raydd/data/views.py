"""A SOURCE that is a part of packed shards, changed in a stated way: what applications cut members, tasks and domains from."""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raydd.data.reader import RealData
from raydd.data.samples import Ref, Samples
from raydd.errors import DataError
from raydd.seeding import generator
from raydd.store import Folder


class View(BaseModel):
    """What a view shows, in this order.

    Attributes:
        of: URL of packed shards.
        classes: These classes only, by position or name, in this order.
        ids: These images only, by their numbers in `RealData` of those classes.
        part: `[i, n]`: the i-th, from 0, of n parts of every class, which are disjoint and as equal as can be.
        seed: What the parts are keyed by.
        rotate: Every image turned by so many degrees, counter-clockwise, black beyond its edges.
        permute: Pixels in the k-th keyed order, the same for every image and channel; 0 leaves them where they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    classes: list[int | str] | None = None
    ids: list[Annotated[int, Field(ge=0)]] | None = None
    part: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    rotate: float = 0.0
    permute: Annotated[int, Field(ge=0)] = 0

    @property
    def source(self) -> str:
        """The SOURCE string, the same for the same view."""
        return "view:" + json.dumps(self.model_dump(exclude_defaults=True), sort_keys=True)


class ViewSource:
    """A view as a source; every split that is asked for is the view itself."""

    splits = ("train", "test")
    test_split = "test"

    def __init__(self, text: str) -> None:
        try:
            view = View.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"]) or "JSON"
            raise DataError(
                f'view: {key}: {first["msg"]}; expected such as view:{{"of": URL, "part": [0, 5]}}'
            ) from None
        if view.part is not None and view.part[0] >= view.part[1]:
            raise DataError(f"view: part must be [i, n] with i < n, got {list(view.part)}")
        self.view = view.model_copy(update={"of": Folder(view.of).url})
        self.spec = self.view.source

    @functools.cached_property
    def _real(self) -> RealData:
        return RealData(self.view.of, classes="all" if self.view.classes is None else self.view.classes)

    @property
    def name(self) -> str:
        """The data set's name."""
        return self._real.index.name

    def open(self, split: str) -> Samples:
        """List the samples of the view."""
        real = self._real
        ids = [self._ids(real, c) for c in range(real.num_classes)]
        if any(len(each) == 0 for each in ids):
            raise DataError(f"{self.spec}: expected images of every class, got parts without; cut fewer")
        refs = torch.cat(ids)
        labels = real.labels[refs].numpy().astype(np.int32)
        return Samples(classes=real.class_names, labels=labels, refs=refs.tolist(), channels=real.index.channels)

    def _ids(self, real: RealData, label: int) -> torch.Tensor:
        ids = real.by_class[label]
        if self.view.ids is not None:
            ids = ids[torch.isin(ids, torch.tensor(self.view.ids))]
        if self.view.part is None:
            return ids
        i, n = self.view.part
        order = torch.randperm(len(ids), generator=generator(self.view.seed, "view-part", label))
        return ids[order[len(ids) * i // n : len(ids) * (i + 1) // n].sort().values]

    def load(self, split: str, ref: Ref) -> np.ndarray:
        """Return the pixels of an image, uint8 (H, W) or (H, W, 3)."""
        assert isinstance(ref, int)
        chw = self._real.images(torch.tensor([ref]))[0].numpy()
        pixels = chw[0] if len(chw) == 1 else np.ascontiguousarray(chw.transpose(1, 2, 0))
        if self.view.rotate:
            pixels = np.asarray(Image.fromarray(pixels).rotate(self.view.rotate, Image.Resampling.BILINEAR))
        if self.view.permute:
            flat = pixels.reshape(-1, *pixels.shape[2:])
            pixels = flat[_order(self.view.permute, len(flat))].reshape(pixels.shape)
        return pixels

    def where(self, split: str, ref: Ref) -> str:
        """Return what to call an image."""
        return f"{self.spec} image {ref}"


@functools.lru_cache(maxsize=4)
def _order(permute: int, pixels: int) -> Any:
    return torch.randperm(pixels, generator=generator(permute, "view-permute")).numpy()
