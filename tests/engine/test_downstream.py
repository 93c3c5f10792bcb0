"""The example of Ray Train runs as it stands, on a cluster that it is told of."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raydd.data.pack import pack
from raydd.engine.cluster import release_idle
from raydd.store import Folder
from tests.sets import digits_set

EXAMPLE = Path(__file__).parents[2] / "jobs" / "downstream" / "ray_train.py"


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_two_workers_train_on_a_set(digits: str, tmp_path: Path, ray_address: str) -> None:
    digits_set(digits).save(Folder(str(tmp_path / "set")))
    pack("digits", str(tmp_path / "test"), split="test")
    release_idle()
    words = [sys.executable, str(EXAMPLE), "set", "--test", "test", "--workers", "2", "--epochs", "100"]
    # As few processes as may be, and time for them to start on a machine that is busy.
    leaner = {"METRICS_ENABLED": "0", "ENABLE_PREEMPTION_WATCHER": "0", "WORKER_GROUP_START_TIMEOUT_S": "240"}
    env = {**os.environ, "RAY_ADDRESS": ray_address, **{f"RAY_TRAIN_{key}": value for key, value in leaner.items()}}
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    found = re.search(
        rf"^trained by 2 workers: ([\d.]+) % of the real images of {tmp_path}/test$", done.stdout, re.MULTILINE
    )
    assert found is not None, done.stdout
    assert float(found[1]) > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "test"]
