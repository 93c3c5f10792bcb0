"""A sweep on a cluster: killed in the middle, it goes on and finds what one that nothing happened to finds."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

import raydd
from raydd.catalogue import problems
from raydd.config import load_config
from raydd.errors import RunError
from raydd.store import Folder
from raydd.sweep.records import Trial, read_trials
from raydd.sweep.trial import run_trial
from raydd.sweeping import sweep
from raydd.watchers import Silent
from tests.data.makers import tree
from tests.engine.toys import bits
from tests.sweep.conftest import planned, said

# Generous: a trial is a process that loads torch, and other work may be under way.
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
LONG = 240
# Two short trials come first, then two long ones.
SPACE = {"method.rounds": {"grid": [4, LONG]}, "method.ipc": {"grid": [1, 2]}}
DEADLINE_S = 240.0
# What the driver of a sweep has in its environment; it needs none of them.
HUSH = f"hush{secrets.token_hex(8)}"
SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "RAYDD_TEST_SECRET")


class Heard(Silent):
    """Keeps what people are told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.done: list[tuple[int, int]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def sweeping(self, done: int, total: int, far: str) -> None:
        self.done.append((done, total))


def killed_in_the_middle(raw: dict[str, Any], folder: Path, command: list[str], address: str) -> dict[int, Trial]:
    """Start a sweep, kill its driver when a long trial has a score and a checkpoint; return its records."""
    (folder / "c.yaml").write_text(yaml.safe_dump(raw))
    at = Folder(str(folder / "runs/s"))
    with subprocess.Popen(
        [*command, "sweep", str(folder / "c.yaml")],
        env={**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1", **dict.fromkeys(SECRETS, HUSH)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as driver:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            known = {trial.index: trial for trial in read_trials(at)}
            halfway = any(trial.state == "running" and trial.scores for trial in known.values() if trial.index > 1)
            if halfway and known[0].state == known[1].state == "finished":
                break
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        driver.kill()
    return known


def session_files() -> dict[str, bytes]:
    """What the running Ray has written so far: its logs, and what it set up for its jobs."""
    (node,) = ray.nodes()
    session = Path(node["ObjectStoreSocketName"]).parents[1]
    return {str(path): path.read_bytes() for path in session.rglob("*") if path.is_file() and not path.is_symlink()}


def generations(at: Folder, trial: int) -> int:
    return len(at.folder("trials", f"{trial:04d}").list("lease/gen-"))


def test_a_killed_sweep_goes_on(
    shards: dict[str, str], tmp_path: Path, ray_address: str, raydd_command: list[str]
) -> None:
    raw = said(shards, tmp_path / "runs", space=SPACE, scores=3)
    before = killed_in_the_middle(raw, tmp_path, raydd_command, ray_address)
    written = {**session_files(), **tree(tmp_path)}
    assert any("/logs/" in name for name in written)
    assert [name for name, data in written.items() if HUSH.encode() in data] == []
    at = Folder(str(tmp_path / "runs/s"))
    assert not at.exists("best.json"), "it was killed too late to show anything"
    finished = {index: trial for index, trial in before.items() if trial.state == "finished"}
    heard, held = Heard(), {index: generations(at, index) for index in before}
    found = sweep(raw, watcher=heard)

    # What was finished was not touched, and what was running went on.
    assert {index: found.trials[index] for index in finished} == finished
    assert [generations(at, index) for index in (0, 1)] == [1, 1]
    # One whose process had just been started when the driver died had no lease yet.
    assert all(generations(at, index) == held[index] + 1 for index in before if index not in finished)
    assert 1 in [held[index] for index in before if index not in finished]
    assert heard.lines[0] == f"s: {len(finished)} of 4 trials are done, sweep {at.url}"
    assert [line.split(":")[0] for line in sorted(heard.lines[1:])] == [
        f"trial {index:04d} finished" for index in range(4) if index not in finished
    ]
    assert heard.done[-1] == (4, 4)

    # All is as in a sweep that nothing happened to, which needs no cluster.
    plan = planned({**raw, "store": str(tmp_path / "undisturbed")})
    for trial in found.trials:
        told: list[dict[str, Any]] = []
        run_trial(plan.trial_config(plan.trial(trial.index, trial.drawn)), plan.train, told.append)
        assert trial.accuracy == told[-1]["final"]
        assert trial.curve == [(line["share"], line["accuracy"]) for line in told[:-1]]
        assert bits(found.run(trial)) == bits(tmp_path / "undisturbed/s/trials" / trial.name)
    assert found.best.accuracy == max(trial.accuracy or 0 for trial in found.trials)

    # The best one is the sweep's own, and scored once on the test split, beside its baseline.
    ds = raydd.load(at.url)
    assert bits(at.url) == bits(found.run(found.best))
    assert (ds.recipe.name, len(ds)) == ("s", 10 * found.best.ipc)
    assert [accuracy.of for accuracy in found.accuracies] == ["distilled", "random"]
    assert at.record("evaluation.json")["test"] == shards["test"]
    assert [trial.ipc for trial in found.bests] == [1, 2]
    for url, trial in zip(found.configs, found.bests, strict=True):
        assert load_config(url).method.ipc == trial.ipc
        assert problems(found.run(trial)) == []
    assert (tmp_path / "runs/s/report.html").stat().st_size > 10_000

    # Once more there is nothing to do.
    files = tree(tmp_path / "runs")
    assert sweep(raw).trials == found.trials
    assert tree(tmp_path / "runs") == files
    with pytest.raises(RunError, match=r"the sweep .*/runs/s exists; choose another name, delete it, or let --resume"):
        sweep(raw, resume="never")
    with pytest.raises(RunError, match=r"expected a sweep at .*/runs/t to go on with, got none; check name and store"):
        sweep({**raw, "name": "t"}, resume="must")


@pytest.mark.s3
def test_workers_stopping_and_failures_with_all_state_in_s3(
    shards: dict[str, str], s3_url: str, ray_address: str
) -> None:
    """Two workers a trial, in its placement group; of the trials one diverges."""
    space = {"method.lr_syn": {"grid": [1.0, 1e38]}}
    raw = said(shards, f"{s3_url}/sweeps", space=space, search="grid", scheduler="asha", max_concurrent=1, scores=2)
    raw |= {"engine": {"workers": 2, "checkpoint_every": 4}, "evaluate": {"repeats": 0, "protocol": "dc"}}
    raw["method"] = {**raw["method"], "classes_per_slot": 2}
    found = sweep(raw)
    assert [trial.state for trial in found.trials] == ["finished", "failed"]
    assert "gave NaN or infinity" in found.trials[1].error
    assert found.accuracies == ()
    # As one process makes it.
    alone = planned({**raw, "store": f"{s3_url}/alone", "engine": {"workers": 0, "checkpoint_every": 4}})
    told: list[dict[str, Any]] = []
    run_trial(alone.trial_config(alone.trial(0, found.trials[0].drawn)), alone.train, told.append)
    assert found.trials[0].accuracy == told[-1]["final"]
    assert bits(found.url) == bits(f"{s3_url}/alone/s/trials/0000")
