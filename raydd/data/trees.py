"""Sources that are folders (or tars) of encoded images: class folders, Tiny ImageNet, ImageNet-1K."""

from __future__ import annotations

import functools
import io
import os
import pathlib
import tarfile
from collections.abc import Sequence

import numpy as np

from raydd.data import tars
from raydd.data.images import IMAGE_SUFFIXES
from raydd.data.samples import Ref, Samples
from raydd.errors import DataError
from raydd.store import Folder

_TEST_SPLITS = ("test", "val", "valid", "validation")
_VAL_TAR, _TRAIN_TAR, _DEVKIT = "ILSVRC2012_img_val.tar", "ILSVRC2012_img_train.tar", "ILSVRC2012_devkit_t12.tar.gz"


class FolderSource:
    """Class folders: `ROOT/train/<class>/...` and `ROOT/test/<class>/...`, or `ROOT/<class>/...` alone.

    The classes are the training split's folders, sorted, whichever split is read. ROOT may be any fsspec URL.
    """

    name = "folder"
    channels: int | None = None

    def __init__(self, root: str) -> None:
        self._root = Folder(root)
        self.spec = f"{self.name}:{self._root.url}"

    @functools.cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(self._root.folders())

    @functools.cached_property
    def splits(self) -> tuple[str, ...]:
        """The split folders that are there; `train` alone where the class folders stand in ROOT itself."""
        found = tuple(split for split in ("train", *_TEST_SPLITS) if split in self._folders)
        return found or ("train",)

    @property
    def test_split(self) -> str | None:
        """The first of `test`, `val`, `valid`, `validation` that is there."""
        return next((split for split in self.splits if split in _TEST_SPLITS), None)

    def open(self, split: str) -> Samples:
        """List the images below the class folders, sorted by name."""
        classes = self._class_folders("train" if "train" in self.splits else split)
        unknown = sorted(set(self._class_folders(split)) - set(classes))
        if unknown:
            raise DataError(f"{self.spec}: expected the classes of train, got {unknown[0]} in {split} as well")
        return _join(self.spec, classes, [self._images(self._path(split, name)) for name in classes], self.channels)

    def load(self, split: str, ref: Ref) -> bytes:
        """Return a file's bytes, or those of a member of a tar."""
        try:
            if isinstance(ref, tuple):
                name, offset, length = ref
                return self._root.read(name, offset, offset + length)
            return self._root.read(str(ref))
        except FileNotFoundError:
            raise DataError(f"{self.where(split, ref)}: expected an image, got nothing: was it just deleted?") from None

    def where(self, split: str, ref: Ref) -> str:
        """Return the file's URL, and the place within it where it is a tar."""
        name, place = (ref[0], f" at byte {ref[1]}") if isinstance(ref, tuple) else (str(ref), "")
        return f"{self._root.url}/{name}{place}"

    def _path(self, split: str, name: str) -> str:
        return f"{split}/{name}" if split in self._folders else name

    def _class_folders(self, split: str) -> list[str]:
        there = split in self._folders
        names = (self._root.folder(split) if there else self._root).folders()
        return [name for name in names if not name.startswith(".")]

    def _images(self, prefix: str) -> list[Ref]:
        folder = self._root.folder(*prefix.split("/"))
        return [f"{prefix}/{name}" for name in folder.list() if _is_image(name)]


class TinyImageNetSource(FolderSource):
    """Tiny ImageNet as published; its `val` split plays the test set. Classes in the order of `wnids.txt`."""

    name = "tiny-imagenet"
    channels = 3
    splits = ("train", "val")
    test_split = "val"

    def open(self, split: str) -> Samples:
        """List the images of `train/<wnid>/images`, or of `val/images` by `val/val_annotations.txt`."""
        classes = self._text("wnids.txt").split()
        if split == "train":
            groups = [self._images(f"train/{wnid}/images") for wnid in classes]
        else:
            groups = self._val(classes)
        return _join(self.spec, classes, groups, self.channels)

    def _val(self, classes: list[str]) -> list[list[Ref]]:
        there = set(self._images("val/images"))
        groups: dict[str, list[Ref]] = {wnid: [] for wnid in classes}
        for number, line in enumerate(self._text("val/val_annotations.txt").splitlines(), 1):
            fields = line.split()
            name = f"val/images/{fields[0]}" if fields else ""
            if len(fields) < 2 or fields[1] not in groups or name not in there:
                where = f"{self._root.url}/val/val_annotations.txt line {number}"
                raise DataError(f"{where}: expected a file of val/images and a class of wnids.txt, got {line[:80]!r}")
            groups[fields[1]].append(name)
        return [sorted(group, key=str) for group in groups.values()]

    def _text(self, name: str) -> str:
        try:
            return self._root.read(name).decode("utf-8", "replace")
        except FileNotFoundError:
            raise DataError(f"{self._root.url}: expected Tiny ImageNet's {name}, got none") from None


class ImageNetSource(FolderSource):
    """ImageNet-1K as class folders (`train/<wnid>`, `val/<wnid>`) or as the published tars, read in place.

    The tars are `ILSVRC2012_img_train.tar` (of a tar a class) and, for `val`, `ILSVRC2012_img_val.tar` with
    `ILSVRC2012_devkit_t12.tar.gz`; they must be local. Classes are the sorted wnids, the field's order.
    """

    name = "imagenet"
    channels = 3

    @functools.cached_property
    def splits(self) -> tuple[str, ...]:
        """`train` and `val`, as far as they are there."""
        tar_names = {"train": _TRAIN_TAR, "val": _VAL_TAR}
        return tuple(s for s in ("train", "val") if s in self._folders or self._root.exists(tar_names[s])) or ("train",)

    def open(self, split: str) -> Samples:
        """List the images of the class folders, or of the tar where there are none."""
        if split in self._folders:
            return super().open(split)
        groups = self._train_tar() if split == "train" else self._val_tar()
        return _join(self.spec, sorted(groups), [groups[wnid] for wnid in sorted(groups)], self.channels)

    def _tar(self, name: str) -> pathlib.Path:
        if not self._root.is_local:
            raise DataError(f"{self.spec}: expected class folders or, on a local disk, the published tars, got a store")
        path = pathlib.Path(self._root.local_path) / name
        if not path.is_file():
            raise DataError(f"{self.spec}: expected class folders or {name}, got neither")
        return path

    def _train_tar(self) -> dict[str, list[Ref]]:
        path = self._tar(_TRAIN_TAR)
        groups: dict[str, list[Ref]] = {}
        with path.open("rb") as stream:
            for inner in tars.members(stream, str(path)):
                where = f"{path} member {inner.name}"
                window = _Window(stream, inner.offset, inner.size)
                images = [m for m in tars.members(io.BufferedReader(window), where) if _is_image(m.name)]
                images.sort(key=lambda m: m.name)
                groups[os.path.basename(inner.name).removesuffix(".tar")] = [
                    (_TRAIN_TAR, inner.offset + m.offset, m.size) for m in images
                ]
        return groups

    def _val_tar(self) -> dict[str, list[Ref]]:
        path = self._tar(_VAL_TAR)
        with path.open("rb") as stream:
            images = sorted((m for m in tars.members(stream, str(path)) if _is_image(m.name)), key=lambda m: m.name)
        wnids = _devkit(self._tar(_DEVKIT))
        if len(wnids) != len(images):
            raise DataError(f"{path}: expected {len(wnids)} images as the devkit says, got {len(images)}")
        groups: dict[str, list[Ref]] = {}
        for wnid, member in zip(wnids, images, strict=True):
            groups.setdefault(wnid, []).append((_VAL_TAR, member.offset, member.size))
        return groups


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, stream: io.BufferedReader, start: int, size: int) -> None:
        self._stream, self._start, self._size, self._at = stream, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # pyrefly: ignore[bad-override]
        self._stream.seek(self._start + self._at)
        data = self._stream.read(max(0, min(len(buffer), self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _devkit(path: pathlib.Path) -> list[str]:
    """Return the wnid of every validation image in the order of their names."""
    from scipy.io import loadmat

    folder = "ILSVRC2012_devkit_t12/data"
    try:
        with tarfile.open(path, "r:gz") as tar:
            meta_file = tar.extractfile(f"{folder}/meta.mat")
            truth_file = tar.extractfile(f"{folder}/ILSVRC2012_validation_ground_truth.txt")
            assert meta_file is not None
            assert truth_file is not None
            synsets = loadmat(io.BytesIO(meta_file.read()), squeeze_me=True, variable_names=["synsets"])["synsets"]
            truth = [int(line) for line in truth_file.read().split()]
        wnids = {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets if int(s["num_children"]) == 0}
        return [wnids[number] for number in truth]
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError, TypeError, AssertionError) as error:
        raise DataError(f"{path}: expected ImageNet's development kit, got something else ({error})") from error


def _is_image(name: str) -> bool:
    base = os.path.basename(name)
    return base.lower().endswith(IMAGE_SUFFIXES) and not base.startswith(".")


def _join(spec: str, classes: Sequence[str], groups: Sequence[Sequence[Ref]], channels: int | None) -> Samples:
    if not classes:
        raise DataError(f"{spec}: expected class folders with images, got none")
    for name, group in zip(classes, groups, strict=True):
        if not group:
            raise DataError(f"{spec}: expected images of every class, got none of {name}")
    counts = [len(group) for group in groups]
    return Samples(
        classes=tuple(classes),
        labels=np.repeat(np.arange(len(classes), dtype=np.int32), counts),
        refs=[ref for group in groups for ref in group],
        channels=channels,
    )
