"""Optuna through Ray Tune: told all that is recorded, asked for one point at a time, within one size of set."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from raydd.errors import ConfigError
from raydd.sweep import search
from raydd.sweep.records import Trial
from tests.sweep.conftest import planned, said, section, trial

SPACE = {
    "method.ipc": {"choice": [1, 2]},
    "method.lr_syn": {"loguniform": [0.1, 10]},
    "method.real_batch": {"integer": [4, 9]},
    "method.augment": {"choice": [None, "crop"]},
}


class Optuna:
    """What is used of optuna and of Tune's searcher for it, noting what it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[dict[str, Any]] = []
        module: Any = ModuleType("optuna")
        module.logging = SimpleNamespace(set_verbosity=lambda level: None, WARNING=30)
        names = ("CategoricalDistribution", "FloatDistribution", "IntDistribution")
        kinds = {name: (lambda *given, _name=name, **more: (_name, given, more)) for name in names}
        module.distributions = SimpleNamespace(**kinds)
        monkeypatch.setitem(sys.modules, "optuna", module)
        tune: Any = ModuleType("ray.tune.search.optuna")
        tune.OptunaSearch = self.searcher
        monkeypatch.setitem(sys.modules, "ray.tune.search.optuna", tune)

    def searcher(self, space: dict[str, Any], **given: Any) -> Any:
        self.told.append({"space": space, **given})
        found = {"method.lr_syn": 0.5, "method.real_batch": 7, "method.augment": 1}
        return SimpleNamespace(suggest=lambda trial_id: found)


def drawn(ipc: int, lr: float, batch: int, augment: str | None) -> dict[str, Any]:
    return dict(zip(SPACE, (ipc, lr, batch, augment), strict=True))


def test_optuna_sees_the_trials_of_one_size(
    monkeypatch: pytest.MonkeyPatch, shards: dict[str, str], tmp_path: Path
) -> None:
    optuna = Optuna(monkeypatch)
    plan = planned(said(shards, tmp_path, space=SPACE, search="optuna", trials=20))
    trials: list[Trial] = [
        trial(0, 50.0, 60.0, drawn=drawn(1, 0.3, 5, None)),
        trial(1, 90.0, drawn=drawn(2, 3.0, 6, "crop"), ipc=2),
        trial(2, 40.0, state="stopped", drawn=drawn(1, 9.0, 9, "crop")),
        trial(3, 45.0, state="running", drawn=drawn(1, 1.0, 4, None)),
        trial(4, state="failed", drawn=drawn(1, 1.0, 4, None)),
    ]
    found = search.suggest(plan, 5, trials)
    told = optuna.told[0]
    assert told["space"] == {
        "method.lr_syn": ("FloatDistribution", (0.1, 10), {"log": True}),
        "method.real_batch": ("IntDistribution", (4, 9), {}),
        "method.augment": ("CategoricalDistribution", ([0, 1],), {}),
    }
    expected = {
        1: ([{"method.lr_syn": 0.3, "method.real_batch": 5, "method.augment": 0}], [60.0]),
        2: ([{"method.lr_syn": 3.0, "method.real_batch": 6, "method.augment": 1}], [90.0]),
    }
    expected[1][0].append({"method.lr_syn": 9.0, "method.real_batch": 9, "method.augment": 1})
    expected[1][1].append(40.0)
    assert (told["points_to_evaluate"], told["evaluated_rewards"]) == expected[found["method.ipc"]]
    assert (told["metric"], told["mode"]) == ("val_accuracy", "max")
    assert found == {**found, "method.lr_syn": 0.5, "method.real_batch": 7, "method.augment": "crop"}
    # Another trial asks with another seed, and what decides the size is drawn as by random search.
    ipcs = {search.suggest(plan, index, [])["method.ipc"] for index in range(6, 16)}
    assert ipcs == {1, 2}
    assert len({one["seed"] for one in optuna.told}) == 11


def test_trials_that_were_begun_are_not_drawn_again(
    monkeypatch: pytest.MonkeyPatch, shards: dict[str, str], tmp_path: Path
) -> None:
    Optuna(monkeypatch)
    for kind in ("random", "optuna"):
        plan = planned(said(shards, tmp_path, space=SPACE, search=kind, trials=5))
        begun = {index: trial(index, 50.0, drawn=drawn(1, 1.0, 4, None)) for index in (0, 2)}
        assert [index for index, _ in search.next_draws(plan, begun)] == [1, 3, 4]
        assert search.anything_left(plan, list(begun.values()))
        everyone = [trial(index, 50.0) for index in range(5)]
        assert not search.anything_left(plan, everyone)
        assert search.anything_left(plan, [*everyone[1:], trial(0, 50.0, state="running")])


def test_without_optuna_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    search.check_search(section())
    with pytest.raises(ConfigError, match=r"needs the package optuna, .*; pip install 'raydd\[optuna\]', or set"):
        search.check_search(section(search="optuna"))
