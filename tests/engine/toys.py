"""Small runs on scikit-learn's digits: several slots a round, which neither 2 nor 3 workers divide evenly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import raydd
from raydd.config import Config, config_from
from raydd.store import Folder

METHODS: dict[str, dict[str, Any]] = {
    # 5 slots of 2 classes each.
    "dm": {"name": "dm", "ipc": 2, "rounds": 12, "real_batch": 8, "classes_per_slot": 2},
    # 5 members of 7 a round, and members that are renewed on the way.
    "frepo": {
        "name": "frepo",
        "rounds": 12,
        "lr_syn": 5e-3,
        "real_batch": 32,
        "pool_size": 7,
        "models_per_round": 5,
        "max_online_updates": 4,
        "lr_net": 1e-2,
    },
    # 10 slots: 5 blocks of classes times 2 networks, which live on all workers; checkpoints fall into an outer iteration.
    "dc": {
        "name": "dc",
        "ipc": 2,
        "rounds": 12,
        "real_batch": 8,
        "classes_per_slot": 2,
        "nets_per_round": 2,
        "outer_loop": 3,
        "inner_loop": 2,
    },
}


# What else there is, in as many rounds, for few tests.
MORE: dict[str, dict[str, Any]] = {
    "dsa": {"rounds": 12, "real_batch": 8, "outer_loop": 2},
    "mmd": {"rounds": 12, "real_batch": 8},
    "dd": {"ipc": 2, "rounds": 12, "inner_steps": 2, "inner_epochs": 2, "real_batch": 32},
    # 5 slots, a network each; two tables, of which no checkpoint of the others has the like.
    "rtp": {
        "rounds": 12,
        "num_bases": 4,
        "inner_steps": 3,
        "inner_batch": 4,
        "real_batch": 4,
        "inits_per_round": 5,
    },
}


def toy(method: str, shards: str, store: str, *, workers: int = 0, **changes: Any) -> Config:
    """Return a run of a few seconds; `changes` are dotted keys with `__` for the dot."""
    raw = {
        "name": f"{method}-{workers}",
        "data": {"train": shards},
        "net": {"width": 8},
        "method": METHODS.get(method, {"name": method, **MORE.get(method, {})}),
        "engine": {"workers": workers, "checkpoint_every": 4, "checkpoint_every_s": 3600, "replace_timeout_s": 60},
        "store": store,
        "evaluate": {"repeats": 0},
    }
    return config_from(raw, [f"{key.replace('__', '.')}={value}" for key, value in changes.items()])


def bits(run: str | Path) -> bytes:
    """Return the learned tensors, byte by byte."""
    return Folder(str(run)).folder("distilled").read("data.safetensors")


def distil(config: Config, **options: Any) -> bytes:
    """Run a config and return its learned tensors."""
    return bits(raydd.distill(config, **options).url)
