"""The records of a sweep: written before anyone hears of a change, and enough to go on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raydd.errors import IntegrityError, RunError
from raydd.store import Folder
from raydd.sweep.records import Book, Score, Trial, read_trials
from raydd.sweep.stopping import RULES
from tests.sweep.conftest import trial

Open = Callable[..., Book]


@pytest.fixture
def heard() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def opened(tmp_path: Path, heard: list[tuple[int, str]]) -> Open:
    def make(rule: str = "asha") -> Book:
        def told(one: Trial) -> None:
            assert read_trials(Folder(tmp_path))[one.index] == one
            heard.append((one.index, one.state))

        return Book(folder=Folder(tmp_path), rule=RULES[rule], guard=lambda: None, told=told)

    return make


def at(share: float, accuracy: float) -> Score:
    return Score(round=int(share), share=share, accuracy=accuracy, std=0.5)


def begun(index: int, ipc: int = 1) -> Trial:
    return trial(index, state="running", ipc=ipc)


def test_only_trials_of_equal_storage_are_compared(opened: Open, heard: list[tuple[int, str]]) -> None:
    book = opened()
    for index, size in enumerate((1000, 1000, 9000, 1000)):
        book.begin(begun(index))
        assert not book.score(index, at(25, 50 + index), size)
    # Any trial of 9000 bytes beats it, and none of its own size does.
    assert not book.score(0, at(50, 10), 1000)
    assert not book.score(2, at(50, 90), 9000)
    assert book.score(1, at(50, 9), 1000)
    assert book.trials[1].state == "stopped"
    assert heard[-1] == (1, "stopped")


def test_a_sweep_that_goes_on_knows_all_and_decides_alike(opened: Open) -> None:
    book = opened()
    for index in range(3):
        book.begin(begun(index))
        book.score(index, at(25, 50 + index), 1000)
    book.finish(0, 61.5, 1000)
    assert book.score(1, at(50, 70), 1000) is False
    again = opened()
    assert again.trials == book.trials
    assert [one.index for one in again.to_do()] == [1, 2]
    # What a trial tells again is known, and decided on.
    assert not again.score(2, at(25, 52), 1000)
    assert again.trials == book.trials
    for one in (book, again):
        assert one.score(2, at(50, 69), 1000)
    assert again.score(2, at(75, 99), 1000), "what was stopped stays so, whatever it still says"
    assert [one.state for one in again.trials.values()] == ["finished", "running", "stopped"]


def test_failures(opened: Open) -> None:
    book = opened("none")
    for index in range(3):
        book.begin(begun(index))
    book.fail(0, "method.ipc must be less", mistake=True)
    book.fail(1, "lost", mistake=False)
    book.finish(2, 50.0, 1000)
    # Tune's own idea of a trial that has ended is no news.
    book.fail(2, "lost", mistake=False)
    again = opened("none")
    assert [one.state for one in again.trials.values()] == ["failed", "failed", "finished"]
    assert [one.index for one in again.to_do()] == [1]
    again.begin(again.trials[1])
    assert (again.trials[1].state, again.trials[1].error) == ("running", "")


def test_nothing_is_written_for_another_driver(tmp_path: Path, opened: Open) -> None:
    book = opened()
    book.begin(begun(0))

    def lost() -> None:
        raise RunError("lost the lease")

    book.guard = lost
    before = book.trials[0]
    with pytest.raises(RunError, match="lost the lease"):
        book.score(0, at(25, 50), 1000)
    assert book.trials == {0: before}
    assert read_trials(Folder(tmp_path)) == [before]


@pytest.mark.parametrize("change", [{"state": "better"}, {"index": "x"}, {"scores": 1}])
def test_an_altered_record_is_refused_by_name(tmp_path: Path, opened: Open, change: dict[str, object]) -> None:
    book = opened()
    book.begin(begun(0))
    folder = Folder(tmp_path).folder("records")
    folder.write_json("0000.json", {**folder.record("0000.json"), **change})
    with pytest.raises(
        IntegrityError, match=rf"records/0000.json: {next(iter(change))}: .*; delete it to do the trial"
    ):
        opened()
