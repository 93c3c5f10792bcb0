"""A trial is an ordinary run that tells its scores; without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raydd
from raydd.catalogue import problems
from raydd.config import EngineConfig
from raydd.data.reader import RealData
from raydd.errors import EngineError
from raydd.live import show_run
from raydd.store import Folder
from raydd.sweep import trial as trials
from raydd.sweep.trial import bundles, run_trial
from tests.sweep.conftest import planned, said

Lines = list[dict[str, Any]]


class Stopped(BaseException):
    """Tune ends a trial in its report."""


def test_scores_come_while_the_rounds_wait(
    shards: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    init = RealData.__init__

    def noted(self: RealData, folder: Any, **options: Any) -> None:
        opened.append(str(folder))
        init(self, folder, **options)

    monkeypatch.setattr(RealData, "__init__", noted)
    plan = planned(said(shards, tmp_path))
    config = plan.trial_config(plan.trial(0, next(plan.draws())))
    run, told = Folder(config.store).folder(config.name), Lines()

    def report(line: dict[str, Any]) -> None:
        told.append({**line, "on the way": not run.exists("status.json") or not run.exists("distilled/manifest.json")})

    run_trial(config, plan.train, report)
    assert [(line["round"], line["share"]) for line in told] == [(3, 25), (6, 50), (9, 75), (12, 100), (12, 100)]
    assert all(line["on the way"] for line in told[:3])
    assert told[-1]["final"] == told[-2]["accuracy"] > 20
    ds = raydd.load(run.url)
    assert {line["storage_bytes"] for line in told} == {ds.storage_bytes}
    # An ordinary run, finished; of the data only the training split was opened.
    assert problems(run.url) == []
    assert show_run(run)["state"] == "finished"
    assert set(opened) == {shards["train"]}
    # Done once more it only tells again what it knows.
    again = Lines()
    run_trial(config, plan.train, again.append)
    assert again == [{key: value for key, value in line.items() if key != "on the way"} for line in told]


def test_a_stopped_trial_leaves_a_checkpoint_and_goes_on_with_the_same_scores(
    shards: dict[str, str], tmp_path: Path
) -> None:
    plan = planned(said(shards, tmp_path), "evaluate.select=val", "evaluate.every=6")
    config = plan.trial_config(plan.trial(1, next(plan.draws())))
    undisturbed = config.model_copy(update={"name": "undisturbed"})
    whole, told = Lines(), Lines()
    run_trial(undisturbed, plan.train, whole.append)

    def stops(line: dict[str, Any]) -> None:
        told.append(line)
        if len(told) == 2:
            raise Stopped

    with pytest.raises(Stopped):
        run_trial(config, plan.train, stops)
    run = Folder(config.store).folder(config.name)
    assert show_run(run)["state"] == "stopped"
    assert not run.exists("distilled/manifest.json")
    rest = Lines()
    run_trial(config, plan.train, rest.append)
    assert told == whole[:2]
    assert rest == whole
    # The best of its sets counts, where the config says so.
    assert whole[-1]["final"] == max(line["accuracy"] for line in whole)


def test_a_coreset_is_scored_at_its_end(shards: dict[str, str], tmp_path: Path) -> None:
    raw = said(shards, tmp_path, space={"method.ipc": {"choice": [2]}}, trials=1)
    plan = planned({**raw, "method": {"name": "random"}})
    told = Lines()
    run_trial(plan.trial_config(plan.trial(0, next(plan.draws()))), plan.train, told.append)
    (line,) = told
    assert (line["round"], line["share"], line["final"]) == (0, 100, line["accuracy"])


def test_a_score_that_cannot_be_had_ends_the_trial(
    shards: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(ask: Any, url: str) -> Any:
        raise EngineError("no memory")

    monkeypatch.setattr(trials, "score_of", fails)
    plan = planned(said(shards, tmp_path))
    with pytest.raises(EngineError, match="no memory"):
        run_trial(plan.trial_config(plan.trial(0, next(plan.draws()))), plan.train, lambda line: None)


def test_a_trial_has_a_place_for_its_driver_its_workers_and_its_scores() -> None:
    def of(**engine: Any) -> list[dict[str, float]]:
        return bundles(EngineConfig(**engine))

    assert of(workers=0, cpus_per_worker=4) == [{"CPU": 4.0}]
    assert of(workers=0, gpus_per_worker=1) == [{"CPU": 1.0, "GPU": 1.0}]
    worker = {"CPU": 2.0, "GPU": 0.5}
    assert of(workers=3, cpus_per_worker=2, gpus_per_worker=0.5) == [{"CPU": 1.0}, *[worker] * 4]
