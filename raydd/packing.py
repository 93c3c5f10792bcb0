"""Where a SOURCE is packed, once, and when: before the work that names it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from raydd.config import AppConfig, Config
from raydd.data.pack import pack
from raydd.data.sources import is_source, parse
from raydd.distilled import DistilledSet
from raydd.errors import StoreError
from raydd.store import Folder
from raydd.watchers import Watcher


def packed_size(ds: DistilledSet) -> int | None:
    """Return the `data.size` of the run that made a set: a SOURCE is packed as it was there."""
    data = ds.recipe.config.get("data")
    size = data.get("size") if isinstance(data, dict) else None
    return size if isinstance(size, int) else None


def packed(config: Config | AppConfig, watcher: Watcher) -> tuple[str, str | None]:
    """Return the URLs of the packed training and test splits, after packing what is a SOURCE."""
    data, place = config.data, beside(config.store)
    train = pack_once(data.train, place, "train", data.size, watcher)
    if data.test is not None:
        return train, pack_once(data.test, place, "test", data.size, watcher)
    if is_source(data.train) and parse(data.train).test_split in parse(data.train).splits:
        return train, pack_once(data.train, place, "test", data.size, watcher)
    return train, None


def beside(store: str) -> str:
    """Return the folder of shards beside a store; inside it where the store is a bucket's root."""
    folder = Folder(store)
    try:
        return folder.parent.folder("shards").url
    except StoreError:
        return folder.folder("shards").url


def pack_once(source: str, shards: str, split: str, size: int | None, watcher: Watcher) -> str:
    """Return packed shards as they are; pack a SOURCE first, under a name of its own."""
    if not is_source(source):
        return source
    dest = packed_at(source, shards, split, size)
    pack(source, dest, split=split, size=size, workers=_packers(source.partition(":")[0]), progress=watcher.packing)
    return dest


def packed_training(ds: DistilledSet) -> str | None:
    """Return where the training shards lie, or lay, that a set was distilled from; None where its recipe does not say."""
    config = ds.recipe.config
    data = config.get("data")
    if not isinstance(data, dict) or not data.get("train"):
        return None
    train = str(data["train"])
    if not is_source(train):
        return train
    return packed_at(train, beside(str(config.get("store", "runs"))), "train", packed_size(ds))


def packed_at(source: str, shards: str, split: str, size: int | None) -> str:
    """Return where a split of a SOURCE is packed."""
    kind, _, root = source.partition(":")
    name = "-".join(filter(None, [kind, _short(root), str(size) if size else ""]))
    return Folder(shards).folder(name, split).url


def _short(root: str) -> str:
    if not root:
        return ""
    plain = root if "://" in root or root.startswith("{") else os.path.abspath(root)
    called = "" if root.startswith("{") else f"{Path(root).name}-"
    return f"{called}{hashlib.sha256(plain.encode()).hexdigest()[:8]}"


def _packers(kind: str) -> int:
    return 1 if kind == "digits" else os.cpu_count() or 1
