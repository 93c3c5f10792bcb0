"""Whatever dies, the result is the one of an undisturbed run, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import raydd
from raydd.api import Silent
from raydd.config import dump_config
from raydd.engine import cluster
from raydd.engine.coordinator import Progress
from tests.engine.toys import METHODS, bits, distil, toy

pytestmark = pytest.mark.ray


class Killer(Silent):
    """Kills a worker when a round is done, once."""

    def __init__(self, at: int) -> None:
        self.at, self.killed = at, 0
        self.rounds: list[int] = []

    def round(self, progress: Progress) -> None:
        import ray

        self.rounds.append(progress.round)
        if progress.round == self.at and not self.killed:
            self.killed = ray.get(cluster.hired()[0].actor.ping.remote(), timeout=60)["pid"]
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.usefixtures("punctual")
@pytest.mark.parametrize("method", [*METHODS, "rtp"])
def test_killed_worker_is_replaced(
    method: str, digits: str, undisturbed: dict[str, bytes], tmp_path: Path, ray_address: str
) -> None:
    config = toy(method, digits, str(tmp_path), workers=2)
    killer = Killer(at=7)
    run = raydd.distill(config, watcher=killer)
    assert bits(run.url) == undisturbed[method]
    assert killer.rounds.count(6) == 2, "rounds since the last checkpoint are done again"
    assert (run.status()["faults"], run.status()["workers"]) == (1, 2)


# The checkpoint of round 0, and one that is later: of round 4, but for a slow disk.
@pytest.mark.parametrize("after", ["checkpoints/*[1-9]/manifest.json", "lease"])
def test_killed_driver_goes_on(
    after: str,
    method: str,
    digits: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    ray_address: str,
    raydd_command: list[str],
) -> None:
    config = toy(method, digits, str(tmp_path), workers=2)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    run = tmp_path / config.name
    with subprocess.Popen(
        [*raydd_command, "distill", str(path), "--set", "method.rounds=12"],
        env={**os.environ, "RAY_ADDRESS": ray_address, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as driver:
        deadline = time.monotonic() + 120
        while not list(run.glob(after)):
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        driver.kill()
    assert not (run / "distilled" / "manifest.json").exists(), "it was killed too late to show anything"
    assert distil(config) == undisturbed[method]
