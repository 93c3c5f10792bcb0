"""`raydd sweep` refuses what it cannot do before it starts or writes anything."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.cli.program import command
from tests.data.makers import tree
from tests.sweep.conftest import said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "sweep.space={method.lr_sin: {uniform: [0, 1]}}",
            "method.lr_sin is not a known key; remove it or correct its",
        ),
        ("sweep.space={method.ipc: {choice: [1, 500]}}", "method.ipc must be <= the size of the smallest class (126)"),
        ("sweep.space={data.test: {choice: [a]}}", "sweep.space may vary method.*, net.* and data.zca, statistics"),
        ("sweep.trails=3", "sweep.trails is not a known key; remove it or correct its spelling (c.yaml)"),
        ("sweep=null", "sweep is required but missing: what is to be varied, under sweep.space (c.yaml)"),
        ("data.val_fraction=0", "a sweep scores its trials on the validation part of the training split, so data.val_"),
        ("data.train=none", "{work}/none: expected packed shards with index.json, got none"),
        ("sweep.search=optuna", "sweep.search optuna needs the package optuna, which is not installed; pip install"),
    ],
)
def test_mistakes(change: str, told: str, work: Path, shards: dict[str, str]) -> None:
    if "optuna" in change and find_spec("optuna"):
        pytest.skip("optuna is installed")
    (work / "c.yaml").write_text(yaml.safe_dump(said(shards, "runs")))
    before = tree(work.parent)
    outcome = command(work, "sweep", "c.yaml", "--set", change)
    assert outcome.mistake.removeprefix("raydd: ").startswith(told.format(work=work))
    assert tree(work.parent) == before
    assert not outcome.ray


def test_a_config_with_a_sweep_is_a_run_too(work: Path, shards: dict[str, str]) -> None:
    (work / "c.yaml").write_text(yaml.safe_dump(said(shards, "runs")))
    assert command(work, "distill", "c.yaml", "--set", "evaluate.repeats=0", "--set", "name=run").code == 0
    # Where a run is, no sweep begins.
    mistake = command(work, "sweep", "c.yaml", "--set", "name=run").mistake
    assert mistake == f"raydd: expected a sweep or nothing at {work}/runs/run, got a run; choose another name"
    # Where a sweep is, no run begins, which would replace its best set.
    (work / "runs/swept").mkdir()
    (work / "runs/swept/sweep.yaml").write_text("name: swept")
    mistake = command(work, "distill", "c.yaml", "--set", "name=swept").mistake
    assert mistake == f"raydd: expected a run or nothing at {work}/runs/swept, got a sweep; choose another name"
    assert tree(work / "runs/swept") == {"sweep.yaml": b"name: swept"}
