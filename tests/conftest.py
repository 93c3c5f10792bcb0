"""What all tests share: one thread, one S3 store, and one Ray cluster whose workers are taken over from test to test."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Ray reads these when it is imported; without them a test would pass or fail by what lies in somebody's home.
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_DEDUP_LOGS"] = "0"
os.environ["MALLOC_ARENA_MAX"] = "1"
os.environ.pop("RAY_ADDRESS", None)

from tests.s3 import Proxy, fresh_bucket, s3_endpoint


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Bits depend on the number of threads, and two tests may run beside each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests meet neither somebody's own cache nor what an earlier run has left there."""
    os.environ["RAYDD_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def s3_env() -> Iterator[dict[str, str]]:
    """An S3 store in `os.environ`: moto's, or the real one at RAYDD_TEST_S3_ENDPOINT."""
    with s3_endpoint() as env:
        yield env


@pytest.fixture(scope="session")
def s3_url(s3_env: dict[str, str]) -> str:
    """An empty bucket."""
    return fresh_bucket()


@pytest.fixture(scope="session")
def one_proxy(s3_env: dict[str, str]) -> Iterator[Proxy]:
    proxy = Proxy(s3_env["AWS_ENDPOINT_URL"])
    yield proxy
    proxy.stop()


@pytest.fixture
def proxy(one_proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Proxy:
    """The S3 store behind a proxy that can fail."""
    one_proxy.fault = lambda method, path: None
    monkeypatch.setenv("AWS_ENDPOINT_URL", one_proxy.url)
    return one_proxy


@pytest.fixture(scope="session")
def ray_address(s3_env: dict[str, str]) -> Iterator[str]:
    """A local Ray cluster, and workers that stay from run to run; yields the address that other drivers attach to.

    The store comes first: workers inherit its address and keys.
    """
    import ray

    from raydd.engine.cluster import keep_workers

    # Ray's sockets need short paths.
    folder = tempfile.mkdtemp(prefix="rd", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=6,
        include_dashboard=False,
        object_store_memory=150 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        _temp_dir=folder,
    )
    try:
        with keep_workers():
            yield ray.get_runtime_context().gcs_address
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def raydd_command() -> list[str]:
    """The command line, as a subprocess is told it."""
    return [str(Path(sys.executable).with_name("raydd"))]
