from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from raydd.store import Folder, retry
from tests.s3 import Proxy

KINDS = ["local", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder of each kind."""
    if request.param == "local":
        return Folder(str(tmp_path / "runs"))
    if request.param == "memory":
        return Folder(f"memory://{secrets.token_hex(6)}/runs")
    return Folder(f"{request.getfixturevalue('s3_url')}/{secrets.token_hex(6)}")


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


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which tests do not wait for."""
    waited: list[float] = []
    monkeypatch.setattr(retry, "sleep", waited.append)
    monkeypatch.delenv("RAYDD_STORE_RETRIES", raising=False)
    return waited
