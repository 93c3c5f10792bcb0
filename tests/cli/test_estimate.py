"""`raydd distill --estimate`: tells, and does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import command

QUICKSTART = Path(__file__).parents[2] / "jobs" / "configs" / "quickstart.yaml"


def test_the_quickstart_is_estimated_and_nothing_is_written(tmp_path: Path) -> None:
    outcome = command(tmp_path, "distill", QUICKSTART, "--estimate", "--json")
    facts = outcome.facts
    assert not outcome.ray
    assert list(tmp_path.iterdir()) == []
    assert (facts["rounds"], facts["workers"], facts["exchange"]) == (150, 2, "store")
    assert facts["hours"] * 3600 == pytest.approx(facts["seconds_a_round"] * 150)
    assert facts["exchanged_bytes"] == 2 * (10 * 64 + 10 * 10) * 4
    assert facts["memory_bytes"] == sum(facts["memory"].values())
    assert 0 < facts["checkpoint_bytes"] < facts["storage_bytes"]
    assert (facts["price"], facts["cost"]) == (None, None)
    assert len(facts["missing"]) == 1
    assert "digits is packed into" in facts["missing"][0]


def test_people_are_told_in_lines(work: Path) -> None:
    before = sorted(work.iterdir())
    outcome = command(work, "distill", "c.yaml", "--estimate")
    assert outcome.code == 0, outcome.err
    names = [line[:18].strip() for line in outcome.out.splitlines()]
    assert names == ["time", "by", "exchange", "memory a worker", "storage", "before", "assumed"]
    assert "6 rounds of" in outcome.out
    assert "one process" in outcome.out
    assert sorted(work.iterdir()) == before


def test_shards_that_are_not_there_are_a_mistake(work: Path) -> None:
    outcome = command(work, "distill", "c.yaml", "--estimate", "--set", "data.train=nowhere")
    assert "expected packed shards with index.json, got none: run raydd pack first" in outcome.mistake


def test_a_price_tells_the_cost(work: Path) -> None:
    words = ["distill", "c.yaml", "--estimate", "--set", "engine.workers=4", "--set", "method.rounds=1000000"]
    facts = command(work, *words, "--price", 2.5, "--json").facts
    assert facts["cost"] == pytest.approx(2.5 * facts["hours"] * 4)
    (told,) = [line for line in command(work, *words, "--price", 2.5).out.splitlines() if line.startswith("cost ")]
    assert " at $2.5 an hour and worker; " in told
    mistake = command(work, "distill", "c.yaml", "--price", 2.5).mistake
    assert mistake.startswith("raydd: --price tells what an estimate costs, got no --estimate")
    assert command(work, *words, "--price", -1).code == 2
