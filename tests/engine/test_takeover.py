"""A driver that stood still for longer than its lease allows is replaced, and cannot overwrite when it wakes up."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from raydd.config import Config, dump_config
from raydd.errors import RunError
from raydd.store import Folder, Lease
from tests.engine.toys import bits, distil, toy

ROUNDS = 60


def start(command: list[str], config: Config, path: Path) -> subprocess.Popen[str]:
    path.write_text(dump_config(config))
    env = {**os.environ, "RAYDD_LEASE_TTL_S": "2", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "distill", str(path)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def result(run: Path) -> dict[str, tuple[bytes, int]]:
    """Return what another driver may not touch: contents, and times in nanoseconds."""
    files = [path for path in run.rglob("*") if path.is_file() and "lease" not in path.parts]
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_driver_that_wakes_up_cannot_overwrite(digits: str, tmp_path: Path, raydd_command: list[str]) -> None:
    config = toy("dm", digits, str(tmp_path), method__rounds=ROUNDS)
    run = tmp_path / config.name
    with start(raydd_command, config, tmp_path / "first.yaml") as first:
        try:
            deadline = time.monotonic() + 120
            while not (run / "checkpoints" / "00000004" / "manifest.json").exists():
                assert first.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.005)
            first.send_signal(signal.SIGSTOP)
            with start(raydd_command, config, tmp_path / "second.yaml") as second:
                _, said = second.communicate(timeout=120)
            assert second.returncode == 0, said
            assert "watching for at most 2 s whether another driver lives" in said
            before = result(run)
            first.send_signal(signal.SIGCONT)
            _, said = first.communicate(timeout=120)
        finally:
            first.kill()
    assert first.returncode == 1
    assert "lost the lease of generation 1 to generation 2" in said.splitlines()[-1]
    assert said.splitlines()[-1].endswith("this driver must stop writing")
    assert result(run) == before
    other = toy("dm", digits, str(tmp_path), name="undisturbed", method__rounds=ROUNDS)
    assert bits(run) == distil(other)


def test_a_senseless_ttl_of_the_environment_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYDD_LEASE_TTL_S", "soon")
    with pytest.raises(RunError, match="RAYDD_LEASE_TTL_S must be a number of seconds, got 'soon'"):
        Lease.acquire(Folder(tmp_path))
