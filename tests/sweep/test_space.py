"""Points of a space: pure functions of the seed and the trial's number."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from raydd.config import Dimension, config_from
from raydd.sweep.space import applied, count, draw, points, probes, value_at
from tests.sweep.conftest import section


def same(drawn: dict[str, Any]) -> dict[str, Any]:
    return drawn


def test_a_draw_depends_on_seed_trial_and_key_alone() -> None:
    space = {"method.lr_syn": {"loguniform": [0.1, 10]}, "method.ipc": {"choice": [1, 5, 10]}}
    sweep = section(space=space)
    first = draw(sweep, 0, 3)
    assert first == draw(sweep, 0, 3)
    assert first != draw(sweep, 1, 3)
    assert first["method.lr_syn"] != draw(sweep, 0, 4)["method.lr_syn"]
    # Another key beside them, and another order, change nothing.
    more = section(space={"method.momentum_syn": {"uniform": [0, 0.9]}, **dict(reversed(space.items()))})
    assert {key: draw(more, 0, 3)[key] for key in space} == first


def test_kinds() -> None:
    third = Dimension(choice=["a", "b", "c"])
    assert [value_at(third, share) for share in (0.0, 0.34, 0.99)] == ["a", "b", "c"]
    whole = Dimension(integer=(3, 5))
    assert [value_at(whole, share) for share in (0.0, 0.34, 0.999)] == [3, 4, 5]
    assert value_at(Dimension(uniform=(-1, 1)), 0.25) == -0.5
    assert value_at(Dimension(loguniform=(0.01, 100)), 0.5) == 1.0
    # Four digits, and never beyond a bound.
    assert value_at(Dimension(uniform=(0, 1)), 1 / 3) == 0.3333
    assert value_at(Dimension(uniform=(0, 0.999999)), 0.9999999) == 0.999999


def test_loguniform_gives_each_factor_its_share() -> None:
    sweep = section(space={"method.lr_syn": {"loguniform": [0.01, 100]}}, trials=400)
    values = [drawn["method.lr_syn"] for drawn in points(sweep, 0, same)]
    decades = Counter(math.floor(math.log10(value)) for value in values)
    assert all(75 <= decades[k] <= 125 for k in (-2, -1, 0, 1))


def test_grid_keys_go_in_turn_and_the_others_are_drawn() -> None:
    space = {
        "method.ipc": {"grid": [1, 10]},
        "method.init": {"grid": ["real", "noise"]},
        "method.lr_syn": {"uniform": [0, 1]},
    }
    found = list(points(section(space=space, trials=8), 0, same))
    pairs = Counter((drawn["method.ipc"], drawn["method.init"]) for drawn in found)
    assert pairs == dict.fromkeys([(1, "real"), (1, "noise"), (10, "real"), (10, "noise")], 2)
    assert len({drawn["method.lr_syn"] for drawn in found}) == 8


def test_grid_search_is_every_combination_once() -> None:
    sweep = section(space={"method.ipc": {"choice": [1, 5, 10]}, "method.lr_syn": {"grid": [0.1, 1]}}, search="grid")
    assert count(sweep) == 6
    found = [(d["method.ipc"], d["method.lr_syn"]) for d in points(sweep, 0, same)]
    assert found == [(1, 0.1), (1, 1), (5, 0.1), (5, 1), (10, 0.1), (10, 1)]
    assert count(sweep.model_copy(update={"trials": 4})) == 4


def test_no_point_comes_twice_and_a_space_ends() -> None:
    sweep = section(space={"method.ipc": {"choice": [1, 5, 10]}}, trials=16)
    found = [drawn["method.ipc"] for drawn in points(sweep, 0, same)]
    assert sorted(found) == [1, 5, 10]
    # More trials continue the same row.
    longer = section(space={"method.lr_syn": {"uniform": [0, 1]}}, trials=9)
    assert list(points(longer, 0, same))[:5] == list(points(longer.model_copy(update={"trials": 5}), 0, same))


def test_what_is_conditional_is_set_only_where_it_matters() -> None:
    sweep = section(
        space={
            "method.real_batch": {"choice": [8], "when": {"method.name": ["dm", "dc"]}},
            "method.pool_size": {"choice": [7], "when": {"method.name": "frepo"}},
            "method.name": {"grid": ["dm", "frepo"]},
            "net.width": {"choice": [16]},
        }
    )
    base = {"name": "a", "data": {"train": "digits"}, "method": {"name": "dm", "ipc": 3}, "net": "auto"}
    raws = {}
    for name in ("dm", "frepo"):
        drawn = {**draw(sweep, 0, 0), "method.name": name}
        raws[name], active = applied(base, sweep.space, drawn)
        other = {"dm": "method.pool_size", "frepo": "method.real_batch"}[name]
        assert other not in active
        # In the order in which they were said.
        assert list(active) == [key for key in sweep.space if key != other]
    assert config_from(raws["dm"]).method.model_dump(include={"ipc", "real_batch"}) == {"ipc": 3, "real_batch": 8}
    assert config_from(raws["frepo"]).method.model_dump(include={"ipc", "pool_size"}) == {"ipc": 3, "pool_size": 7}
    assert [config_from(raw).net.name for raw in raws.values()] == ["convnet", "frepo_convnet"]
    assert base["net"] == "auto"


def test_draws_that_come_to_the_same_are_one_point() -> None:
    sweep = section(
        space={
            "method.name": {"choice": ["dm"]},
            "method.pool_size": {"integer": [1, 1000], "when": {"method.name": "frepo"}},
        },
        trials=5,
    )
    base = {"method": {"name": "dm"}}
    assert len(list(points(sweep, 0, lambda drawn: applied(base, sweep.space, drawn)[1]))) == 1


def test_probes_try_every_value_and_bound() -> None:
    sweep = section(space={"method.ipc": {"choice": [1, 5]}, "method.lr_syn": {"loguniform": [0.1, 10]}})
    tried = [(key, drawn[key]) for key, drawn in probes(sweep.space, [draw(sweep, 0, 0)])]
    assert tried == [("method.ipc", 1), ("method.ipc", 5), ("method.lr_syn", 0.1), ("method.lr_syn", 10)]


@pytest.mark.parametrize("search", ["random", "grid"])
def test_the_number_of_trials_has_a_default(search: str) -> None:
    space = {"method.ipc": {"choice": list(range(1, 31))}}
    assert count(section(space=space, search=search)) == {"random": 16, "grid": 30}[search]
