from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raydd.config import SweepConfig, sweep_base
from raydd.data.pack import pack
from raydd.sweep.plan import SweepPlan, plan_sweep
from raydd.sweep.records import Score, State, Trial

SPACE: dict[str, Any] = {"method.ipc": {"grid": [1, 2]}, "method.lr_syn": {"loguniform": [0.1, 10]}}


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both splits of digits, packed."""
    root = tmp_path_factory.mktemp("shards")
    for split in ("train", "test"):
        pack("digits", str(root / split), split=split)
    return {split: str(root / split) for split in ("train", "test")}


def said(shards: dict[str, str], store: str | Path, **sweep: Any) -> dict[str, Any]:
    """A sweep of trials of a second."""
    return {
        "name": "s",
        "data": {**shards, "val_fraction": 0.1},
        "net": {"width": 4, "depth": 1},
        "method": {"name": "dm", "rounds": 12, "real_batch": 8},
        "engine": {"workers": 0, "checkpoint_every": 2},
        "evaluate": {"repeats": 1, "baselines": ["random"], "protocol": "dc"},
        "store": str(store),
        "track": [],
        "sweep": {"space": SPACE, "trials": 4, "scheduler": "none", "max_concurrent": 2, **sweep},
    }


def planned(raw: dict[str, Any], *overrides: str) -> SweepPlan:
    data = raw["data"]
    return plan_sweep(sweep_base(raw, overrides), data["train"], data.get("test"))


def section(**given: Any) -> SweepConfig:
    return SweepConfig.model_validate({"space": SPACE, **given})


def trial(
    index: int, *accuracies: float, state: State = "finished", ipc: int = 1, shares: tuple[float, ...] = (), **more: Any
) -> Trial:
    """A trial with scores evenly over its rounds, or at some shares of them."""
    shares = shares or tuple(100 * (i + 1) / len(accuracies) for i in range(len(accuracies)))
    scores = tuple(
        Score(round=round(share), share=share, accuracy=accuracy, std=0.0)
        for share, accuracy in zip(shares, accuracies, strict=True)
    )
    given = {
        "drawn": {"method.ipc": ipc},
        "point": {"method.ipc": ipc},
        "storage_bytes": 1000 * ipc if scores else None,
        "accuracy": accuracies[-1] if state == "finished" and scores else None,
    }
    return Trial(index=index, ipc=ipc, state=state, scores=scores, **{**given, **more})
