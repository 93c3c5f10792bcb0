"""Workers that are asked for: some fail while they start, some do not come, and some come late."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raydd.config import EngineConfig
from raydd.engine import distributed, openings
from raydd.engine.distributed import RayExecutor
from raydd.engine.openings import Openings
from raydd.errors import EngineError

pytestmark = pytest.mark.ray
AWAY_S = 60


class Starts:
    """What the next workers do when they start, one after another: `fails`, `dies`, `is late`; then they simply come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def next(self, *fates: str) -> None:
        for number, fate in enumerate(fates):
            (self.folder / f"{number:03d}").write_text(fate)

    @property
    def left(self) -> int:
        return len(list(self.folder.iterdir()))


@pytest.fixture
def starts(ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Starts:
    """Workers that can nothing but start: their processes are there in a second, where those of a run import torch."""
    import ray

    folder = str(tmp_path)

    @ray.remote(max_restarts=0, max_concurrency=2)
    class Quick:
        def __init__(self, engine: EngineConfig) -> None:
            for path in sorted(Path(folder).iterdir()):
                try:
                    fate = path.read_text()
                    path.unlink()
                except FileNotFoundError:  # another has taken it
                    continue
                if fate == "fails":
                    raise RuntimeError("no such device")
                if fate == "dies":
                    os._exit(1)
                time.sleep(AWAY_S)

        def ping(self) -> dict[str, Any]:
            return {"pid": os.getpid()}

        def call(self, *_: Any) -> None:
            time.sleep(AWAY_S)

    monkeypatch.setattr(openings, "DistillWorker", Quick)
    # The workers of other tests stay where they are.
    monkeypatch.setattr(openings, "take_idle", lambda shape, most: [])
    monkeypatch.setattr(openings, "release_idle", lambda: None)
    monkeypatch.setattr(distributed, "release", lambda hands: [hand.dismiss() for hand in hands])
    return Starts(tmp_path)


@pytest.fixture
def asked(starts: Starts) -> Iterator[Openings]:
    opened = Openings(EngineConfig(workers=2))
    yield opened
    opened.close()


def is_given_back(group: Any) -> bool:
    from ray.util.placement_group import placement_group_table

    deadline = time.monotonic() + 60
    while (state := placement_group_table(group)["state"]) != "REMOVED" and time.monotonic() < deadline:
        time.sleep(0.05)
    return state == "REMOVED"


def test_one_that_fails_while_it_starts_is_asked_for_again(
    starts: Starts, asked: Openings, caplog: pytest.LogCaptureFixture
) -> None:
    starts.next("fails")
    hands = asked.fill(2, 2, 120)
    for hand in hands:
        hand.dismiss()
    assert (len(hands), asked.failed, asked.coming) == (2, 1, [])
    assert "a worker failed while it started: RuntimeError: no such device" in caplog.text


def test_one_that_dies_before_anybody_waits_is_asked_for_again(starts: Starts, asked: Openings) -> None:
    starts.next("dies")
    assert asked.fill(1, 0, 120) == []
    (first,) = asked.coming
    deadline = time.monotonic() + 120
    while not asked.any_come() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_given_back(first.hand.place.group)
    (hand,) = asked.fill(1, 1, 0)
    hand.dismiss()
    assert hand is not first.hand


def test_what_always_fails_is_not_waited_for(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings, "MOST_AGAIN", 1)
    starts.next(*["fails"] * 9)
    with pytest.raises(
        EngineError,
        match=r"expected at least 1 workers, got 0 \(2 failed while starting, the last by: RuntimeError: no such device\); mend",
    ):
        RayExecutor(EngineConfig(workers=1, start_timeout_s=120))
    assert starts.left == 7


def test_fewer_than_the_least_at_the_beginning(starts: Starts) -> None:
    # Each would have the cluster for itself.
    engine = EngineConfig(workers=2, min_workers=2, cpus_per_worker=6, start_timeout_s=0.5)
    with pytest.raises(
        EngineError,
        match=r"expected at least 2 workers within 0.5 s, got [01]; free CPUs or GPUs .* engine.min_workers",
    ) as caught:
        RayExecutor(engine)
    assert "\n" not in str(caught.value)


def test_fewer_than_the_least_after_a_loss(starts: Starts) -> None:
    executor = RayExecutor(EngineConfig(workers=2, min_workers=2, start_timeout_s=120, replace_timeout_s=0.5))
    starts.next("is late")
    executor.hands[0].lost = True
    with pytest.raises(EngineError, match=r"expected at least 2 workers within 0.5 s, got 1; free CPUs"):
        executor.recover()
    assert executor.hands == executor.openings.coming == []


def test_a_part_of_an_evaluation_that_never_ends(starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(distributed, "ITEM_TIMEOUT_S", 0.0)
    with RayExecutor(EngineConfig(workers=1, start_timeout_s=120)) as executor:
        with pytest.raises(
            EngineError,
            match=r"expected a part of the evaluation within 0 h, got none from a worker that answers pings; run",
        ):
            executor.map(print, [None], None)
        assert executor.hands == []
