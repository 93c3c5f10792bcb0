"""A toy data set that any network separates: each class is bright in a third of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raydd.data.index import load_index
from raydd.data.pack import pack
from raydd.data.transforms import Transform
from raydd.distilled import DistilledSet, Recipe
from raydd.evaluate.protocols import DSA, FREPO, PROTOCOLS
from raydd.store import Folder

CLASSES = ("bottom", "middle", "top")
ROWS = {"top": (0, 4), "middle": (4, 8), "bottom": (8, 12)}
COUNTS = {"train": 12, "test": 6}
EDGE = 12

MakeSet = Callable[..., DistilledSet]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root: Path = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    for split, count in COUNTS.items():
        for name, (start, stop) in ROWS.items():
            folder = root / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 40, (EDGE, EDGE), dtype=np.uint8)
                pixels[start:stop] += 180
                Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    for split in COUNTS:
        pack(f"folder:{root / 'images'}", str(root / split), split=split)
    return {split: str(root / split) for split in COUNTS}


@pytest.fixture
def make_set(shards: dict[str, str]) -> MakeSet:
    """Make a set with one ideal image of each class, in the order of `classes`."""

    def make(
        classes: tuple[str, ...] = CLASSES,
        *,
        soft: bool = False,
        roll: int = 0,
        edge: int = EDGE,
        config: dict | None = None,
    ) -> DistilledSet:
        transform = Transform(torch.tensor([0.3]), torch.tensor([0.35]))
        pixels = torch.full((len(classes), 1, edge, edge), 20, dtype=torch.uint8)
        for image, name in zip(pixels, classes, strict=True):
            start, stop = ROWS.get(name, (0, 1))
            image[:, start:stop] = 200
        labels = torch.arange(len(classes)).roll(roll)
        if soft:
            labels = torch.nn.functional.one_hot(labels, len(classes)) - 1 / len(classes)
        recipe = Recipe(
            name="toy",
            method="dm",
            paper="none",
            config={"net": {"name": "convnet", "width": 8, "depth": 1}, **(config or {})},
            classes=classes,
            label_kind="soft" if soft else "hard",
            label_convention="as made",
            protocol="dsa",
            augmentation=None,
            transform=transform.to_json(),
            index_hash=load_index(Folder(shards["train"])).hash,
            rounds=1,
            versions={},
        )
        return DistilledSet(images=transform(pixels), labels=labels, recipe=recipe, preprocessing=transform)

    return make


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten both protocols and the training on the whole set."""
    monkeypatch.setattr("raydd.evaluate.protocols.WHOLE_LEAST_UPDATES", 40)
    frepo = replace(FREPO, updates=((10, 120),), training=replace(FREPO.training, lr=3e-3, warmup=10))
    dsa = replace(DSA, training=replace(DSA.training, epochs=101, drop_epoch=52))
    monkeypatch.setitem(PROTOCOLS, "frepo", frepo)
    monkeypatch.setitem(PROTOCOLS, "dsa", dsa)
