"""Real images beside learned ones: which, and where they are kept."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from raydd import api
from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.errors import DataError
from raydd.report.real import RealImages, draw_real, has_real, keep_real, read_real
from raydd.store import Folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ten classes of six noisy images each, packed."""
    root = tmp_path_factory.mktemp("real")
    gen = torch.Generator().manual_seed(0)
    for c in range(10):
        (root / "raw" / "train" / str(c)).mkdir(parents=True)
        for i in range(6):
            pixels = torch.randint(0, 256, (8, 8), generator=gen, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / "raw" / "train" / str(c) / f"{i}.png")
    dest = str(root / "packed" / "train")
    pack(f"folder:{root / 'raw'}", dest, split="train", workers=1)
    return dest


def test_one_image_of_each_class_keyed_by_class(shards):
    data = RealData(shards)
    classes = [*reversed(data.class_names), "no such class"]
    real = draw_real(Folder(shards), classes, 7)
    assert real.labels.tolist() == list(range(10))
    for image, label in zip(real.images, real.labels.tolist(), strict=True):
        of_class = data.images(data.by_class[9 - label])
        assert (of_class == image).flatten(1).all(1).any()
    again, other = (draw_real(Folder(shards), classes, seed) for seed in (7, 8))
    assert torch.equal(again.images, real.images)
    assert not torch.equal(other.images, real.images)


def test_what_was_kept_is_read(tmp_path):
    run = Folder(str(tmp_path))
    assert not has_real(run)
    real = RealImages(torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2), torch.tensor([4, 1]))
    keep_real(run, real)
    assert has_real(run)
    found = read_real(run, (3, 2, 2), 5)
    assert torch.equal(found.images, real.images)
    assert {c: image.tolist() for c, image in found.by_class().items()} == {
        4: real.images[0].tolist(),
        1: real.images[1].tolist(),
    }
    with pytest.raises(DataError, match=r"expected uint8 images \(k, 3, 2, 2\) and k labels below 4 in .*real"):
        read_real(run, (3, 2, 2), 4)
    with pytest.raises(DataError, match=r"got torch.uint8 \(2, 3, 2, 2\) and \(2,\); delete the file"):
        read_real(run, (1, 2, 2), 5)


def test_no_shards(tmp_path):
    with pytest.raises(DataError):
        draw_real(Folder(str(tmp_path)), ["0"], 0)


def test_a_run_keeps_real_images_and_needs_no_data_later(shards, tmp_path, caplog):
    data = Path(shards).parent
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    config = {
        "name": "a",
        "data": {"train": str(mine / "train")},
        "method": {"name": "dm", "rounds": 2, "real_batch": 4},
        "net": {"width": 2, "depth": 1},
        "engine": {"workers": 0},
        "store": str(tmp_path / "runs"),
        "evaluate": {"repeats": 0},
    }
    run = Folder(api.distill(config).url)
    page = run.read("report.html")
    assert b"Real image of class 7" in page
    shutil.rmtree(mine)
    assert api.report(run.url) == f"{run.url}/report.html"
    assert run.read("report.html") == page
    run.folder("history").delete("real.safetensors")
    with caplog.at_level(logging.WARNING, "raydd"):
        api.report(run.url)
    assert "the report shows no real images beside the learned ones" in caplog.text
    assert b"Real image of class 7" not in run.read("report.html")
    with pytest.raises(DataError, match=r"expected a run at .*nowhere, got no config.yaml there; check the URL"):
        api.compare([run.url, str(tmp_path / "nowhere")])
