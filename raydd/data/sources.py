"""SOURCE strings: `digits`, `mnist:ROOT`, ... and what each of them means."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

from raydd.data import arrays
from raydd.data.samples import Source
from raydd.data.shards import ShardSource
from raydd.data.trees import FolderSource, ImageNetSource, TinyImageNetSource
from raydd.data.views import ViewSource
from raydd.errors import DataError


class Kind(NamedTuple):
    """One kind of source: a line of help, and what makes it of a ROOT."""

    help: str
    make: Callable[[str], Source]


def _array(name: str, reader: arrays.Reader, classes: tuple[str, ...]) -> Callable[[str], Source]:
    return lambda root: arrays.ArraySource(name, root, reader, lambda _root: classes)


_fashion = functools.partial(arrays.mnist, name="FashionMNIST")

#: Every kind of SOURCE by the text before its colon.
SOURCES: dict[str, Kind] = {
    "digits": Kind(
        "scikit-learn's handwritten digits, 8x8 grey; needs no files", _array("digits", arrays.digits, arrays.DIGITS)
    ),
    "mnist": Kind("MNIST's four idx files, gzipped or not", _array("mnist", arrays.mnist, arrays.DIGITS)),
    "fashion-mnist": Kind(
        "Fashion-MNIST's four idx files, gzipped or not", _array("fashion-mnist", _fashion, arrays.FASHION)
    ),
    "usps": Kind("USPS as libsvm's usps.bz2 and usps.t.bz2", _array("usps", arrays.usps, arrays.DIGITS)),
    "svhn": Kind("SVHN's train_32x32.mat and test_32x32.mat", _array("svhn", arrays.svhn, arrays.DIGITS)),
    "cifar10": Kind("CIFAR-10, python or binary version", _array("cifar10", arrays.cifar10, arrays.CIFAR10)),
    "cifar100": Kind(
        "CIFAR-100, python or binary version",
        lambda root: arrays.ArraySource("cifar100", root, arrays.cifar100, arrays.cifar100_classes),
    ),
    "tiny-imagenet": Kind("Tiny ImageNet's published folder; val is its test split", TinyImageNetSource),
    "imagenet": Kind("ImageNet-1K's class folders or published tars; val is its test split", ImageNetSource),
    "folder": Kind(
        "class folders of images: ROOT/train/<class>, ROOT/test/<class>, or ROOT/<class>; any URL", FolderSource
    ),
    "webdataset": Kind("existing WebDataset shards, indexed in place; any URL", ShardSource),
    "view": Kind('a part of packed shards, perhaps rotated or permuted: view:{"of": URL, "part": [0, 5]}', ViewSource),
}


def is_source(text: str) -> bool:
    """Return whether `text` is a SOURCE rather than the URL of packed shards."""
    name, colon, _ = text.partition(":")
    return name in SOURCES and (bool(colon) or name == "digits")


def parse(text: str) -> Source:
    """Return the source that a SOURCE string names; nothing is read yet.

    Raises:
        DataError: It names no kind of source, or lacks its ROOT.
    """
    name, _, root = text.partition(":")
    if not is_source(text):
        raise DataError(f"expected a SOURCE such as digits or mnist:ROOT, got {text!r}: see raydd datasets")
    if (name == "digits") == bool(root):
        raise DataError(f"expected {'digits alone' if name == 'digits' else name + ':ROOT'}, got {text!r}")
    return SOURCES[name].make(root)


def resolve_split(source: Source, split: str) -> str:
    """Return the split's own name; `test` means whatever split plays the test set.

    Raises:
        DataError: The source has no such split.
    """
    if split == "test" and source.test_split is not None:
        return source.test_split
    if split not in source.splits:
        raise DataError(f"{source.spec}: expected a split of {', '.join(source.splits)}, got {split!r}")
    return split
