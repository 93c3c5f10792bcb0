"""Applications find the same with a worker as without, bit for bit; adapt and search have tests of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.apps.small import config_of, findings, halves

DM = {"name": "dm", "ipc": 1, "rounds": 2, "real_batch": 8}
RTP = {"name": "rtp", "ipc": 2, "num_bases": 4, "rounds": 2, "inner_steps": 2, "inner_batch": 2, "real_batch": 4}
RECALL = {"tasks": 2, "ways": [2], "draws": 2, "whole_draws": 1, "test_images": 5, "updates": 3}
EPISODES = {"episodes": 2, "episode_ways": 3, "shots": [1]}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    place = tmp_path_factory.mktemp("workers")
    return place, *halves(place)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "methods", "app", "evaluate"),
    [
        (
            "recall",
            [DM, RTP | {"address": "image", "task_classes": 3}],
            RECALL | EPISODES,
            {"baselines": ["random@bytes", "whole"]},
        ),
        (
            "privacy",
            [DM],
            {"members": 40, "chunks": 1, "updates": [1, 4], "batch": 16},
            {"baselines": ["random", "whole"]},
        ),
        ("continual", [DM], {"kind": "classes", "steps": 2}, {"baselines": ["random@bytes"]}),
        (
            "continual",
            [DM],
            {"kind": "tasks", "updates": 3, "finetune": 2, "batch": 16},
            {"nets": "auto", "baselines": []},
        ),
    ],
)
def test_one_worker_finds_the_same(
    ray_address: str,
    digits: tuple[Path, str, str],
    kind: str,
    methods: list[dict[str, Any]],
    app: dict[str, Any],
    evaluate: dict[str, Any],
) -> None:
    place, train, test = digits
    data = {"train": train, "test": test, "classes": [0, 1, 2, 3]}
    if app.get("kind") == "tasks":
        app, data = {**app, "tasks": [train, test], "tests": [test, train]}, {"classes": [0, 1, 2, 3]}
    raw = {
        "name": app.get("kind", kind),
        "data": data,
        "net": {"width": 4, "depth": 1},
        "methods": methods,
        "evaluate": {"protocol": "rtp", "nets": ["mlp"], "repeats": 1, **evaluate},
        "app": app,
    }
    alone, with_one = (
        findings(kind, config_of(kind, raw, store=str(place / str(workers)), engine={"workers": workers}))
        for workers in (0, 1)
    )
    assert with_one == alone
