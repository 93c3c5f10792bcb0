from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from raydd.store import Folder, retry

KINDS = ["local", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """An empty folder of each kind."""
    if request.param == "local":
        return Folder(str(tmp_path / "runs"))
    if request.param == "memory":
        return Folder(f"memory://{secrets.token_hex(6)}/runs")
    return Folder(f"{request.getfixturevalue('s3_url')}/{secrets.token_hex(6)}")


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which tests do not wait for."""
    waited: list[float] = []
    monkeypatch.setattr(retry, "sleep", waited.append)
    monkeypatch.delenv("RAYDD_STORE_RETRIES", raising=False)
    return waited
