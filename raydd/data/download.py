"""Fetches the data sets whose publishers let anyone have them: addresses and checksums are torchvision's."""

from __future__ import annotations

import functools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from raydd.data.sources import parse, resolve_split
from raydd.errors import DataError, StoreFault, UserError

PATIENCE_S = 60.0
ARCHIVES = (".tar.gz", ".zip")
TINY = "tiny-imagenet-200"


class Part(NamedTuple):
    """A file that is fetched: where from, one address after another, and its MD5 in hexadecimal digits."""

    urls: tuple[str, ...]
    md5: str


def _idx_files(name: str) -> list[Part]:
    from torchvision import datasets

    known = getattr(datasets, name)
    return [Part(tuple(mirror + file for mirror in known.mirrors), md5) for file, md5 in known.resources]


def _file_a_split(name: str) -> list[Part]:
    from torchvision import datasets

    known = getattr(datasets, name)
    return [Part((url,), md5) for url, _, md5 in (known.split_list[split] for split in ("train", "test"))]


def _archive(name: str) -> list[Part]:
    from torchvision import datasets

    known = getattr(datasets, name)
    return [Part((known.url,), known.tgz_md5)]


def _tiny() -> list[Part]:
    return [Part((f"http://cs231n.stanford.edu/{TINY}.zip",), "90528d7ca1a48142e341f4ef8d21d0de")]


#: What can be fetched, by kind of SOURCE.
DOWNLOADS: dict[str, Callable[[], list[Part]]] = {
    "mnist": functools.partial(_idx_files, "MNIST"),
    "fashion-mnist": functools.partial(_idx_files, "FashionMNIST"),
    "usps": functools.partial(_file_a_split, "USPS"),
    "svhn": functools.partial(_file_a_split, "SVHN"),
    "cifar10": functools.partial(_archive, "CIFAR10"),
    "cifar100": functools.partial(_archive, "CIFAR100"),
    "tiny-imagenet": _tiny,
}


def download(source: str, split: str) -> None:
    """Fetch a SOURCE's files into its ROOT, unless the split can be read already.

    A file is under its own name only once it is whole; an archive is unpacked and kept.

    Args:
        source: Such as `cifar10:data/cifar10`.
        split: As for `raydd.data.pack.pack`.

    Raises:
        UserError: When this kind of SOURCE cannot be fetched, or its archive would not lie at ROOT.
        StoreFault: When no address answers with what was published.
    """
    kind, _, root = source.partition(":")
    if kind not in DOWNLOADS:
        raise UserError(f"--download fetches {', '.join(DOWNLOADS)}, got {source!r}; get its files yourself")
    reader = parse(source)
    try:
        reader.open(resolve_split(reader, split))
        return
    except DataError:
        pass
    if "://" in root:
        raise UserError(
            f"--download fetches into a folder of this machine, got {root!r}; fetch there, and pack from there"
        )
    folder = Path(root).absolute()
    if kind == "tiny-imagenet":
        if folder.name != TINY:
            raise UserError(f"expected a ROOT that ends in {TINY}, the folder in its archive, got {root!r}")
        folder = folder.parent
    for part in DOWNLOADS[kind]():
        _fetch(part, folder)


def _fetch(part: Part, folder: Path) -> None:
    from torchvision.datasets.utils import check_integrity, extract_archive

    path = folder / part.urls[0].rpartition("/")[2]
    if not check_integrity(path, part.md5):
        _fetch_from_one(part, path)
    if path.name.endswith(ARCHIVES):
        # Aside, so that what was unpacked in part is never taken for the data set.
        aside = folder / f"{path.name}.unpacked"
        shutil.rmtree(aside, ignore_errors=True)
        extract_archive(path, aside)
        for each in aside.iterdir():
            if (folder / each.name).is_dir():
                shutil.copytree(each, folder / each.name, dirs_exist_ok=True)
            else:
                os.replace(each, folder / each.name)
        shutil.rmtree(aside)


def _fetch_from_one(part: Part, path: Path) -> None:
    from torchvision.datasets.utils import download_url

    partial, errors = path.with_name(f"{path.name}.part"), []
    for url in part.urls:
        try:
            with _patience():
                download_url(url, path.parent, partial.name, part.md5)
            os.replace(partial, path)
            return
        # A RuntimeError: what came is not what was published.
        except (OSError, HTTPException, RuntimeError) as error:
            errors.append(f"{url}: {str(error) or type(error).__name__}")
        finally:
            partial.unlink(missing_ok=True)
    raise StoreFault(f"expected to fetch {path.name}, got {'; '.join(errors)}; try again, or get its files yourself")


@contextmanager
def _patience() -> Iterator[None]:
    """Wait for an answer, or for more of it, so long and no longer: torchvision's fetching takes no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
