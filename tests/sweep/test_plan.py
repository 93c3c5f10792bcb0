"""A sweep is checked before anything starts, and goes on only as what it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raydd.config import config_from, parse_yaml, sweep_base
from raydd.engine.job import Job
from raydd.errors import ConfigError, RunError
from raydd.sweep.plan import SweepPlan, check_same, write_plan
from tests.sweep.conftest import SPACE, planned, said

LEAST = {"name": "a", "data": {"train": "digits"}, "method": {"name": "dm"}}


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ({}, "sweep.space is required but missing"),
        ({"space": {}}, "sweep.space must be "),
        ({"space": SPACE, "trails": 3}, "sweep.trails is not a known key"),
        ({"space": SPACE, "trials": 0}, "sweep.trials must be >= 1 or auto, got 0"),
        ({"space": SPACE, "metric": "test_accuracy"}, "sweep.metric must be 'val_accuracy', got 'test_accuracy'"),
        ({"space": SPACE, "scheduler": "best"}, "sweep.scheduler must be 'asha', 'median' or 'none', got 'best'"),
        ({"space": {"data.train": {"choice": ["x"]}}}, "sweep.space may vary method.*, net.* and data.zca, statistics"),
        ({"space": {"seed": {"choice": [1]}}}, "sweep.space may vary method.*, net.* and data.zca, statistics"),
        ({"space": {"method.ipc": {}}}, "sweep.space.method.ipc must be one of choice, uniform, loguniform, integer, "),
        (
            {"space": {"method.ipc": {"choice": [1], "integer": [1, 2]}}},
            "sweep.space.method.ipc must be one of choice, uniform, loguniform, integer, grid, got choice and integer",
        ),
        ({"space": {"method.ipc": {"among": [1]}}}, "sweep.space.method.ipc.among is not a known key"),
        (
            {"space": {"method.lr_syn": {"uniform": [2, 1]}}},
            "sweep.space.method.lr_syn uniform must be [smallest, largest], got [2.0, 1.0]",
        ),
        ({"space": {"method.lr_syn": {"loguniform": [0, 1]}}}, "sweep.space.method.lr_syn loguniform must be above 0"),
        (
            {"space": {"method.lr_syn": {"uniform": [0, 1]}}, "search": "grid"},
            "sweep.search grid goes through lists of values, so sweep.space.method.lr_syn must be choice or grid, got uniform",
        ),
    ],
)
def test_mistakes_in_the_section(sweep: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sweep_base({**LEAST, "sweep": sweep})
    assert str(caught.value).startswith(told)


def test_a_sweep_needs_a_section_and_a_validation_part() -> None:
    with pytest.raises(ConfigError, match=r"sweep is required but missing: what is to be varied, under sweep.space"):
        sweep_base(LEAST)
    with pytest.raises(ConfigError, match=r"data.val_fraction must be > 0, got 0; set it to 0.1 \(config\)"):
        sweep_base({**LEAST, "data": {"train": "digits", "val_fraction": 0}, "sweep": {"space": SPACE}})
    base = sweep_base({**LEAST, "sweep": {"space": SPACE}})
    assert base.config.data.val_fraction == 0.1
    assert base.notes == ("data.val_fraction is not set: 0.1 of the training split is kept for scores",)
    # Said in full it is the same sweep, from a config as well as from plain data.
    again = sweep_base(config_from({**base.raw, "sweep": {"space": SPACE}}))
    assert (again.config, again.sweep, again.notes) == (base.config, base.sweep, ())


def test_a_sweep_says_nothing_of_a_run() -> None:
    config = config_from({**LEAST, "sweep": {"space": SPACE}})
    plain = config_from(LEAST)
    assert config.hash("x") == plain.hash("x")
    assert config.model_dump() == plain.model_dump()


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (
            {"method.lr_sin": {"uniform": [0, 1]}},
            r"method.lr_sin is not a known key; remove it or correct its spelling",
        ),
        # Drawn once in a thousand, and tried all the same.
        ({"method.ipc": {"choice": [*range(1, 100), "x"]}}, r"method.ipc must be a valid integer, got 'x'"),
        ({"method.ipc": {"integer": [1, 500]}}, r"method.ipc must be <= the size of the smallest class \(126\)"),
        ({"net.depth": {"integer": [1, 9]}}, r"net.depth must be <= 3 for images of 8 pixels, got 9"),
        # A condition that could never hold.
        (
            {"method.lr_syn": {"uniform": [0, 1], "when": {"net.norm": "instance"}}},
            r"sweep.space.method.lr_syn.when must name keys that the config or sweep.space sets, got net.norm; write it out",
        ),
        # What one method has another need not.
        ({"method.name": {"choice": ["dm", "frepo"]}}, r"method.classes_per_slot is not a known key"),
    ],
)
def test_every_value_is_checked_before_anything_starts(
    space: dict[str, Any], told: str, shards: dict[str, str], tmp_path: Path
) -> None:
    raw = said(shards, tmp_path, space=space)
    with pytest.raises(ConfigError, match=told):
        planned({**raw, "method": {"name": "dm", "real_batch": 8, "classes_per_slot": 5}, "net": {"width": 4}})
    assert list(tmp_path.iterdir()) == []


def test_a_trial_is_scored_alike_and_never_sees_the_test_split(shards: dict[str, str], tmp_path: Path) -> None:
    space = {
        "method.name": {"grid": ["dm", "frepo"]},
        "method.rounds": {"choice": [10, 25]},
        "method.real_batch": {"choice": [8]},
    }
    raw = said(shards, tmp_path, space=space, scores=3, repeats=2)
    plan = planned({**raw, "method": {"name": "dm"}, "net": "auto"})
    configs = [plan.trial_config(plan.trial(i, drawn)) for i, drawn in enumerate(plan.draws())]
    assert {config.method.name for config in configs} == {"dm", "frepo"}
    # Networks differ by method, so one of them judges all.
    assert len({str(config.evaluate.nets) for config in configs}) == 1
    for config in configs:
        assert (config.evaluate.protocol, config.evaluate.repeats, config.evaluate.baselines) == ("dc", 2, [])
        assert config.evaluate.every == {10: 4, 25: 9}[config.method.rounds]
        assert config.data.test is None
        assert shards["test"] not in str(config)
    assert configs[1].name == "0001"
    assert configs[1].store == f"{tmp_path}/s/trials"


def test_the_config_of_a_point_gives_the_bits_of_its_trial(shards: dict[str, str], tmp_path: Path) -> None:
    plan = planned(said(shards, tmp_path))
    drawn = next(plan.draws())
    theirs = plan.trial_config(plan.trial(0, drawn)).resolved(plan.facts)
    ready = config_from(parse_yaml(yaml.safe_dump(plan.point_config(drawn, "x").model_dump(mode="json")), "x"))
    assert ready.evaluate.repeats == 1
    mine = ready.resolved(plan.facts)
    hashes = [Job(config=c, shards="", index_hash=plan.real.index.hash).hash for c in (theirs, mine)]
    assert hashes[0] == hashes[1]


def test_a_sweep_goes_on_only_as_what_it_was(shards: dict[str, str], tmp_path: Path) -> None:
    raw = said(shards, tmp_path)

    def again(*overrides: str) -> SweepPlan:
        return planned(raw, *overrides)

    assert not check_same(again())
    write_plan(again())
    assert check_same(again())
    assert check_same(again("sweep.trials=9", "sweep.hours=2", "sweep.max_concurrent=7", "engine.workers=2"))
    for override, told in (
        ("method.rounds=13", "base.said.method.rounds was 12, now 13"),
        ("sweep.scheduler=asha", "sweep.scheduler was 'none', now 'asha'"),
        ("seed=1", "seed was 0, now 1"),
        ("data.val_fraction=0.2", "data.val_fraction was 0.1, now 0.2"),
        ("evaluate.protocol=dsa", "sweep.protocol was 'dc', now 'dsa'"),
    ):
        with pytest.raises(RunError, match=rf"the sweep s at {tmp_path}/s is another one \({told}"):
            check_same(again(override))
    # What people read is a config that can be swept again.
    read = sweep_base(parse_yaml((tmp_path / "s/sweep.yaml").read_text(), "x"))
    assert read.sweep == again().sweep
    assert read.config == again().config


def test_a_run_is_no_sweep(shards: dict[str, str], tmp_path: Path) -> None:
    plan = planned(said(shards, tmp_path))
    plan.folder.write("config.yaml", b"")
    with pytest.raises(RunError, match=r"expected a sweep or nothing at .*/s, got a run; choose another name"):
        check_same(plan)
