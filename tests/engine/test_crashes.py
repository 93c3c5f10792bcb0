"""A driver may die before any operation of the store: the same command afterwards gives the bits of an undisturbed run.

The process does not really die here: from the n-th operation on every one of them fails, as nothing of a dead process reaches
the store, and the lease is then that of a process that is gone. `test_kills.py` kills real ones.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import raydd
from raydd.store import Folder, holder
from tests.engine.toys import bits, distil, toy


class Crash(BaseException):
    """The process is gone."""


class Machine:
    """Counts what is written, and dies at a given count."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.dies_at = 0, 0
        self.lock = threading.Lock()
        for verb in ("write", "create", "delete"):
            monkeypatch.setattr(Folder, verb, self.wrap(getattr(Folder, verb)))

    def wrap(self, operation):
        def counted(folder: Folder, *args):
            with self.lock:
                # Heartbeats come by the clock, and dying at one is nothing special.
                if not (args and str(args[0]).startswith("beat-")):
                    self.count += 1
                if self.dies_at and self.count >= self.dies_at:
                    raise Crash
            return operation(folder, *args)

        return counted

    def reboot(self, dies_at: int) -> None:
        self.count, self.dies_at = 0, dies_at


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    # The lease of a crashed run names this very process; to the next one it is that of a dead process.
    monkeypatch.setattr(holder.Holder, "state", lambda self: "dead")
    return Machine(monkeypatch)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_crash_before_every_write(
    machine: Machine, method: str, digits: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    config = toy(method, digits, str(tmp_path))
    # Counted once: how many operations a run has.
    assert distil(config.model_copy(update={"name": "counted"})) == undisturbed[method]
    total = machine.count
    assert total > 20
    died = 0
    # Every write for one method; for the others, which only have more files of a kind, some of them.
    moments = range(1, total, {"dm": 1}.get(method, 7))
    for at in moments:
        name = f"crash-{at}"
        machine.reboot(dies_at=at)
        try:
            raydd.distill(config.model_copy(update={"name": name}))
        except Crash:
            died += 1
        machine.reboot(dies_at=0)
        assert distil(config.model_copy(update={"name": name})) == undisturbed[method], f"died before write {at}"
    assert died > len(moments) // 2


def test_interrupted_again_and_again(
    machine: Machine, digits: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    """A run that dies a few writes later each time still gets to its end."""
    config = toy("frepo", digits, str(tmp_path))
    for at in range(5, 200, 5):
        machine.reboot(dies_at=at)
        try:
            run = raydd.distill(config)
        except Crash:
            continue
        assert bits(run.url) == undisturbed["frepo"]
        return
    pytest.fail("it never got to its end")


def test_coreset_that_died_before_it_was_scored(machine: Machine, digits: str, tmp_path: Path) -> None:
    """It has no rounds, so no checkpoint tells of it."""
    whole = distil(toy("random", digits, str(tmp_path), name="counted"))
    for at in range(1, machine.count):
        name = f"crash-{at}"
        machine.reboot(dies_at=at)
        with pytest.raises(Crash):
            raydd.distill(toy("random", digits, str(tmp_path), name=name))
        machine.reboot(dies_at=0)
        assert distil(toy("random", digits, str(tmp_path), name=name)) == whole, f"died before write {at}"


def test_scores_of_another_set_are_not_believed(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run that gets more rounds and dies before it is scored again."""
    asked = {"data__test": digits, "evaluate__repeats": 1, "evaluate__baselines": "[]"}
    first = raydd.distill(toy("dm", digits, str(tmp_path), **asked, method__rounds=1))
    more = toy("dm", digits, str(tmp_path), **asked, method__rounds=40)
    truth = raydd.distill(more.model_copy(update={"name": "undisturbed"})).accuracies

    def die(*_, **__):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("raydd.api.score_all", die)
        with pytest.raises(Crash):
            raydd.distill(more)
    assert first.accuracies != truth
    assert raydd.distill(more).accuracies == truth


def test_fewer_rounds_than_a_run_has_done(machine: Machine, digits: str, tmp_path: Path) -> None:
    machine.reboot(dies_at=20)
    with pytest.raises(Crash):
        raydd.distill(toy("dm", digits, str(tmp_path)))
    machine.reboot(dies_at=0)
    with pytest.raises(raydd.errors.RunError, match=r"method\.rounds must be >= \d+, which .* has done, got 1"):
        raydd.distill(toy("dm", digits, str(tmp_path), method__rounds=1))
