"""Keys and passwords stay in the environment: nothing that a run writes, prints or tells workers has any of them."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import raydd
from raydd.api import train
from raydd.cli import app
from raydd.data.pack import pack
from raydd.engine.cluster import FORWARDED, _init, forwarded
from raydd.errors import ConfigError, StoreError
from raydd.export import export
from raydd.store import Folder
from tests.cli.conftest import write_config
from tests.data.makers import tree
from tests.s3 import fresh_bucket, s3_endpoint

SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_BEARER_TOKEN",
    "AZURE_STORAGE_KEY",
) + ("GOOGLE_API_KEY", "HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "RAYDD_TEST_SECRET")
MARK = "hunter2"


@pytest.fixture
def marked(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 store whose keys, and all other secrets around, have the mark in them; moto's, as a real one wants its own."""
    monkeypatch.delenv("RAYDD_TEST_S3_ENDPOINT", raising=False)
    # Within the store, so that its own keys are put back last.
    with s3_endpoint(), pytest.MonkeyPatch.context() as keys:
        for name in SECRETS:
            keys.setenv(name, f"{MARK}{name.replace('_', '').lower()}")
        yield f"{fresh_bucket()}/{secrets.token_hex(4)}"


@pytest.mark.s3
def test_a_run_has_no_secret_in_it(
    marked: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "raydd")
    pack("digits", f"{marked}/shards/train")
    pack("digits", f"{marked}/shards/test", split="test")
    write_config(tmp_path, {split: f"{marked}/shards/{split}" for split in ("train", "test")})
    run = raydd.distill(str(tmp_path / "c.yaml"), overrides=[f"store={marked}/runs"])
    export(run.distilled(), str(tmp_path / "exported"), "webdataset")
    for words in (["ls", f"{marked}/runs", "--json"], ["show", run.url], ["verify", run.url]):
        app(words, standalone_mode=False)
    store = Folder(marked)
    names = store.list()
    wanted = ("config.yaml", "status.json", "metrics.jsonl", "evaluation.json", "report.html", "distilled/recipe.json")
    assert {f"runs/a/{name}" for name in (*wanted, "distilled/manifest.json", "distilled/README.md")} <= set(names)
    assert any(name.startswith("runs/a/tensorboard/events") for name in names)
    assert any(name.startswith("runs/a/lease/") for name in names)
    written = {**{name: store.read(name) for name in names}, **tree(tmp_path)}
    told = capfd.readouterr()
    written |= {"log": caplog.text.encode(), "stdout": told.out.encode(), "stderr": told.err.encode()}
    assert written["stdout"]
    assert [name for name, data in written.items() if MARK.encode() in data] == []


@pytest.mark.parametrize("key", ["store", "data.train", "data.test"])
def test_a_key_in_a_config_is_refused_before_anything_is_written(key: str, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    write_config(tmp_path, {"train": "digits", "test": "digits"})
    changes = [f"store={there}/runs", f"{key}=s3://key:{MARK}@bucket/x"]
    with pytest.raises(ConfigError, match=rf"{key} expected no password in a s3:// URL, got one; give cred") as caught:
        raydd.distill(str(tmp_path / "c.yaml"), overrides=changes)
    assert MARK not in str(caught.value)
    assert tree(there) == {}
    with pytest.raises(ConfigError) as caught:
        train(f"s3://key:{MARK}@bucket/x", "convnet", store=str(there))
    assert MARK not in str(caught.value)


def test_workers_and_jobs_are_told_names_and_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, MARK)
    for name in FORWARDED:
        monkeypatch.setenv(name, f"value of {name}")
    assert forwarded() == {name: f"value of {name}" for name in FORWARDED}
    assert {"AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"} <= set(FORWARDED)
    assert not [name for name in FORWARDED if any(word in name for word in ("KEY", "SECRET", "TOKEN", "PASSWORD"))]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://key:{MARK}@host")
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL must be an address without a user") as caught:
        forwarded()
    assert MARK not in str(caught.value)


DRIVER = """
import json, os, sys
from raydd.config import EngineConfig
from raydd.engine.cluster import connect, set_environment
set_environment()
connect(EngineConfig(workers=1))
import ray
told = ray.get_runtime_context().runtime_env.get("env_vars", {})
seen = ray.get(ray.remote(num_cpus=0)(lambda: dict(os.environ)).remote(), timeout=200)
print(json.dumps({"told": dict(told), "seen": seen}))
"""


@pytest.mark.ray
def test_a_worker_has_the_endpoint_and_profile_of_its_driver_and_not_its_keys(ray_address: str) -> None:
    names = {"AWS_ENDPOINT_URL_S3": "http://elsewhere:1", "AWS_REGION": "eu-west-9", "AWS_PROFILE": "night"}
    env = {**os.environ, **names, **dict.fromkeys(SECRETS, MARK), "RAY_ADDRESS": ray_address}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], env=env, capture_output=True, text=True, timeout=300, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert names.items() <= found["seen"].items()
    assert names.items() <= found["told"].items()
    assert [name for name, value in {**found["seen"], **found["told"]}.items() if MARK in str(value)] == []
    assert MARK not in done.stderr


def test_a_local_ray_has_a_token_no_dashboard_and_tells_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    # Who attaches to the tests' own cluster must not take it for one of ours afterwards.
    monkeypatch.setattr("raydd.engine.cluster._ours", False)
    monkeypatch.setattr("ray.init", lambda **options: given.update(options))
    _init("", 2)
    assert (given["address"], given["include_dashboard"], given["dashboard_host"]) == ("local", False, "127.0.0.1")
    assert "runtime_env" not in given
    done = subprocess.run(
        [sys.executable, "-c", "import os; from raydd.engine.cluster import set_environment as s; s(); "
         "print(os.environ['RAY_AUTH_MODE'], len(os.environ['RAY_AUTH_TOKEN']))"],
        env={key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["token", "64"]
