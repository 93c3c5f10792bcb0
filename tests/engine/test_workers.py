"""One result, however many workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import raydd
from raydd.engine import cluster
from raydd.errors import ConfigError
from tests.engine.toys import distil, toy

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_same_bits_for_any_number_of_workers(
    workers: int,
    method: str,
    digits: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    ray_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    from raydd.engine.distributed import RayExecutor

    with monkeypatch.context() as patch:
        # So that the workers can be asked what they did.
        patch.setattr(RayExecutor, "end", lambda self: None)
        assert distil(toy(method, digits, str(tmp_path), workers=workers)) == undisturbed[method]
    told: list[dict[str, Any]] = ray.get([hand.actor.ping.remote() for hand in cluster.hired()], timeout=60)
    busy = [t for t in told if t["slots"]]
    assert len({t["pid"] for t in told}) == len(told) >= workers
    assert os.getpid() not in {t["pid"] for t in told}
    assert len(busy) >= workers, "every worker must have done slots"


def test_evaluation_does_not_depend_on_workers(digits: str, digits_test: str, tmp_path: Path, ray_address: str) -> None:
    scores = []
    for workers in (0, 2):
        config = toy("random", digits, str(tmp_path), workers=workers, data__test=digits_test, evaluate__repeats=3)
        scores.append([a.to_json() for a in raydd.distill(config).accuracies])
    assert scores[0] == scores[1]
    assert scores[0][0]["repeats"] == 3


def test_worker_larger_than_any_node_is_refused(digits: str, tmp_path: Path, ray_address: str) -> None:
    config = toy("dm", digits, str(tmp_path), workers=1, engine__gpus_per_worker=1000)
    with pytest.raises(
        ConfigError, match=r"engine.gpus_per_worker must be <= \d+, the GPUs of the largest node .* got 1000"
    ):
        raydd.distill(config)
