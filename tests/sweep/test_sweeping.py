"""What comes after the trials, and when there is no time for more; without Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import raydd
from raydd.catalogue import problems, show
from raydd.errors import EngineError, RunError
from raydd.store import Folder
from raydd.sweep.plan import SweepPlan, write_plan
from raydd.sweep.records import Book, Score
from raydd.sweep.stopping import never
from raydd.sweep.trial import run_trial
from raydd.sweeping import sweep
from raydd.watchers import Silent
from tests.engine.toys import bits
from tests.sweep.conftest import planned, said


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def book_of(plan: SweepPlan) -> Book:
    return Book(folder=plan.folder, rule=never, guard=lambda: None, told=lambda trial: None)


def done_by_hand(plan: SweepPlan, count: int) -> Book:
    """Do the first trials of a sweep, and leave one in the middle."""
    write_plan(plan)
    book = book_of(plan)
    for index, drawn in enumerate(plan.draws()):
        book.begin(plan.trial(index, drawn))
        if index == count:
            break
        told: list[dict[str, Any]] = []
        run_trial(plan.trial_config(book.trials[index]), plan.train, told.append)
        for line in told[:-1]:
            found = {key: line[key] for key in ("round", "share", "accuracy", "std")}
            book.score(index, Score(**found), line["storage_bytes"])
        book.finish(index, told[-1]["final"], told[-1]["storage_bytes"])
    return book


def test_when_the_hours_are_up_the_best_of_what_is_finished_is_kept(shards: dict[str, str], tmp_path: Path) -> None:
    raw = said(shards, tmp_path, hours=1)
    book = done_by_hand(planned(raw), 2)
    at = Folder(str(tmp_path / "s"))
    at.write_json("status.json", {"seconds": 3600.0})
    heard = Heard()
    found = sweep(raw, watcher=heard)
    assert heard.lines == [
        f"s: 2 of 4 trials are done, sweep {at.url}",
        "sweep.hours are up; 1 trials are left as they are, more hours go on with them",
    ]
    assert [trial.state for trial in found.trials] == ["finished", "finished", "running"]
    assert {trial.name: trial for trial in found.trials} == {trial.name: trial for trial in book.trials.values()}
    assert bits(at.url) == bits(found.run(found.best))
    assert at.record("best.json")["best"] == found.best.name
    facts = show(at.url)
    assert (facts["kind"], facts["state"], facts["finished"], facts["running"]) == ("sweep", "finished", 2, 1)
    assert facts["accuracy"].keys() == {"random", "distilled"}
    assert problems(at.url) == []
    # Another evaluation is made of the same set, and another set is not promoted.
    again = sweep({**raw, "evaluate": {"repeats": 1, "baselines": [], "protocol": "dc"}})
    assert [accuracy.of for accuracy in again.accuracies] == ["distilled"]
    assert raydd.load(at.url).recipe.name == "s"


def test_a_sweep_without_a_finished_trial_says_why(shards: dict[str, str], tmp_path: Path) -> None:
    raw = said(shards, tmp_path, hours=1)
    book = done_by_hand(planned(raw), 0)
    Folder(str(tmp_path / "s")).write_json("status.json", {"seconds": 3600.0})
    with pytest.raises(
        EngineError, match=r"no trial of .*/s was finished in sweep.hours \(1.0\); the same command with"
    ):
        sweep(raw)
    book.fail(0, "slot 3 gave NaN", mistake=True)
    with pytest.raises(EngineError, match=r"no trial of .*/s was finished; trial 0000: slot 3 gave NaN"):
        sweep(raw)


def test_tune_is_answered_from_the_records(shards: dict[str, str], tmp_path: Path) -> None:
    from ray.tune.schedulers import TrialScheduler
    from ray.tune.search import Searcher

    from raydd.sweep.tuning import Ends, Points, Referee, Stops

    plan = planned(said(shards, tmp_path, trials=2))
    book = book_of(plan)
    referee = Referee(plan, book, None)
    points, stops, ends = Points(referee), Stops(referee), Ends(referee)
    told = [points.suggest("a"), points.suggest("b")]
    assert [one["index"] for one in told] == [0, 1]
    assert points.suggest("c") == Searcher.FINISHED
    first: Any = SimpleNamespace(config=told[0])
    line = {"round": 3, "share": 25.0, "accuracy": 50.0, "std": 0.0, "storage_bytes": 7}
    assert stops.on_trial_result(None, first, line) == TrialScheduler.CONTINUE
    book.rule = lambda own, others: True
    assert stops.on_trial_result(None, first, {**line, "round": 6, "share": 50.0}) == TrialScheduler.STOP
    assert book.trials[0].state == "stopped"
    other: Any = SimpleNamespace(config=told[1])
    assert stops.on_trial_result(None, other, {"failed": "no", "mistake": True}) == TrialScheduler.CONTINUE
    assert (book.trials[1].state, book.trials[1].mistake) == ("failed", True)
    assert not ends.stop_all()
    # Its own writing down of them leaves nothing to be read.
    assert [part.__getstate__() for part in (points, stops, ends)] == [{}, {}, {}]

    def lost() -> None:
        raise RunError("lost the lease")

    book.begin(plan.trial(1, told[1] and next(plan.draws())))
    book.guard = lost
    assert stops.on_trial_result(None, other, line) == TrialScheduler.CONTINUE
    assert ends.stop_all()
    assert str(referee.fault) == "lost the lease"
    assert Ends(Referee(plan, book, -1.0)).stop_all()
