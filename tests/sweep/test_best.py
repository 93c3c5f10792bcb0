"""What a sweep found."""

from __future__ import annotations

import pytest

from raydd.sweep.best import best_by_storage, best_of, config_names, front, influences
from tests.sweep.conftest import trial


def test_best_of_every_storage_and_the_front() -> None:
    trials = [
        trial(0, 50.0, 60.0),
        trial(1, 70.0, 65.0),
        trial(2, 64.0, ipc=5),
        trial(3, 80.0, ipc=10),
        trial(4, 80.0, ipc=20),
        trial(5, 99.0, state="stopped"),
        trial(6, state="failed"),
        trial(7, 65.0),
    ]
    bests = best_by_storage(trials)
    assert [one.index for one in bests] == [1, 2, 3, 4]
    # What is no better than a smaller set is not on the front; of equals the smallest set is the best.
    assert [one.index for one in front(bests)] == [1, 3]
    best = best_of(trials)
    assert best is not None
    assert best.index == 3
    assert best_of([trials[5], trials[6]]) is None


def test_configs_are_named_by_images_a_class_and_bytes_where_these_do_not_tell() -> None:
    bests = [trial(0, 1.0), trial(1, 2.0, storage_bytes=7), trial(2, 3.0, ipc=10)]
    assert config_names(bests) == {0: "ipc1-1000bytes", 1: "ipc1-7bytes", 2: "ipc10"}


def test_what_mattered_is_told_within_equal_storage_only() -> None:
    def at(index: int, lr: float, init: str, accuracy: float, ipc: int = 1, **more):
        point = {"method.ipc": ipc, "method.lr_syn": lr, "method.init": init}
        return trial(index, accuracy, ipc=ipc, point=point, **more)

    trials = [
        at(0, 0.1, "real", 50.0),
        at(1, 1.0, "noise", 60.0),
        at(2, 10.0, "real", 70.0),
        at(3, 10.0, "noise", 99.0, ipc=10),
        at(4, 0.1, "noise", 1.0, state="stopped"),
    ]
    found = {one.key: one for one in influences(trials)}
    assert list(found) == ["method.lr_syn", "method.init"]
    assert found["method.lr_syn"].rank == pytest.approx(1.0)
    assert found["method.lr_syn"].values == (("0.1", 50.0, 1), ("1", 60.0, 1), ("10", 70.0, 1))
    assert found["method.init"].rank is None
    assert found["method.init"].values == (("noise", 60.0, 1), ("real", 60.0, 2))
    assert {one.trials for one in found.values()} == {3}


def test_ranks_of_equals_are_shared() -> None:
    points = [(1, 10.0), (1, 30.0), (2, 20.0), (3, 20.0)]
    trials = [trial(i, accuracy, point={"method.x": x}) for i, (x, accuracy) in enumerate(points)]
    # Ranks 0.5 0.5 2 3 against 0 3 1.5 1.5: a covariance of nothing.
    (found,) = influences(trials)
    assert found.rank == pytest.approx(0.0)
