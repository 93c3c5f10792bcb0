"""A run's folder as the engine leaves it, with hostile class names and made-up images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from raydd.data.transforms import Transform
from raydd.distilled import DistilledSet, Recipe
from raydd.evaluate import Accuracy
from raydd.functional.memory import recall
from raydd.report import RealImages
from raydd.store import Folder

HOSTILE = '<script>alert("x")</script> & \'"'
NET = "convnet:width=8,depth=1,norm=none"

MakeRun = Callable[..., Folder]


def make_set(
    *, classes: int = 3, ipc: int = 1, shape: tuple[int, int, int] = (1, 8, 8), soft: bool = True, **recipe: Any
) -> DistilledSet:
    transform = Transform(torch.full((shape[0],), 0.5), torch.full((shape[0],), 0.25))
    pixels = torch.randint(0, 256, (classes * ipc, *shape), generator=torch.Generator().manual_seed(0))
    labels = torch.arange(classes).repeat_interleave(ipc)
    if soft:
        labels = torch.nn.functional.one_hot(labels, classes) - 1 / classes
    names = [HOSTILE, *(f"class-{c}-with-a-name-that-is-rather-long" for c in range(1, classes))]
    given = {
        "method": "frepo",
        "config": {"name": "toy", "seed": 0},
        "rounds": 100,
        "label_kind": "soft" if soft else "hard",
    }
    fields = {**given, **recipe}
    return DistilledSet(
        images=transform(pixels.to(torch.uint8)),
        labels=labels,
        recipe=Recipe(
            name="toy",
            paper="Somebody, A Paper, 2022",
            classes=tuple(names),
            label_convention="as made",
            protocol="frepo",
            augmentation=None,
            transform=transform.to_json(),
            index_hash="ab" * 32,
            versions={"torch": "2"},
            **fields,
        ),
        preprocessing=transform,
    )


def make_memory(*, classes: int = 3, each: int = 5, num_bases: int = 4) -> DistilledSet:
    """An addressed memory of images of 8 pixels, from bases of 4."""
    gen = torch.Generator().manual_seed(0)
    bases = torch.randn(num_bases, 3, 4, 4, generator=gen)
    addresses = torch.randn(classes, each, num_bases, generator=gen)
    images = recall(bases, addresses, torch.eye(classes), 2).flatten(0, 1).contiguous()
    config = {"name": "toy", "method": {"name": "rtp", "ipc": 1}}
    like = make_set(classes=classes, shape=(3, 8, 8), soft=False, method="rtp", config=config)
    labels = torch.arange(classes).repeat_interleave(each)
    return replace(like, images=images, labels=labels, extras={"bases": bases, "addresses": addresses})


def make_real(ds: DistilledSet, classes: list[int]) -> RealImages:
    """A real image of each of some classes: all of its pixels are the class's number plus 100."""
    labels = torch.tensor(classes)
    pixels = (100 + labels).to(torch.uint8)[:, None, None, None].expand(-1, *ds.images.shape[1:]).contiguous()
    return RealImages(pixels, labels)


def accuracy(of: str, mean: float, **given: Any) -> dict[str, Any]:
    made = {"protocol": "frepo", "net": NET, "std": 1.25, "repeats": 2, "each": [mean, mean]} | given
    return Accuracy(of=of, mean=mean, images=1234, storage_bytes=2640, **made).to_json()


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Write a run; `bare` leaves all but the artifact away."""

    def make(ds: DistilledSet | None = None, *, bare: bool = False, name: str = "toy") -> Folder:
        ds = make_set() if ds is None else ds
        run = Folder(str(tmp_path / "runs" / name))
        ds.save(run.folder("distilled"))
        if bare:
            return run
        results = [accuracy("distilled", 83.25), accuracy("random", 55.5), accuracy("whole", 97.0)]
        run.write_json("evaluation.json", {"results": results, "test": "x", "seconds": 75.0})
        rows: list[dict[str, Any]] = [{"round": r, "loss": math.exp(-r / 20), "seconds": r / 10} for r in range(100)]
        rows += [{"round": n - 1, "val_accuracy": 50.0 + n / 4, "val_std": 2.0} for n in (20, 60, 100)]
        run.write("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        run.write_json("status.json", {"state": "finished", "seconds": 3725.0, "rounds_per_second": 2.5, "workers": 2})
        for r in (0, 1, 2, 5, 10, 20, 40, 50, 80):
            # As the engine has it: at most the first 100 images.
            data = safetensors.torch.save({"images": (ds.images[:100] + 1 / (1 + r)).contiguous()})
            run.write(f"history/{r:08d}.safetensors", data)
        return run

    return make
