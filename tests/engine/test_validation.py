"""Scores on the validation part while a run goes on: nobody waits for them, and they change nothing but what is chosen."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

import raydd
from raydd.api import Silent, prepare
from raydd.data.reader import RealData
from raydd.distilled import DistilledSet
from raydd.engine import validation
from raydd.engine.executor import LocalExecutor, open_executor
from raydd.engine.validation import Ask, Validation, score_in_a_process
from raydd.errors import ConfigError, EngineError, RunError, StoreFault
from raydd.store import Folder
from tests.engine.toys import bits, distil, toy

# FRePo's protocol is the shortest one for ten images.
SCORED: dict[str, Any] = {
    "data__val_fraction": 0.1,
    "evaluate__every": 5,
    "evaluate__protocol": "frepo",
    "method__ipc": 1,
}


def scores(run: str) -> dict[int, tuple[float, float]]:
    lines = [json.loads(line) for line in Folder(run).read("metrics.jsonl").splitlines()]
    return {line["round"] + 1: (line["val_accuracy"], line["val_std"]) for line in lines if "val_accuracy" in line}


class Aside:
    """Stands in for the process beside a run: tells when it is asked, and never has an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.stopped = threading.Event(), False
        monkeypatch.setattr(LocalExecutor, "score_beside", self)

    def __call__(self, ask: object, url: str, stop: threading.Event) -> None:
        self.asked.set()
        self.stopped = stop.wait(60)


class Watches(Silent):
    """Lets no round after the first score was asked for begin before it was, and notes when rounds are done."""

    def __init__(self, aside: Aside) -> None:
        self.aside, self.done_unstopped, self.validated = aside, [], []

    def round(self, progress) -> None:
        if progress.round == 6:
            assert self.aside.asked.wait(60)
        if not self.aside.stopped:
            self.done_unstopped.append(progress.round)

    def validating(self, done: int, total: int) -> None:
        self.validated.append((done, total))


@pytest.fixture
def reference(digits: str, tmp_path: Path) -> bytes:
    return distil(toy("dm", digits, str(tmp_path / "plain"), **{**SCORED, "evaluate__every": 0}))


def test_rounds_never_wait_for_a_score(
    digits: str, reference: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = Aside(monkeypatch)
    watcher = Watches(aside)
    run = raydd.distill(toy("dm", digits, str(tmp_path), **SCORED), watcher=watcher)
    # All rounds were done while the first score was still being worked out; what was left was done at the end.
    assert watcher.done_unstopped == list(range(1, 13))
    assert aside.stopped
    assert bits(run.url) == reference
    assert list(scores(run.url)) == [5, 10, 12]
    assert watcher.validated == [(0, 3), (1, 3), (2, 3), (3, 3)]
    # A set on the way is an artifact like any other.
    assert raydd.load(f"{run.url}/validation/00000005").recipe.rounds == 5


def test_scores_are_the_same_beside_the_run_and_after_an_interruption(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BaseException):
        pass

    class Stops(Silent):
        def round(self, progress) -> None:
            if progress.round == 9:
                raise Interrupted

    beside = raydd.distill(toy("dm", digits, str(tmp_path / "beside"), **SCORED))
    Aside(monkeypatch)
    stopped = toy("dm", digits, str(tmp_path / "stopped"), evaluate__select="val", **SCORED)
    with pytest.raises(Interrupted):
        raydd.distill(stopped, watcher=Stops())
    resumed = raydd.distill(stopped)
    assert scores(resumed.url) == scores(beside.url)
    # The best of them is the result, and the earliest of equals.
    found = scores(resumed.url)
    best = max(found, key=lambda round: found[round][0])
    assert resumed.distilled().recipe.rounds == best
    assert bits(resumed.url) == Folder(resumed.url).folder("validation", f"{best:08d}").read("data.safetensors")


def test_a_run_that_took_an_earlier_set_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the test split is first opened when the set is chosen, once."""
    Aside(monkeypatch)
    events: list[str] = []
    opened, finish, scored = RealData.__init__, Validation.finish, Validation.load

    def open_it(self: RealData, folder: str, **options: Any) -> None:
        events.append(f"opens {Path(str(folder)).name}")
        opened(self, folder, **options)

    def invented(self: Validation, *args: Any) -> dict[int, Any]:
        best = min(finish(self, *args))
        return {round: {"val_accuracy": float(round == best), "val_std": 0.0} for round in self.scores}

    def choose(self: Validation, round: int) -> DistilledSet:
        events.append("chooses")
        return scored(self, round)

    monkeypatch.setattr(RealData, "__init__", open_it)
    monkeypatch.setattr(Validation, "finish", invented)
    monkeypatch.setattr(Validation, "load", choose)
    options = {**SCORED, "evaluate__select": "val", "evaluate__repeats": 1}
    run = raydd.distill(toy("dm", "digits", str(tmp_path), **options))
    assert run.distilled().recipe.rounds == 5
    assert [event for event in events if event in ("chooses", "opens test")] == ["chooses", "opens test"]
    events.clear()
    again = raydd.distill(toy("dm", "digits", str(tmp_path), **options))
    assert (again.accuracies, again.distilled().recipe) == (run.accuracies, run.distilled().recipe)
    assert not {"chooses", "opens test"} & set(events)
    with pytest.raises(RunError, match=r"method.rounds must be >= 12, which .* has done already, got 8"):
        raydd.distill(toy("dm", "digits", str(tmp_path), **options, method__rounds=8))
    more = raydd.distill(toy("dm", "digits", str(tmp_path), **options, method__rounds=14))
    recipe = more.distilled().recipe
    assert (recipe.rounds, recipe.config["method"]["rounds"], len(events)) == (5, 14, events.index("opens test") + 1)
    options["method__rounds"] = 14
    last = raydd.distill(toy("dm", "digits", str(tmp_path), **{**options, "evaluate__select": "last"}))
    assert last.distilled().recipe.rounds == 14
    assert raydd.distill(toy("dm", "digits", str(tmp_path), **options)).distilled().recipe == recipe


def test_nothing_is_chosen_among_no_sets(digits: str, tmp_path: Path) -> None:
    plain = {**SCORED, "evaluate__every": 0}
    run = raydd.distill(toy("dm", digits, str(tmp_path), **plain))
    before = Folder(run.url).read("config.yaml")
    with pytest.raises(
        RunError, match=r"evaluate.select val chooses among sets on the way, got none in .*; choose another"
    ):
        raydd.distill(toy("dm", digits, str(tmp_path), **SCORED, evaluate__select="val"))
    assert Folder(run.url).read("config.yaml") == before


def test_another_process_gives_the_same_score(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rounds of a toy are over before such a process has begun, so it is asked by itself."""
    Aside(monkeypatch)
    config = toy("dm", digits, str(tmp_path), **SCORED)
    run = raydd.distill(config)
    ask = Ask.of(prepare(config).config, digits)
    found = score_in_a_process(ask, f"{run.url}/validation/00000005", threading.Event())
    assert found is not None
    assert (found["val_accuracy"], found["val_std"]) == scores(run.url)[5]
    # One that fails leaves its score to the end and says why; one that is stopped says nothing.
    assert score_in_a_process(ask, f"{run.url}/validation/00000007", threading.Event()) is None
    assert "a score beside the run failed" in caplog.text
    caplog.clear()
    stop = threading.Event()
    stop.set()
    assert score_in_a_process(ask, f"{run.url}/validation/00000005", stop) is None
    assert not caplog.text


def test_workers_give_the_same_scores(digits: str, ray_address: str, tmp_path: Path) -> None:
    alone = raydd.distill(toy("dm", digits, str(tmp_path / "alone"), **SCORED))
    shared = raydd.distill(toy("dm", digits, str(tmp_path / "shared"), workers=2, **SCORED))
    assert (bits(shared.url), scores(shared.url)) == (bits(alone.url), scores(alone.url))
    # A task beside the workers, too.
    config = prepare(toy("dm", digits, str(tmp_path / "shared"), workers=1, **SCORED)).config
    stop = threading.Event()
    limit = threading.Timer(120, stop.set)
    limit.start()
    with open_executor(config.engine) as executor:
        found = executor.score_beside(Ask.of(config, digits), f"{shared.url}/validation/00000005", stop)
    limit.cancel()
    assert found is not None
    assert (found["val_accuracy"], found["val_std"]) == scores(alone.url)[5]


def test_a_set_is_written_when_the_store_is_back(
    digits: str, reference: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Aside(monkeypatch)
    monkeypatch.setattr(validation, "AGAIN_S", 0.0)
    save, fails = DistilledSet.save, [True, True]

    def sometimes(self: DistilledSet, dest: Folder, **options: Any) -> object:
        if dest.url.endswith("validation/00000005") and fails:
            fails.pop()
            raise StoreFault("made to fail")
        return save(self, dest, **options)

    monkeypatch.setattr(DistilledSet, "save", sometimes)
    run = raydd.distill(toy("dm", digits, str(tmp_path), **SCORED))
    assert bits(run.url) == reference
    assert list(scores(run.url)) == [5, 10, 12]
    assert caplog.text.count("a set for the validation part cannot be written (made to fail); trying on") == 2


def test_nobody_waits_for_ever_for_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(validation, "CLOSE_S", 0.01)
    monkeypatch.setattr(validation, "WRITE_S", 0.01)
    ask = Ask(train="", protocol="dm", nets=None, repeats=1, seed=0, engine={})
    held = Validation(Folder(tmp_path), 5, ask, lambda variables, round: gate.wait(60), lambda *_: None)
    held.offer({}, 5)
    for wait in (lambda: held.settle(5, 0.01), lambda: held.finish(lambda *_: [])):
        with pytest.raises(
            EngineError, match=r"expected sets for the validation part to be written within 0.01 s, got none; check"
        ):
            wait()
    held.close()
    gate.set()


def test_what_cannot_be_scored_is_refused(digits: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate.every scores on .* data.val_fraction must be > 0, got 0"):
        toy("dm", digits, str(tmp_path), evaluate__every=5)
    with pytest.raises(ConfigError, match=r"evaluate.select val chooses .* evaluate.every must be > 0, got 0"):
        toy("dm", digits, str(tmp_path), evaluate__select="val")


def test_several_sets_are_scored_as_one(tmp_path: Path) -> None:
    options = {"evaluate__sets": 2, "evaluate__repeats": 1, "evaluate__protocol": "frepo", "method__ipc": 1}
    options |= {"evaluate__baselines": ["random"]}
    config = toy("dm", "digits", str(tmp_path), **options)
    run = raydd.distill(config)
    distilled, random = run.accuracies
    assert (distilled.sets, distilled.repeats, random.sets, random.repeats) == (2, 2, 1, 1)
    # The second set is a run like any other, with its own seed.
    second = Folder(run.url).folder("sets", "02")
    seed = raydd.load(second.url).recipe.config["seed"]
    alone = raydd.distill(
        toy("dm", "digits", str(tmp_path / "alone"), **{**options, "evaluate__sets": 1, "seed": seed})
    )
    assert bits(second.url) == bits(alone.url) != bits(run.url)
    assert alone.accuracies[0].each == distilled.each[1:]
