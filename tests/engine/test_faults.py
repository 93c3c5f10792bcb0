"""What happens to a run when workers and nodes die, freeze, or err; `nodes.py` does it, on a cluster of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine import nodes

# The first test waits for all that happens on the cluster: three minutes of two busy cores.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What came of everything, by name."""
    path = tmp_path_factory.mktemp("nodes") / "reports.json"
    command = [sys.executable, "-m", "tests.engine.nodes", str(path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=env, capture_output=True, text=True, timeout=800, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    sys.stdout.write(done.stdout)
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "name",
    [
        "worker killed",
        "two workers killed at once",
        "worker frozen",
        "worker killed that kept its rows",
        "worker frozen that others wait for",
        "NaN from one worker",
        "node killed, nothing to replace it",
        "node added",
        "node killed, another has room",
        "node frozen, nothing to replace it",
    ],
)
def test_goes_on_to_the_same_bits(name: str, reports: dict[str, dict[str, Any]]) -> None:
    report = reports[name]
    assert (report["outcome"], report["error"]) == ("same bits", "")
    assert report["status"]["faults"] == (0 if name == "node added" else 1)
    assert len(report["workers"]) >= nodes.ROUNDS


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        (
            "NaN from every worker",
            3,
            r"slot 0 gave NaN or infinity in round 6, on another worker as well; lower method.lr_syn, .* is kept",
        ),
        (
            "worker without memory",
            1,
            r"worker \d+ at [\d.]+ ran out of memory at round 6 \(.*can't allocate memory.*\); give workers more memory .* kept",
        ),
        (
            "worker killed again and again",
            1,
            r"lost workers 3 times since the last checkpoint, 3 times in round 6 .*; it looks as if they run out of memory: "
            r"give workers more memory \(fewer of them on a node\), or lower method.classes_per_slot .* is kept",
        ),
        (
            "shard corrupted, worker killed",
            2,
            r"/.*/shard-000000.tar: expected sha256 \w+, got \w+: pack or copy it again",
        ),
    ],
)
def test_ends_with_one_line(name: str, code: int, text: str, reports: dict[str, dict[str, Any]]) -> None:
    report = reports[name]
    assert (report["outcome"], report["code"]) == ("ends", code)
    assert re.fullmatch(text, report["error"]), report["error"]
    assert report["checkpoints"][-1] == f"{nodes.CHECKPOINT:08d}", "the last checkpoint must be left"


def test_numbers_of_workers(reports: dict[str, dict[str, Any]]) -> None:
    """Lost ones are replaced where there is room, else the run goes on with fewer; new ones join at a checkpoint."""
    for name in ("worker killed", "two workers killed at once", "node killed, another has room"):
        assert set(reports[name]["workers"]) == {3}
    for name in ("node killed, nothing to replace it", "node frozen, nothing to replace it"):
        assert reports[name]["workers"][-1] == 2
        assert "going on with 2 of 3 workers" in reports[name]["texts"]
    joined = reports["node added"]["workers"]
    assert joined == [2] * 8 + [3] * 8, "at the checkpoint of round 8, and no round is done twice"


def test_workers_share_gpus_as_they_were_told_to(reports: dict[str, dict[str, Any]]) -> None:
    """Two nodes of one GPU each, as Ray counts them."""
    whole, half = reports["gpus"]["1.0"], reports["gpus"]["0.5"]
    assert len({node for node, _ in whole}) == len(whole) == 2
    assert half == sorted(whole * 2)
    assert all(ids == [0] for _, ids in half)


def test_workers_are_spread_over_nodes(reports: dict[str, dict[str, Any]]) -> None:
    assert reports["placement"]["nodes"] == 3
