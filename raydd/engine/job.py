"""A job: a resolved config over a data set whose facts are known. Everything a worker is told when a run begins."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import torch

from raydd.config import Config, DataFacts
from raydd.data.index import Index
from raydd.data.names import data_name
from raydd.data.reader import RealData
from raydd.methods import Problem
from raydd.nets.stored import Networks


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a worker needs to know.

    Attributes:
        config: The resolved config.
        shards: URL of the packed training images.
        index_hash: What names the data set; a worker that reads another one refuses.
    """

    config: Config
    shards: str
    index_hash: str

    @property
    def hash(self) -> str:
        """The config hash, over all that decides the result's bits."""
        return self.config.hash(self.index_hash)

    @property
    def whitening_key(self) -> str:
        """What a fitted whitening depends on: runs that share it share the whitening."""
        data = self.config.data
        what = [self.index_hash, data.classes, data.val_fraction, self.config.seed if data.val_fraction else 0]
        how = [data.statistics, self.config.method.default_protocol, self.config.engine.cpus_per_worker]
        return hashlib.sha256(json.dumps([what, how]).encode()).hexdigest()[:32]


def open_real(config: Config, shards: str) -> RealData:
    """Open the training part of packed shards; reads the index and no image."""
    data = config.data
    return RealData(
        shards,
        classes=data.classes,
        part="train",
        val_fraction=data.val_fraction,
        seed=config.seed,
        cache=data.cache,
        window=data.window,
        window_rounds=data.window_rounds,
    )


def facts_of(real: RealData) -> DataFacts:
    """Return what defaults depend on."""
    index: Index = real.index
    return DataFacts(
        name=data_name(index.name, real.class_names),
        channels=index.channels,
        size=index.size,
        num_classes=real.num_classes,
        smallest_class=min(int(count) for count in real.counts),
    )


def problem_of(config: Config, real: RealData, device: torch.device | None = None) -> Problem:
    """Return the data set as a method sees it."""
    device = device or torch.device("cpu")
    start = getattr(config.method, "init_from", None)
    return Problem(
        facts=facts_of(real),
        seed=config.seed,
        by_class=tuple(real.by_class),
        windows=real.windows,
        networks=None if start is None else Networks(start),
        device=device,
    )
