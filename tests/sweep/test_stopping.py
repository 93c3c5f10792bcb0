"""Stopping rules, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from raydd.sweep.stopping import RULES, asha, median, never


def curve(*accuracies: float) -> list[tuple[float, float]]:
    """Scores at quarters."""
    return [(25.0 * (i + 1), accuracy) for i, accuracy in enumerate(accuracies)]


def test_asha_keeps_the_best_third_at_a_rung() -> None:
    others = [curve(10), curve(20), curve(30), curve(40)]
    # A third of the way from 30 to 40 down: of four numbers, two thirds lie below 30.
    assert asha(curve(29.9), others)
    assert not asha(curve(30.0), others)
    assert not asha(curve(99.0), others)


def test_asha_lets_the_first_pass_and_decides_at_rungs_only() -> None:
    assert not asha(curve(1), [])
    others = [curve(50, 60, 70, 80)]
    # Quarters pass the rungs at a ninth and at a third with the first two scores; the third passes none.
    assert asha(curve(49), others)
    assert asha(curve(60, 59), others)
    assert not asha(curve(60, 60, 1), others)
    assert not asha(curve(60, 60, 60, 1), others)
    # Others that have not come so far say nothing.
    assert not asha(curve(60, 1), [curve(50)])


def test_asha_takes_the_highest_rung_that_a_score_passes() -> None:
    late = [(50.0, 30.0)]
    assert asha(late, [curve(90, 40)])
    assert not asha(late, [curve(90, 30)])
    assert not asha([(5.0, 0.0)], [curve(90, 90)])


def test_median_compares_the_best_with_averages_so_far() -> None:
    others = [curve(10, 30, 99), curve(20, 40), curve(30, 50)]
    # Averages up to a half: 20, 30, 40.
    assert median(curve(0, 29), others)
    assert not median(curve(0, 30), others)
    assert not median(curve(35, 0), others)
    # Two are no company, and the end is no moment to stop.
    assert not median(curve(0, 1), others[:2])
    assert not median(curve(0, 0, 0, 0), [curve(9, 9, 9, 9)] * 3)
    assert not median(curve(0, 1), [curve(9)] * 3)
    assert not median([(9.0, 0.0)], [curve(50, 50)] * 3)


def test_none_stops_nobody() -> None:
    assert not never(curve(0), [curve(100)] * 9)


@pytest.mark.parametrize("name", ["asha", "median"])
def test_the_order_of_the_others_is_nothing(name: str) -> None:
    others = [curve(10, 20), curve(30, 5), curve(20, 60), curve(40, 41)]
    decisions = [RULES[name](curve(15, value), o) for o in (others, others[::-1]) for value in range(0, 70, 5)]
    assert decisions[:14] == decisions[14:]
    assert {True, False} == set(decisions)
