"""Real data as they lie beside the repository, where they do."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raydd.data.names import PARTS
from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.data.transforms import channel_statistics, statistics


def test_mnist_test_split(shared: Path, tmp_path: Path) -> None:
    index = pack(f"mnist:{shared / 'mnist'}", str(tmp_path / "out"), split="test")
    # The class counts that are known of MNIST's test set.
    assert index.counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean, std = channel_statistics(index)
    published = statistics("mnist", "dc")
    assert published is not None
    torch.testing.assert_close(torch.stack([mean, std]), torch.stack(published), atol=3e-3, rtol=0)
    data = RealData(str(tmp_path / "out"))
    total = sum(int(x.long().sum()) for x, _ in data.stream(1000))
    assert total == int(index.channel_sum.sum())


def test_imagenet_sample_of_odd_sizes_and_grey_images(shared: Path, tmp_path: Path) -> None:
    with tarfile.open(shared / "imagenet-1k-sample.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    index = pack(f"imagenet:{tmp_path / 'imagenet-1k-sample'}", str(tmp_path / "out"), size=64)
    assert (len(index), len(index.classes), index.channels, index.size) == (1000, 1000, 3, 64)
    assert index.classes[0] == "n01440764"
    for part, members in PARTS.items():
        assert all(index.classes[position] == wnid for position, wnid in members.items()), part
    images = RealData(str(tmp_path / "out"), classes=list(range(0, 1000, 50))).images(torch.arange(20))
    assert images.shape == (20, 3, 64, 64)
    equal = (index.channel_sum[:, 0] == index.channel_sum[:, 1]) & (index.channel_sum[:, 1] == index.channel_sum[:, 2])
    files = [next((tmp_path / "imagenet-1k-sample" / "train" / name).iterdir()) for name in index.classes]
    grey = np.array([Image.open(io.BytesIO(file.read_bytes())).mode == "L" for file in files])
    assert grey.sum() == 23
    assert equal[grey].all()
