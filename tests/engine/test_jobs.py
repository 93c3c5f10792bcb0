"""Jobs on a cluster that somebody else started: submitted, killed, submitted again, pulled, stopped. Tokens throughout."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raydd.engine.jobs import take_along
from raydd.engine.probe import listening
from raydd.errors import UserError
from tests.engine.toys import bits, distil, toy

LONGEST_S = 240


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Head:
    """A Ray head on loopback in processes of its own, and `raydd` run against it."""

    def __init__(self, folder: str) -> None:
        gcs, dashboard, client, agent = free_ports(4)
        self.url = f"http://127.0.0.1:{dashboard}"
        env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        # A token that only this cluster knows; a driver that is stopped has time for its checkpoint.
        self.env = {**env, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "HOME": folder}
        self.env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "OMP_NUM_THREADS": "1"}
        self.env |= {"RAY_JOB_STOP_WAIT_TIME_S": "30", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        words = ["start", "--head", "--block", "--num-cpus=4", "--object-store-memory=100000000"]
        words += [f"--port={gcs}", "--node-ip-address=127.0.0.1", f"--temp-dir={folder}/r", "--include-dashboard=true"]
        words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
        words += [f"--dashboard-agent-listen-port={agent}"]
        ray = str(Path(sys.executable).with_name("ray"))
        self.log = Path(folder) / "head.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([ray, *words], env=self.env, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Wait until jobs can be submitted."""
        deadline = time.monotonic() + 120
        while self.raydd("jobs", check=False).returncode:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(1)

    def raydd(self, *words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a verb against this cluster."""
        told = [str(Path(sys.executable).with_name("raydd")), *words]
        done = subprocess.run(
            told,
            env={**self.env, "RAY_API_SERVER_ADDRESS": self.url, **env},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def jobs(self) -> dict[str, dict[str, Any]]:
        """Return what `raydd jobs --json` tells."""
        return {job["id"]: job for job in json.loads(self.raydd("jobs", "--json").stdout)["jobs"]}

    def stop(self) -> None:
        """Stop it by its pid; what it started goes with it."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """One cluster for all tests here."""
    with tempfile.TemporaryDirectory(prefix="rj", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = Head(folder)
        try:
            head.wait()
            yield head
        finally:
            head.stop()


def write(path: Path, config: dict[str, Any]) -> str:
    """Write a config; return where."""
    path.write_text(yaml.safe_dump(config))
    return str(path)


def raw(digits: str, store: Path, name: str, rounds: int) -> dict[str, Any]:
    """Return a run that takes long enough to be killed in."""
    config = toy("dm", digits, str(store), workers=2).model_dump(mode="json")
    method = {key: config["method"][key] for key in ("name", "ipc", "real_batch", "classes_per_slot")}
    engine = {"workers": 2, "checkpoint_every": 20, "checkpoint_every_s": 3600}
    rest = {"net": {"width": 8}, "store": str(store), "evaluate": {"repeats": 0}}
    return {"name": name, "data": {"train": digits}, "method": {**method, "rounds": rounds}, "engine": engine, **rest}


def driver_of(run: Path) -> int:
    """Return the pid of a run's newest driver."""
    newest = max((run / "lease").glob("gen-*.json"))
    return int(json.loads(newest.read_text())["pid"])


@pytest.mark.ray
@pytest.mark.timeout(LONGEST_S + 60)
def test_killed_driver_is_submitted_again_and_its_set_pulled(head: Head, digits: str, tmp_path: Path) -> None:
    from raydd.config import load_config

    config = write(tmp_path / "c.yaml", raw(digits, tmp_path / "runs", "nightly", 150))
    words = ["submit", "distill", config, "--wait", "--retries", "1"]
    told = [str(Path(sys.executable).with_name("raydd")), *words]
    env = {**head.env, "RAY_API_SERVER_ADDRESS": head.url}
    run = tmp_path / "runs" / "nightly"
    with subprocess.Popen(told, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as submitted:
        deadline = time.monotonic() + LONGEST_S
        while not (run / "checkpoints/00000020/manifest.json").exists():
            assert submitted.poll() is None, submitted.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(driver_of(run), signal.SIGKILL)
        out, err = submitted.communicate(timeout=LONGEST_S)
    assert submitted.returncode == 0, err
    assert "artifact" in out
    assert "nightly-a0 failed" in err
    states = {id: job["status"] for id, job in head.jobs().items()}
    assert (states["nightly-a0"], states["nightly-a1"]) == ("FAILED", "SUCCEEDED")
    assert "artifact" in head.raydd("logs", "nightly-a1").stdout

    head.raydd("pull", str(run), str(tmp_path / "pulled"))
    alone = load_config(config, [f"store={tmp_path}/alone", "engine.workers=0"])
    assert (tmp_path / "pulled" / "data.safetensors").read_bytes() == distil(alone) == bits(run)


@pytest.mark.ray
@pytest.mark.timeout(LONGEST_S)
def test_cancelled_job_leaves_a_checkpoint(head: Head, digits: str, tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", raw(digits, tmp_path / "runs", "long", 100_000))
    id = head.raydd("submit", "distill", config).stdout.strip()
    assert id == "long-a0"
    deadline, run = time.monotonic() + LONGEST_S / 2, tmp_path / "runs" / "long"
    while not (run / "checkpoints/00000020/manifest.json").exists():
        assert time.monotonic() < deadline, head.raydd("logs", id).stdout
        time.sleep(0.05)
    assert "is being stopped" in head.raydd("cancel", id).stdout
    while head.jobs()[id]["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert head.jobs()[id]["status"] == "STOPPED"
    assert list((run / "checkpoints").glob("*/manifest.json"))
    assert "had ended already" in head.raydd("cancel", id).stdout


@pytest.mark.ray
def test_own_mistake_is_told_before_or_by_the_job_and_not_tried_again(head: Head, digits: str, tmp_path: Path) -> None:
    config = write(tmp_path / "c.yaml", raw(str(tmp_path / "nowhere"), tmp_path / "runs", "wrong", 5))
    done = head.raydd("submit", "distill", config, "--wait", check=False)
    assert done.returncode == 2, done.stderr
    assert "nowhere" in done.stdout
    assert [id for id in head.jobs() if id.startswith("wrong")] == ["wrong-a0"]
    before = head.raydd("submit", "distill", config, "--set", "method.ipc=none", check=False)
    assert before.returncode == 2
    assert "method.ipc" in before.stderr
    assert len([id for id in head.jobs() if id.startswith("wrong")]) == 1


@pytest.mark.ray
def test_wrong_tokens_addresses_and_names_are_one_line(head: Head) -> None:
    nobody = free_ports(1)[0]
    cases = [
        (["jobs"], {"RAY_AUTH_TOKEN": "0" * 64}, 2, "expected a token that it knows, got another; set RAY_AUTH_TOKEN"),
        (["jobs"], {"RAY_AUTH_TOKEN": "", "RAY_AUTH_MODE": ""}, 2, "expected a token that it knows, got none"),
        (["jobs", "--address", f"http://127.0.0.1:{nobody}"], {}, 1, "expected a Ray cluster at .* got no answer"),
        (["jobs", "--address", "127.0.0.1"], {}, 2, "--address must be a dashboard's URL"),
        (["logs", "nobody-a0"], {}, 2, "expected a job named nobody-a0 at .*, got none; see `raydd jobs`"),
        (["submit", "sweeep", "c.yaml"], {}, 2, "VERB must be one of distill, .* got 'sweeep'"),
        (["jobs"], {"RAYDD_EXPECTED": "9.9"}, 2, "expected raydd 9.9 on the cluster, which submitted this job, got"),
    ]
    for words, env, code, text in cases:
        done = head.raydd(*words, check=False, **env)
        assert done.returncode == code, (words, done.stderr)
        assert re.search(text, done.stderr), (words, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.ray
@pytest.mark.timeout(LONGEST_S + 60)
def test_the_doctor_asks_by_a_job_what_lies_behind_a_dashboard(head: Head, tmp_path: Path) -> None:
    port = int(head.url.rpartition(":")[2])
    assert listening(port) == ["127.0.0.1"]
    done = head.raydd("doctor", "--address", head.url, "--store", str(tmp_path / "runs"), "--json", check=False)
    found = {one["what"]: one for one in json.loads(done.stdout)["findings"]}
    assert done.returncode == (0 if found["memory"]["level"] != "stop" else 1), done.stderr
    assert {"nodes", "versions", "/dev/shm", "memory", "GPUs", "clock", "authentication", "dashboard", "store"} == set(
        found
    )
    assert found["nodes"]["detail"] == "1 answered"
    assert [found[what]["level"] for what in ("versions", "clock", "authentication", "dashboard", "store")] == [
        "ok"
    ] * 5
    assert list((tmp_path / "runs").glob("*")) == []
    refused = head.raydd("doctor", "--address", head.url, check=False, RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode == 2
    assert "expected a token that it knows" in refused.stderr


def test_yaml_files_are_taken_along(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    config = tmp_path / "c.yaml"
    config.write_text("name: a\n")
    words = ["distill", str(config), "--set", "store=s3://b/runs", "missing.yaml"]
    assert list(take_along(words, tmp_path / "there")) == [
        "distill",
        "c.yaml",
        "--set",
        "store=s3://b/runs",
        "missing.yaml",
    ]
    assert (tmp_path / "there" / "c.yaml").read_text() == "name: a\n"
    with pytest.raises(UserError, match=r"names of their own, got two named c.yaml"):
        list(take_along([str(config)], tmp_path / "there"))
