"""Sources that hold a whole split as one array: digits, MNIST's family, USPS, SVHN, CIFAR."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import os
import pathlib
import zlib
from collections.abc import Callable

import numpy as np

from raydd.data import plainpickle
from raydd.data.samples import Ref, Samples, by_class
from raydd.errors import DataError

#: uint8 pixels (N, H, W) or (N, H, W, 3), and integer labels (N,), in the order of the files.
Arrays = tuple[np.ndarray, np.ndarray]
Reader = Callable[[pathlib.Path, str], Arrays]

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SPLITS = ("train", "test")


class ArraySource:
    """A source whose split is read whole, once a process."""

    splits = SPLITS
    test_split = "test"

    def __init__(
        self, name: str, root: str, reader: Reader, classes: Callable[[pathlib.Path], tuple[str, ...]]
    ) -> None:
        self.name = name
        self.spec = f"{name}:{os.path.abspath(root)}" if root else name
        self._root = pathlib.Path(os.path.abspath(root)) if root else pathlib.Path()
        self._reader = reader
        self._classes = classes
        self._arrays = functools.cache(self._read)

    def open(self, split: str) -> Samples:
        """List the samples of a split; references are rows of its array."""
        images, labels = self._arrays(split)
        order = by_class(labels)
        return Samples(
            classes=self._classes(self._root),
            labels=labels[order].astype(np.int32),
            refs=[int(row) for row in order],
            channels=3 if images.ndim == 4 else 1,
        )

    def load(self, split: str, ref: Ref) -> np.ndarray:
        """Return the pixels of a row."""
        assert isinstance(ref, int)
        return self._arrays(split)[0][ref]

    def where(self, split: str, ref: Ref) -> str:
        """Return what to call a row."""
        return f"{self.spec} {split} image {ref}"

    def _read(self, split: str) -> Arrays:
        images, labels = self._reader(self._root, split)
        if len(images) != len(labels):
            raise DataError(
                f"{self.spec} {split}: expected a label for each of {len(images)} images, got {len(labels)}"
            )
        if len(labels) == 0:
            raise DataError(f"{self.spec} {split}: expected images, got none")
        num = len(self._classes(self._root))
        if labels.min() < 0 or labels.max() >= num:
            raise DataError(
                f"{self.spec} {split}: expected labels 0 to {num - 1}, got {labels.min()} to {labels.max()}"
            )
        return images, labels


def digits(_root: pathlib.Path, split: str) -> Arrays:
    """Scikit-learn's 1,797 handwritten digits, 8x8; `test` is a fixed fifth of every class, `train` the rest.

    Pixels are 0 to 16 and become `round(v * 255 / 16)`.
    """
    # Both are slow to import, and no other source needs them.
    import torch
    from sklearn.datasets import load_digits

    from raydd.seeding import generator

    flat, target = load_digits(return_X_y=True)
    images, labels = np.asarray(flat).reshape(-1, 8, 8), np.asarray(target).astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        order = torch.randperm(len(rows), generator=generator(0, "digits-test", label)).numpy()
        test[rows[order[: len(rows) // 5]]] = True
    keep = test if split == "test" else ~test
    return np.rint(images[keep] * (255 / 16)).astype(np.uint8), labels[keep]


def mnist(root: pathlib.Path, split: str, name: str = "MNIST") -> Arrays:
    """The four idx files of MNIST or Fashion-MNIST, gzipped or not, flat or in torchvision's `<name>/raw`."""
    folders = (root, root / "raw", root / name / "raw")
    prefix = "train" if split == "train" else "t10k"
    images = _idx(_find(folders, f"{prefix}-images-idx3-ubyte", f"{prefix}-images.idx3-ubyte"), dims=3)
    labels = _idx(_find(folders, f"{prefix}-labels-idx1-ubyte", f"{prefix}-labels.idx1-ubyte"), dims=1)
    return images, labels.astype(np.int64)


def usps(root: pathlib.Path, split: str) -> Arrays:
    """The libsvm text files `usps` and `usps.t` (16x16, values -1 to 1, labels 1 to 10), packed with bzip2 or not.

    Pixels become `round((v + 1) * 127.5)`.
    """
    path = _find((root,), "usps" if split == "train" else "usps.t")
    images, labels = [], []
    for number, line in enumerate(_read_file(path).decode("ascii", "replace").splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        pixels = np.full(256, -1.0)
        try:
            labels.append(round(float(fields[0])) - 1)
            for field in fields[1:]:
                at, value = field.split(":")
                if not 1 <= int(at) <= 256 or not -1.0001 <= float(value) <= 1.0001:
                    raise ValueError(field)
                pixels[int(at) - 1] = float(value)
        except (ValueError, OverflowError) as error:
            raise DataError(f"{path} line {number}: expected `label index:value ...`, got {error}") from error
        images.append(pixels)
    if not images:
        raise DataError(f"{path}: expected images, got none")
    values = np.clip(np.rint((np.stack(images) + 1) * 127.5), 0, 255)
    return values.astype(np.uint8).reshape(-1, 16, 16), np.array(labels, dtype=np.int64)


def svhn(root: pathlib.Path, split: str) -> Arrays:
    """The cropped digits, `train_32x32.mat` and `test_32x32.mat`; label 10 means 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    path = _find((root,), f"{split}_32x32.mat")
    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"].reshape(-1)
    except (MatReadError, OSError, ValueError, TypeError, KeyError, NotImplementedError, zlib.error) as error:
        raise DataError(f"{path}: expected a Matlab 5 file with X and y, got something else ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise DataError(f"{path}: expected X of uint8 (32, 32, 3, N), got {images.dtype} {images.shape}")
    labels = labels.astype(np.int64)
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), np.where(labels == 10, 0, labels)


def cifar10(root: pathlib.Path, split: str) -> Arrays:
    """CIFAR-10's python or binary version, in its own folder or the one above."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    folder = _subfolder(root, "cifar-10-batches-py", names[0])
    if folder is not None:
        return _join([_cifar_pickle(folder / name, "labels") for name in names])
    folder = _subfolder(root, "cifar-10-batches-bin", f"{names[0]}.bin")
    if folder is not None:
        return _join([_cifar_binary(folder / f"{name}.bin", label_bytes=1) for name in names])
    raise DataError(f"{root}: expected {names[0]} or {names[0]}.bin of CIFAR-10, got neither")


def cifar100(root: pathlib.Path, split: str) -> Arrays:
    """CIFAR-100's python or binary version, with its fine labels."""
    folder = _subfolder(root, "cifar-100-python", split)
    if folder is not None and (folder / split).is_file():
        return _cifar_pickle(folder / split, "fine_labels")
    folder = _subfolder(root, "cifar-100-binary", f"{split}.bin")
    if folder is not None:
        return _cifar_binary(folder / f"{split}.bin", label_bytes=2)
    raise DataError(f"{root}: expected {split} or {split}.bin of CIFAR-100, got neither")


def cifar100_classes(root: pathlib.Path) -> tuple[str, ...]:
    """The hundred fine class names, from the file that comes with the version at hand."""
    folder = _subfolder(root, "cifar-100-python", "meta")
    if folder is not None:
        names = plainpickle.load(_read_file(folder / "meta"), str(folder / "meta")).get("fine_label_names")
        items = names if isinstance(names, list) else []
        classes = tuple(item.decode("latin1") if isinstance(item, bytes) else str(item) for item in items)
    else:
        folder = _subfolder(root, "cifar-100-binary", "fine_label_names.txt")
        if folder is None:
            raise DataError(f"{root}: expected meta or fine_label_names.txt of CIFAR-100, got neither")
        classes = tuple(_read_file(folder / "fine_label_names.txt").decode("latin1").split())
    if len(set(classes)) != 100:
        raise DataError(f"{folder}: expected 100 class names, got {len(set(classes))}")
    return classes


def _cifar_pickle(path: pathlib.Path, key: str) -> Arrays:
    content = plainpickle.load(_read_file(path), str(path))
    images, labels = content.get("data"), content.get(key)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3072,):
        raise DataError(f"{path}: expected data of uint8 (N, 3072), got something else")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise DataError(f"{path}: expected {key} to be a list of numbers, got something else")
    return _planes(images), np.array(labels, dtype=np.int64)


def _cifar_binary(path: pathlib.Path, label_bytes: int) -> Arrays:
    data = np.frombuffer(_read_file(path), dtype=np.uint8)
    if len(data) % (3072 + label_bytes):
        raise DataError(
            f"{path}: expected records of {3072 + label_bytes} bytes, got {len(data)} bytes in all: truncated?"
        )
    records = data.reshape(-1, 3072 + label_bytes)
    return _planes(records[:, label_bytes:]), records[:, label_bytes - 1].astype(np.int64)


def _planes(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _join(parts: list[Arrays]) -> Arrays:
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _idx(path: pathlib.Path, dims: int) -> np.ndarray:
    """Read an idx file of unsigned bytes; its header must agree with its length before anything is allocated."""
    with _open(path) as stream:
        try:
            header = stream.read(4 + 4 * dims)
            if len(header) != 4 + 4 * dims or header[:4] != bytes([0, 0, 8, dims]):
                raise DataError(f"{path}: expected an idx file of uint8 with {dims} dimensions, got {header[:4].hex()}")
            shape = tuple(int.from_bytes(header[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
            if any(n == 0 or n > 2**26 for n in shape) or np.prod(shape, dtype=object) > 2**33:
                raise DataError(f"{path}: expected a sane shape, got {shape}")
            expected = int(np.prod(shape, dtype=np.int64))
            data = _read_at_most(stream, expected + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: expected a whole file, got a damaged or truncated one ({error})") from error
    if len(data) != expected:
        raise DataError(
            f"{path}: expected {expected} bytes for shape {shape}, got {'more' * (len(data) > expected) or len(data)}"
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _read_at_most(stream: io.BufferedIOBase, limit: int) -> bytes:
    """Read up to `limit` bytes in pieces, so that a header that lies does not reserve memory."""
    pieces, left = [], limit
    while left and (piece := stream.read(min(left, 2**24))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def _find(folders: tuple[pathlib.Path, ...], *names: str) -> pathlib.Path:
    """Return the first file of one of these names, plain or packed, in one of the folders."""
    for folder in folders:
        for name in names:
            for suffix in ("", ".gz", ".bz2"):
                if (folder / (name + suffix)).is_file():
                    return folder / (name + suffix)
    raise DataError(f"{folders[0]}: expected a file {names[0]} (plain, .gz or .bz2), got none")


def _subfolder(root: pathlib.Path, name: str, file: str) -> pathlib.Path | None:
    for folder in (root, root / name):
        if (folder / file).is_file():
            return folder
    return None


def _open(path: pathlib.Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if path.suffix == ".bz2" else path.open("rb")


def _read_file(path: pathlib.Path, limit: int = 2**30) -> bytes:
    try:
        with _open(path) as stream:
            data = _read_at_most(stream, limit + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: expected a file, got none") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a whole file, got a damaged or unreadable one ({error})") from error
    if len(data) > limit:
        raise DataError(f"{path}: expected at most {limit} bytes, got more")
    return data
