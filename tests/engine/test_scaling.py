"""The model's arithmetic, by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from raydd.engine.scaling import ARITHMETIC, Cluster, Round, predict

MB = 2**20
CLUSTER = Cluster(speed=10, gbit_s=8, latency_s=1e-3, call_s=1e-2)  # a gigabyte a second


def test_one_process_takes_all_the_work_and_exchanges_nothing() -> None:
    round = Round(slots=5, slot_s=2.0, size=MB, units=5, unit_s=1.0, shared_s=0.5, update_s=0.25)
    found = predict(round, 0, Cluster())
    assert found.seconds == pytest.approx(5 * 2 + 5 * 1 + 0.5 + 0.25)
    assert (found.received, found.efficiency, found.bottleneck) == (0, 1.0, ARITHMETIC)


def test_rows_of_their_own_cost_their_uneven_shares_and_nothing_else() -> None:
    round = Round(slots=10, slot_s=2.0, size=50 * MB, update_s=0.4, separable=True)
    found = predict(round, 4, CLUSTER)
    # Three slots on the busiest of four, ten times as fast; each steps a quarter of the rows.
    assert found.exchange == "resident"
    assert found.received == 0
    assert found.seconds == pytest.approx(3 * 0.2 + 0.04 / 4)
    assert found.efficiency == pytest.approx((10 * 0.2 + 0.04) / 4 / found.seconds)
    assert found.bottleneck == "uneven shares of slots"


def test_members_send_twice_the_variables_however_many_there_are() -> None:
    received = []
    for workers in (8, 64, 512):
        round = Round(
            slots=workers,
            slot_s=1.0,
            size=50 * MB,
            units=workers,
            unit_s=0.5,
            update_s=0.1,
            gradients=workers,
            averages=True,
        )
        found = predict(round, workers, CLUSTER)
        received.append(found.received)
        assert found.exchange == "collective"
        assert found.received == 2 * 50 * MB * (workers - 1) // workers
        expected = 0.1 + 0.05 + 0.01 + found.received / 1e9 + 3 * (workers - 1) * 1e-3
        assert found.seconds == pytest.approx(expected)
    assert received[-1] / received[0] == pytest.approx((511 / 512) / (7 / 8), rel=1e-6)
    assert found.bottleneck == "latency"


def test_two_members_on_four_workers_leave_two_idle() -> None:
    round = Round(slots=2, slot_s=10.0, size=1000, units=2, gradients=2, averages=True)
    found = predict(round, 4, replace(CLUSTER, call_s=0.0, latency_s=0.0))
    assert found.efficiency == pytest.approx(0.5, abs=1e-3)


def test_small_variables_go_out_to_all_and_come_back_from_all_by_the_coordinator() -> None:
    round = Round(slots=8, slot_s=1.0, size=MB, update_s=0.1, gradients=8, averages=True)
    found = predict(round, 4, CLUSTER)
    assert found.exchange == "store"
    assert found.received == 8 * MB
    # Two slots each; the coordinator's step is as slow as on the calibrated device, its calls one after the other.
    assert found.seconds == pytest.approx(0.2 + 0.1 + 8 * MB / 1e9 + 2e-3 + 4e-2)


def test_a_network_trains_on_every_worker_that_has_a_slot_of_it() -> None:
    one = Round(slots=10, slot_s=1.0, size=MB, units=1, unit_s=20.0)
    found = predict(one, 5, replace(CLUSTER, speed=1.0))
    assert found.lost["networks that train on every worker"] == pytest.approx(20 - 20 / 5)
    assert found.bottleneck == "networks that train on every worker"
    two = replace(one, slots=20, units=2, gradients=2)
    spread = predict(two, 2, replace(CLUSTER, speed=1.0))
    assert spread.lost["networks that train on every worker"] == 0
    # Shares that do not end where a network does: the middle one of three has slots of both.
    assert predict(two, 3, Cluster()).lost["networks that train on every worker"] == pytest.approx(40 - 40 / 3)


def test_rows_that_everyone_needs_are_gathered_whole() -> None:
    round = Round(slots=20, slot_s=1.0, size=50 * MB, units=2, gradients=2)
    found = predict(round, 4, CLUSTER)
    assert found.exchange == "collective"
    assert found.received == 75 * MB  # three quarters of what two networks give
    assert predict(round, 4, CLUSTER, "store").exchange == predict(round, 2, CLUSTER).exchange == "store"


def test_more_workers_never_take_longer_where_nothing_is_exchanged() -> None:
    round = Round(slots=100, slot_s=1.0, size=MB, separable=True)
    seconds = [predict(round, workers, CLUSTER).seconds for workers in range(1, 130)]
    assert all(later <= before + 1e-9 for before, later in pairwise(seconds))
    assert seconds[-1] == pytest.approx(0.1)
