"""Clusters whose workers come when asked for, and jobs that bring an environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from raydd.engine import cluster

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("kinds", "grows"), [({"head": 1}, True), ({"node_f00d": 2}, False), ({}, False), (None, False)]
)
def test_an_autoscaler_is_known_by_the_kinds_it_counts(
    kinds: dict[str, int] | None, grows: bool, ray_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = {} if kinds is None else {"autoscaler_report": {"active_nodes": kinds}}
    monkeypatch.setattr("ray.experimental.internal_kv._internal_kv_get", lambda _: json.dumps(status).encode())
    assert cluster._grows() is grows


def test_the_autoscaler_of_kubernetes_says_so_itself(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not cluster._grows(), "nobody scales the tests' cluster"
    monkeypatch.setattr("ray.autoscaler.v2.utils.is_autoscaler_v2", lambda fetch_from_server: fetch_from_server)
    assert cluster._grows()


PROGRAM = """
import os
from raydd.config import EngineConfig
from raydd.engine.cluster import connect, set_environment
set_environment()
import ray
connect(EngineConfig())
names = ("AWS_REGION", "MALLOC_ARENA_MAX", "MINE")
print(ray.get(ray.remote(num_cpus=0)(lambda: [os.environ.get(name) for name in names]).remote(), timeout=60))
"""


def test_a_job_may_bring_variables_that_raydd_forwards(ray_address: str) -> None:
    """What `ray job submit --runtime-env-json` says comes to the driver as here."""
    brought = {"AWS_REGION": "eu-west-1", "MALLOC_ARENA_MAX": "4", "MINE": "yes"}
    job = {"runtime_env": {"env_vars": brought}, "metadata": {}}
    env = {**os.environ, **brought, "RAY_ADDRESS": ray_address, "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(job)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "['eu-west-1', '1', 'yes']"
