"""Ctrl-C and SIGTERM while workers work: the run ends at once, says so, and goes on to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from raydd.config import dump_config
from tests.engine.toys import bits, distil, toy

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_with_workers(
    number: signal.Signals,
    digits: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    ray_address: str,
    raydd_command: list[str],
) -> None:
    config = toy("frepo", digits, str(tmp_path), workers=2)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    run = tmp_path / config.name
    with subprocess.Popen(
        [*raydd_command, "distill", str(path)],
        env={**os.environ, "RAY_ADDRESS": ray_address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        deadline = time.monotonic() + 120
        while not (run / "checkpoints" / "00000000" / "manifest.json").exists():
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        driver.send_signal(number)
        _, said = driver.communicate(timeout=60)
    assert driver.returncode == 128 + number
    assert said.splitlines()[-1] == "raydd: interrupted; the same command goes on from the last checkpoint"
    assert distil(config) == undisturbed["frepo"]
    assert bits(run) == undisturbed["frepo"]
