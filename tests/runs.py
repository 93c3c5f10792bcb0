"""Folders of many small finished runs, as the engine leaves them, made at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from raydd.card import picture
from raydd.distilled import DistilledSet
from raydd.evaluate import Accuracy
from raydd.store import Manifest, digest
from raydd.store.canonical import to_json
from raydd.store.manifest import _encode
from tests.sets import make_set, random_pixels

METHODS, DATA, IPCS = ("dm", "frepo", "dc"), ("mnist", "cifar10"), (1, 10)


def files_of(i: int, like: DistilledSet, preview: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the i-th run's files."""
    method, data, ipc = METHODS[i % 3], DATA[i // 3 % 2], IPCS[i // 6 % 2]
    config = {"name": f"run-{i:03d}", "seed": i, "data": {"train": f"s3://b/shards/{data}/train"}}
    config |= {"method": {"name": method, "ipc": ipc, "rounds": 100}, "net": {"name": "convnet", "width": 8}}
    recipe = {**like.recipe.to_json(), "name": config["name"], "method": method, "config": config}
    made = {"recipe.json": to_json(recipe), "data.safetensors": b"x" * (1000 - i), "preview.png": preview}
    yield from ((f"distilled/{name}", body) for name, body in made.items())
    entries = {name: digest(body) for name, body in made.items()}
    yield "distilled/manifest.json", _encode(Manifest(entries, {"format": "raydd-distilled-1"}))
    yield "config.yaml", json.dumps(config).encode()
    status = {"state": "finished", "round": 100, "rounds": 100, "seconds": 60.0 + i, "workers": 2}
    yield "status.json", to_json(status)
    scores = [
        Accuracy(
            of=of,
            protocol="dsa",
            net="convnet",
            mean=mean,
            std=1.25,
            repeats=5,
            each=[mean] * 5,
            images=10,
            storage_bytes=9,
        )
        for of, mean in (("distilled", 40.0 + i * 37 % 101 / 2), ("random", 33.25))
    ]
    yield "evaluation.json", to_json({"results": [score.to_json() for score in scores]})


def make_runs(store: Path, count: int, *, size: int = 28) -> None:
    """Write finished runs run-000 to run-(count - 1)."""
    like = make_set()
    for i in range(count):
        for name, body in files_of(i, like, preview_of(IPCS[i // 6 % 2], size)):
            path = store / f"run-{i:03d}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)


_PREVIEWS: dict[tuple[int, int], bytes] = {}


def preview_of(ipc: int, size: int) -> bytes:
    """Return the picture of a set of ten classes."""
    if (ipc, size) not in _PREVIEWS:
        pixels = random_pixels(10 * ipc, 3, size)
        # A class has its own shade, so that a picture tells which classes it shows.
        shade = (20 * (1 + (pixels.new_tensor(range(10 * ipc)) // ipc)))[:, None, None, None]
        _PREVIEWS[ipc, size] = picture(pixels // 16 + shade, ipc if ipc > 1 else 10)
    return _PREVIEWS[ipc, size]
