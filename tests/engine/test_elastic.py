"""Workers come and go, and the way their variables travel changes with their number: one result."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import raydd
from raydd.api import Silent
from raydd.engine import cluster
from raydd.engine.cluster import Hand
from raydd.engine.coordinator import Coordinator, Progress
from raydd.engine.openings import Openings
from tests.engine.toys import bits, toy

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("punctual")]


class Watcher(Silent):
    """Lets a worker come at one round, and kills one at another."""

    def __init__(self, *, comes: int = 0, killed: int = 0) -> None:
        self.comes, self.killed, self.waits = comes, killed, False

    def round(self, progress: Progress) -> None:
        import ray

        self.waits |= progress.round == self.comes
        if progress.round >= self.killed > 0:
            self.killed = 0
            os.kill(ray.get(cluster.hired()[0].actor.ping.remote(), timeout=60)["pid"], signal.SIGKILL)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """How many workers a run had, and how their variables travelled, whenever it was taken up."""
    seen: list[tuple[int, str]] = []
    enter = Coordinator._enter

    def entered(self: Coordinator, *args) -> None:
        enter(self, *args)
        seen.append((self.executor.workers, self.exchange))

    monkeypatch.setattr(Coordinator, "_enter", entered)
    return seen


def test_one_worker_then_two_then_one(
    digits: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    ray_address: str,
    used: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watcher, fill = Watcher(comes=6, killed=10), Openings.fill
    granted = [1, 1, 0]

    def few(self: Openings, count: int, want: int, timeout_s: float) -> list[Hand]:
        count = min(count, granted.pop(0))
        return fill(self, count, count, 200)

    def any_come(self: Openings) -> bool:
        come, watcher.waits = watcher.waits, False
        return come

    monkeypatch.setattr(Openings, "fill", few)
    monkeypatch.setattr(Openings, "any_come", any_come)
    run = raydd.distill(toy("frepo", digits, str(tmp_path), workers=2), watcher=watcher)
    assert used == [(1, "resident"), (2, "store"), (1, "resident")]
    assert bits(run.url) == undisturbed["frepo"]
    assert (run.status()["faults"], run.status()["workers"]) == (1, 1)


def test_the_only_worker_is_lost(
    digits: str, undisturbed: dict[str, bytes], tmp_path: Path, ray_address: str, used: list[tuple[int, str]]
) -> None:
    run = raydd.distill(toy("dc", digits, str(tmp_path), workers=1), watcher=Watcher(killed=6))
    assert used == [(1, "resident"), (1, "resident")]
    assert bits(run.url) == undisturbed["dc"]
    assert run.status()["faults"] == 1
