"""A store that is away or refuses, a full disk: a run goes on to the same bits, or ends with one line and loses nothing."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import raydd
from raydd.api import Silent
from raydd.catalogue import problems
from raydd.engine import coordinator
from raydd.engine.coordinator import Progress
from raydd.errors import StoreError, StoreFault
from raydd.store import Folder, holder, retry
from tests.engine.toys import bits, distil, toy
from tests.s3 import Fault, Proxy


class Saboteur(Silent):
    """Does something when so many rounds are done."""

    def __init__(self, acts: dict[int, Callable[[], object]]) -> None:
        self.acts = acts

    def round(self, progress: Progress) -> None:
        if progress.round in self.acts:
            self.acts.pop(progress.round)()


def failing(proxy: Proxy, fault: Fault, run: str) -> Callable[[], None]:
    """Return what lets every request fail, heartbeats too, once there is a checkpoint."""

    def act() -> None:
        place, deadline = Folder(run).folder("checkpoints"), time.monotonic() + 60
        while not any(name.endswith("/manifest.json") for name in place.list()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        proxy.fault = lambda method, path: fault

    return act


def mended(proxy: Proxy) -> None:
    proxy.fault = lambda method, path: None


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "sleep", lambda seconds: None)
    monkeypatch.setenv("RAYDD_STORE_RETRIES", "1")


@pytest.mark.s3
def test_store_that_is_away_for_a_while(
    proxy: Proxy,
    s3_url: str,
    method: str,
    digits: str,
    undisturbed: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "raydd")
    # Over the checkpoint of round 8.
    config = toy(method, digits, f"{s3_url}/away")
    away = failing(proxy, (503, "ServiceUnavailable"), f"{config.store}/{config.name}")
    run = raydd.distill(config, watcher=Saboteur({6: away, 10: lambda: mended(proxy)}))
    assert bits(run.url) == undisturbed[method]
    assert problems(run.url) == []
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("the store fails")]
    assert said
    assert all("made to fail, 2 times" in text and text.endswith("trying on") for text in said)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("fault", "kind", "code", "text"),
    [
        ((403, "AccessDenied"), StoreError, 2, "check that this user or key may do that here"),
        ((503, "SlowDown"), StoreFault, 1, "made to fail, 2 times; check the network, the store and its endpoint"),
    ],
)
def test_store_that_refuses_for_good(
    fault: Fault,
    kind: type[StoreError],
    code: int,
    text: str,
    proxy: Proxy,
    s3_url: str,
    digits: str,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The lease that cannot be released names this very process; to the next command it is that of a dead one.
    monkeypatch.setattr(holder.Holder, "state", lambda self: "dead")
    monkeypatch.setattr(coordinator, "STORE_PATIENCE_S", 0.0)
    config = toy("frepo", digits, f"{s3_url}/refuses-{code}")
    with pytest.raises(StoreError, match=text) as caught:
        raydd.distill(config, watcher=Saboteur({6: failing(proxy, fault, f"{config.store}/{config.name}")}))
    assert type(caught.value) is kind
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)
    mended(proxy)
    assert problems(f"{config.store}/{config.name}") == []
    assert distil(config, resume="must") == undisturbed["frepo"]


FULL_DISK = """
import resource, sys
import raydd
from tests.engine.test_stores import Saboteur
from tests.engine.toys import toy

raydd_config = toy("dm", sys.argv[1], sys.argv[2])
fill = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
try:
    raydd.distill(raydd_config, watcher=Saboteur({6: fill}))
except raydd.errors.RaydError as error:
    print(error.exit_code, error)
"""


def test_full_disk(digits: str, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, digits, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (said,) = done.stdout.splitlines()
    config = toy("dm", digits, str(tmp_path))
    assert said.startswith(f"2 cannot write {tmp_path}/{config.name}/")
    assert said.endswith("raise the limit on the size of files (`ulimit -f`) and run the same command again")
    assert problems(f"{tmp_path}/{config.name}") == []
    assert distil(config, resume="must") == undisturbed["dm"]
