"""What `raydd submit` makes of its words, with a cluster that only writes down what it is given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import yaml
from typer.testing import CliRunner, Result

from raydd.cli import app
from raydd.engine import jobs as engine
from raydd.engine.jobs import FINAL, Jobs, JobState, run_job
from raydd.errors import ConfigError, Diverged, EngineError, FinalError, UserError

CONFIG = {"name": "nightly", "data": {"train": "digits"}, "method": {"name": "dm", "ipc": 1}}
SWEEP = {**CONFIG, "name": "many", "sweep": {"space": {"method.lr_syn": {"grid": [0.1, 1.0]}}}}
ADAPT = Path(__file__).parents[2] / "jobs/configs/apps/adapt-mnist.yaml"


def job(id: str, status: str, exit_code: int | None = None) -> JobState:
    return JobState(id=id, status=status, exit_code=exit_code, message="", started=None, ended=None, command="")


class Cluster:
    """Stands in for `Jobs`: each job ends as is told, and errors in the place of an answer are raised.

    Args:
        ends: How jobs end, one after another.
        refusals: What is raised by submissions, one after another; None: nothing.
    """

    address = "http://stub"

    def __init__(self, *ends: JobState | Exception, refusals: tuple[Exception | None, ...] = ()) -> None:
        self.ends, self.refusals = list(ends), list(refusals)
        self.got: list[tuple[str, list[str]]] = []

    def submit(self, name: str, words: list[str], python: str | None = None) -> str:
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        self.got.append((name, words))
        return f"{name}-a{len(self.got) - 1}"

    def follow(self, id: str, say: Any) -> JobState:
        say("printed\n")
        end = self.ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    """A cluster, and configs in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP))
    Path("a.yaml").write_text(ADAPT.read_text())
    made = Cluster(job("x", "SUCCEEDED"))
    monkeypatch.setattr(engine, "Jobs", lambda address: made)
    return made


def submit(*words: str) -> Result:
    return CliRunner().invoke(app, ["submit", *words])


@pytest.mark.parametrize(
    ("words", "name", "passed"),
    [
        ("distill --set name=y c.yaml", "y", "distill --set name=y c.yaml"),
        ("distill --set=name=y c.yaml", "y", "distill --set=name=y c.yaml"),
        ("distill c.yaml --address http://x", "nightly", "distill c.yaml"),
        ("--python p --name z distill c.yaml", "z", "distill c.yaml"),
        ("sweep s.yaml --resume never", "many", "sweep s.yaml --resume never"),
        ("train d16 --net convnet --name foo --json", "foo", "train d16 --net convnet --name foo --json"),
        ("app adapt a.yaml --set name=moved", "moved", "app adapt a.yaml --set name=moved"),
        ("train d16 --net convnet", "train", "train d16 --net convnet"),
    ],
)
def test_words_after_the_verb_are_the_verbs(words: str, name: str, passed: str, cluster: Cluster) -> None:
    done = submit(*words.split())
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{name}-a0\n"
    assert cluster.got == [(name, passed.split())]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("distill", "Missing argument 'CONFIG'"),
        ("distill c.yaml --rertries 3", "No such option: --rertries"),
        ("distill c.yaml --sett x", "No such option: --sett"),
        ("--rertries 3 distill c.yaml", "No such option: --rertries"),
        ("distill c.yaml --retries -1", "Invalid value for '--retries'"),
    ],
)
def test_words_that_no_verb_takes(words: str, told: str, cluster: Cluster) -> None:
    done = submit(*words.split())
    assert done.exit_code == 2
    assert told in done.stderr
    assert cluster.got == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sweep c.yaml", "sweep is required but missing"),
        ("--name x distill c.yaml --set method.ipc=none", "method.ipc"),
        ("distill c.yaml --retries 2", "--retries tells how often --wait submits again, got no --wait"),
        ("app nothing a.yaml", "KIND must be one of .*, got 'nothing'"),
        ("app adapt c.yaml", "c.yaml"),
        ("doctor", "VERB must be one of distill, sweep, app, .* got 'doctor'"),
    ],
)
def test_mistakes_are_told_before_anything_is_submitted(words: str, told: str, cluster: Cluster) -> None:
    done = submit(*words.split())
    assert isinstance(done.exception, UserError)
    with pytest.raises(UserError, match=told):
        raise done.exception
    assert cluster.got == []


def test_with_json_the_log_goes_aside(cluster: Cluster) -> None:
    done = submit(*["--json", "distill", "c.yaml", "--wait", "--retries", "5", "--set", "name=q"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["address"], told["id"], told["status"], told["exit_code"]) == ("http://stub", "x", "SUCCEEDED", 0)
    assert "printed" in done.stderr
    assert cluster.got == [("q", ["distill", "c.yaml", "--set", "name=q"])]


def test_checking_the_words_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    said = (
        "import sys\nfrom raydd.cli import app\ntry:\n    app(['submit', 'distill', '--sett', 'x'])\n"
        "except SystemExit as end:\n    assert end.code == 2\nassert not {'ray', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "No such option: --sett" in done.stderr


def run(cluster: Cluster, *words: str, retries: int = 3) -> JobState:
    return run_job(cluster, "n", list(words), retries=retries, python=None, say=lambda text: None)  # type: ignore[arg-type]


def test_what_would_end_the_same_is_not_submitted_again() -> None:
    assert (Diverged("x").exit_code, FinalError("x").exit_code, EngineError("x").exit_code) == (3, 3, 1)
    for code in (ConfigError("x").exit_code, Diverged("x").exit_code):
        assert code in FINAL
        cluster = Cluster(job("n-a0", "FAILED", code))
        assert run(cluster, "distill", "c.yaml").exit_code == code
        assert len(cluster.got) == 1


def test_a_head_that_forgot_the_job_and_is_slow_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "POLL_S", 0.0)
    away = EngineError("no answer")
    cluster = Cluster(
        engine.NoJobError("gone"), job("n-a1", "FAILED", 1), job("n-a2", "SUCCEEDED"), refusals=(None, away, away)
    )
    done = run(cluster, "distill", "c.yaml", "--resume", "never", retries=2)
    assert (done.id, done.exit_code) == ("n-a2", 0)
    words = ["distill", "c.yaml", "--resume", "never"]
    assert [told for _, told in cluster.got] == [words, *[[*words, "--resume=auto"]] * 2]
    assert run(Cluster(engine.NoJobError("gone")), "distill", "c.yaml", retries=0).exit_code == 1


def test_only_rays_own_404_means_that_there_is_no_such_job() -> None:
    jobs = object.__new__(Jobs)
    jobs.address = "http://stub"
    with (
        pytest.raises(engine.NoJobError, match="expected a job named a-a0 at http://stub, got none"),
        jobs._told("a-a0"),
    ):
        raise RuntimeError("Request failed with status code 404: Job a-a0 does not exist.")
    for text in ("Request failed with status code 500: port 40404", "WebSocket error: does not exist"):
        with pytest.raises(EngineError, match="refused: "), jobs._told("a-a0"):
            raise RuntimeError(text)


class Client:
    """Stands in for Ray's client: the first connection to the log breaks, and so does one answer."""

    def __init__(self, breaks: Exception) -> None:
        self.breaks = breaks
        self.answers: list[Any] = ["RUNNING", ConnectionError("away"), "RUNNING", "SUCCEEDED"]
        self.logs: list[tuple[str, bool]] = [("one ", True), ("one two ", False), ("one two three", False)]

    def get_job_info(self, id: str) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(
            submission_id=id,
            status=answer,
            driver_exit_code=None,
            message="",
            start_time=None,
            end_time=None,
            entrypoint="python -m raydd train",
        )

    async def tail_job_logs(self, id: str) -> AsyncIterator[str]:
        text, breaks = self.logs.pop(0)
        yield text
        if breaks:
            raise self.breaks


@pytest.mark.parametrize(
    "breaks",
    [
        RuntimeError("WebSocket connection closed unexpectedly with close code 1006"),
        aiohttp.ClientPayloadError("Response payload is not completed"),
        aiohttp.ServerDisconnectedError(),
    ],
)
def test_following_outlasts_broken_connections_and_says_nothing_twice(
    breaks: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "POLL_S", 0.0)
    jobs = object.__new__(Jobs)
    jobs.address, jobs.client = "http://stub", Client(breaks)  # type: ignore[assignment]
    said: list[str] = []
    assert jobs.follow("n-a0", said.append).status == "SUCCEEDED"
    assert "".join(said) == "one two three"
