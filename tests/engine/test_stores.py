"""A store that is away or refuses, a full disk: a run goes on to the same bits, or ends with one line and loses nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raydd
from raydd.api import Silent
from raydd.catalogue import problems
from raydd.engine import cluster, coordinator
from raydd.engine.coordinator import Progress
from raydd.errors import StoreError, StoreFault
from raydd.store import Folder, Lease, holder, retry
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


class Mender(logging.Handler):
    """Mends the store as soon as the run has said that it fails, however late that is."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self.proxy, self.said = proxy, []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("the store fails"):
            self.said.append(record.getMessage())
            mended(self.proxy)


@pytest.fixture
def mender(proxy: Proxy) -> Iterator[Mender]:
    mender, log = Mender(proxy), logging.getLogger("raydd")
    log.addHandler(mender)
    yield mender
    log.removeHandler(mender)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "sleep", lambda seconds: None)
    monkeypatch.setenv("RAYDD_STORE_RETRIES", "1")


@pytest.mark.s3
def test_store_that_is_away_for_a_while(
    proxy: Proxy, mender: Mender, s3_url: str, method: str, digits: str, undisturbed: dict[str, bytes]
) -> None:
    # Over the checkpoint of round 8, or the last one.
    config = toy(method, digits, f"{s3_url}/away")
    away = failing(proxy, (503, "ServiceUnavailable"), f"{config.store}/{config.name}")
    run = raydd.distill(config, watcher=Saboteur({6: away}))
    assert bits(run.url) == undisturbed[method]
    assert problems(run.url) == []
    assert mender.said
    # The answer to a HEAD has no body to say that it was made to fail.
    assert all(", 2 times; check the network" in text and text.endswith("trying on") for text in mender.said)


def turn(_: None, env: dict[str, str]) -> dict[str, str]:
    """Give a worker's process other variables; return what they were."""
    before = {name: os.environ.get(name, "") for name in env}
    os.environ.update(env)
    return before


@pytest.fixture
def through_the_proxy(ray_address: str, proxy: Proxy) -> Iterator[Callable[[], None]]:
    """What lets the workers of a run meet the store where the driver does."""
    import ray

    turned = []

    def act() -> None:
        env = {"AWS_ENDPOINT_URL": proxy.url, "RAYDD_STORE_RETRIES": "1"}
        for hand in cluster.hired():
            turned.append((hand, ray.get(hand.actor.call.remote(turn, None, env), timeout=60)))

    yield act
    for hand, before in turned:
        ray.get(hand.actor.call.remote(turn, None, {**before, "RAYDD_STORE_RETRIES": "5"}), timeout=60)


@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.parametrize("what", ["", "/slot-"])
def test_store_that_is_away_for_workers_too(
    what: str,
    proxy: Proxy,
    through_the_proxy: Callable[[], None],
    s3_url: str,
    digits: str,
    undisturbed: dict[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Everything fails, or only what workers write."""
    caplog.set_level(logging.WARNING, "raydd")
    config = toy("frepo", digits, f"{s3_url}/away{what[:-1]}", workers=2)
    failed: list[str] = []

    def fault(method: str, path: str) -> Fault:
        if what not in path:
            return None
        failed.append(path)
        return 503, "ServiceUnavailable"

    def away() -> None:
        failing(proxy, None, f"{config.store}/{config.name}")()
        proxy.fault = fault

    def back() -> None:
        # The checkpoint of round 8 must have met it, twice.
        deadline = time.monotonic() + 60
        while sum(what in path for path in failed) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        mended(proxy)

    run = raydd.distill(config, watcher=Saboteur({1: through_the_proxy, 6: away, 10: back}))
    assert bits(run.url) == undisturbed["frepo"]
    assert problems(run.url) == []
    assert run.status()["faults"] == 0


@pytest.mark.usefixtures("punctual")
@pytest.mark.parametrize(("rest_s", "tries"), [(60.0, 1), (0.0, 22)])
def test_rounds_seldom_wait_for_a_store_that_is_away(
    rest_s: float, tries: int, digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try of a checkpoint keeps them waiting for all that the store's client does to get through."""
    monkeypatch.setattr(coordinator, "STORE_REST_S", rest_s)
    check, away, tried = Lease.check, threading.Event(), []

    def check_or_fail(self: Lease) -> None:
        if away.is_set():
            tried.extend([0] if threading.current_thread() is threading.main_thread() else [])
            raise StoreFault("made to fail")
        check(self)

    monkeypatch.setattr(Lease, "check", check_or_fail)

    config = toy("dm", digits, str(tmp_path), method__rounds=40)
    found = distil(config, watcher=Saboteur({6: away.set, 30: away.clear}))
    # Due at round 8, back after round 30; a store that never worked is not endured.
    assert len(tried) == tries
    assert found == distil(toy("dm", digits, str(tmp_path), name="undisturbed", method__rounds=40))


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
