"""Tiny data sets in the layouts of the real ones, with pixels that can be told apart."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(number: int, height: int, width: int, channels: int) -> np.ndarray:
    """Pixels of image `number`: uint8 (H, W) or (H, W, 3), reproducible, all different."""
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format)
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.tobytes()


def write_mnist(
    root: Path, images: np.ndarray, labels: np.ndarray, *, prefix: str = "train", packed: bool = False
) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for kind, data in (("images-idx3", idx(images)), ("labels-idx1", idx(labels.astype(np.uint8)))):
        name = f"{prefix}-{kind}-ubyte"
        (root / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)


def small_mnist(root: Path, num: int = 40, size: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """MNIST's train files with `num` images, labels 0..9 in turn; returns what was written."""
    images = np.stack([pixels(i, size, size, 1) for i in range(num)])
    labels = np.arange(num) % 10
    write_mnist(root, images, labels)
    return images, labels


def cifar_pickle(path: Path, images: np.ndarray, content: Mapping[bytes, object]) -> None:
    """A file as CIFAR's authors pickled theirs; `images` is (N, 32, 32, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), 3072)
    path.write_bytes(pickle.dumps({b"data": rows, **content}, protocol=2))


def write_folder(root: Path, classes: Mapping[str, list[np.ndarray]], format: str = "PNG") -> None:
    suffix = {"PNG": "png", "JPEG": "JPEG", "BMP": "bmp"}[format]
    for name, arrays in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number, array in enumerate(arrays):
            (root / name / f"{number:03d}.{suffix}").write_bytes(encoded(array, format))


def tar(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
