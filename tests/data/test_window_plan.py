"""Which images a round sees: a pure function of seed, window and class."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd.data.plan import EpochPlan, Epochs, Windows


@settings(max_examples=80, deadline=None)
@given(count=st.integers(1, 40), size=st.integers(1, 45), turn=st.integers(0, 3), seed=st.integers(0, 3))
def test_a_pass_shows_every_image_once_or_twice(count: int, size: int, turn: int, seed: int) -> None:
    windows = Windows(seed, [count], size, 10)
    parts = -(-count // size)
    shown = [windows.places(turn * parts + part, 0) for part in range(parts)]
    assert all(len(places) == min(count, size) for places in shown)
    assert set(torch.cat(shown).bincount(minlength=count).tolist()) <= {1, 2}


def test_a_window_is_of_neighbours_round_the_end_and_ascends() -> None:
    windows = Windows(0, [10], 4, 1)
    for number in range(20):
        start, places = windows.start(number, 0), windows.places(number, 0)
        assert places.tolist() == sorted((start + i) % 10 for i in range(4))
    assert len({windows.start(3 * turn, 0) for turn in range(10)}) > 3, "each pass begins elsewhere"


def test_windows_are_keyed_by_seed_and_class() -> None:
    def starts(seed: int, label: int) -> list[int]:
        return [Windows(seed, [1000, 1000], 100, 1).start(number, label) for number in range(0, 100, 10)]

    assert starts(0, 0) == starts(0, 0)
    assert starts(0, 0) != starts(1, 0)
    assert starts(0, 0) != starts(0, 1)


def test_small_classes_are_whole_and_rounds_are_counted_from_zero() -> None:
    windows = Windows(0, [3, 8], 4, 5)
    assert windows.sizes.tolist() == [3, 4]
    assert [windows.places(number, 0).tolist() for number in range(4)] == [[0, 1, 2]] * 4
    assert [windows.number(round) for round in (0, 4, 5, 9, 10)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(("size", "rounds"), [(0, 1), (1, 0)])
def test_empty_windows_are_refused(size: int, rounds: int) -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        Windows(0, [3], size, rounds)


BY_CLASS = (torch.tensor([5, 0, 2, 9]), torch.tensor([1, 3, 4, 6, 7, 8]))


def test_epochs_of_the_whole_set_never_end() -> None:
    epochs, plan = Epochs(3, BY_CLASS, None, 4, per_round=2), EpochPlan(3, 10, 4)
    got = [epochs.batch(round, place).tolist() for round in range(6) for place in range(2)]
    assert got == [plan.batch(position).tolist() for position in range(12)]


def test_epochs_begin_anew_with_every_window() -> None:
    windows = Windows(3, [4, 6], 3, 4)
    epochs = Epochs(3, BY_CLASS, windows, 3, per_round=2)
    got = {round: [epochs.batch(round, place).tolist() for place in range(2)] for round in range(12)}
    for number in range(3):
        seen = sorted(i for label, ids in enumerate(BY_CLASS) for i in ids[windows.places(number, label)].tolist())
        batches = [batch for round in range(4 * number, 4 * number + 4) for batch in got[round]]
        # 4 rounds of 2 batches of 3 are 4 epochs of 6 images.
        for epoch in range(4):
            assert sorted(batches[2 * epoch] + batches[2 * epoch + 1]) == seen
    for round in (11, 0, 5, 4, 3):
        assert [epochs.batch(round, place).tolist() for place in range(2)] == got[round]
    # By what an image is in its window, so that other images do not count as another order.
    first = [got[4 * number][0] + got[4 * number][1] for number in range(3)]
    places = [[sorted(epoch).index(i) for i in epoch] for epoch in first]
    assert places[0] != places[1] or places[1] != places[2], "each window has orders of its own"
