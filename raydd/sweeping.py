"""`raydd sweep`: many short runs of one config, the best of which is promoted and scored on the test split, once."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raydd.config import Config, dump_config, read_config, sweep_base
from raydd.distilled import DistilledSet
from raydd.engine.cluster import set_environment
from raydd.engine.numerics import keep_heap
from raydd.engine.run import Resume
from raydd.engine.tracking import check_trackers
from raydd.errors import EngineError, FinalError, RunError
from raydd.evaluate import Accuracy
from raydd.evaluating import EvaluateOptions, asked, evaluate_sets, is_scored
from raydd.live import read_accuracies
from raydd.packing import packed
from raydd.store import Folder, Lease, load_manifest
from raydd.sweep.best import best_by_storage, best_of, config_names, shown_point
from raydd.sweep.plan import SweepPlan, check_same, plan_sweep, write_plan
from raydd.sweep.records import Book, Trial, ended, read_trials
from raydd.sweep.search import anything_left, check_search
from raydd.sweep.stopping import RULES
from raydd.text import duration
from raydd.watchers import Silent, Watcher

STATUS = "status.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep in the store that has come to its end.

    Attributes:
        url: Its folder, from which `raydd.load` loads the best set.
        trials: All that were begun, by number.
        best: The best of all; by accuracy on the validation part.
        bests: The best of every storage, ascending.
        configs: URLs of their configs, ready to be distilled.
        accuracies: What the best set scored on the test split, and the baselines; empty where nothing was asked for.
        seconds: By the clock, over all its processes.
    """

    url: str
    trials: tuple[Trial, ...]
    best: Trial
    bests: tuple[Trial, ...]
    configs: tuple[str, ...]
    accuracies: tuple[Accuracy, ...]
    seconds: float

    @property
    def artifact(self) -> str:
        """URL of the best set."""
        return f"{self.url}/distilled"

    @property
    def report(self) -> str:
        """URL of the page."""
        return f"{self.url}/report.html"

    def distilled(self) -> DistilledSet:
        """Load the best set."""
        return DistilledSet.load(self.url)

    def run(self, trial: Trial) -> str:
        """Return the URL of a trial's run."""
        return f"{self.url}/trials/{trial.name}"


def sweep(
    config: Config | dict[str, Any] | str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    resume: Resume = "auto",
    watcher: Watcher | None = None,
) -> Sweep:
    """Distil at many points of a space, score all on the validation part, promote the best; goes on where it was stopped.

    Args:
        config: A config with a section `sweep`, plain data, or the path of a YAML file.
        overrides: Changes such as `sweep.trials=20`.
        resume: `auto` goes on with a sweep that exists, `never` refuses it, `must` refuses one that does not.
        watcher: Is told of progress.

    Raises:
        UserError: For whatever the caller can mend: config, data, store, sweep.
        EngineError: When no trial could be done.
    """
    watcher = watcher or Silent()
    where = os.fspath(config) if isinstance(config, str | os.PathLike) else "config"
    said = read_config(where) if isinstance(config, str | os.PathLike) else config
    base = sweep_base(said, overrides, where=where)
    check_trackers(base.config.track)
    check_search(base.sweep)
    for note in base.notes:
        watcher.say(note)
    keep_heap()
    plan = plan_sweep(base, *packed(base.config, watcher))
    _check_resume(plan, resume)
    if _is_complete(plan):
        return _found(plan, read_trials(plan.folder))
    with Lease.acquire(plan.folder.folder("lease"), say=watcher.say) as lease:
        # Once more: another driver may have begun it in between.
        check_same(plan)
        write_plan(plan)
        return _Driver(plan, lease, watcher).drive()


def _check_resume(plan: SweepPlan, resume: Resume) -> None:
    exists = check_same(plan)
    if exists and resume == "never":
        raise RunError(f"the sweep {plan.folder.url} exists; choose another name, delete it, or let --resume be auto")
    if not exists and resume == "must":
        raise RunError(
            f"expected a sweep at {plan.folder.url} to go on with, got none; check name and store, or let --resume be auto"
        )


def _status(folder: Folder) -> dict[str, Any]:
    return folder.record(STATUS) if folder.exists(STATUS) else {}


def _seconds_left(plan: SweepPlan) -> float | None:
    """Return how long trials may still be worked on; None for no limit."""
    hours = plan.sweep.hours
    return None if hours is None else 3600 * hours - float(_status(plan.folder).get("seconds", 0.0))


def _is_complete(plan: SweepPlan) -> bool:
    """Whether all is done and written, and nothing else is asked for now."""
    if _status(plan.folder).get("state") != "finished" or not plan.folder.exists("report.html"):
        return False
    left_s = _seconds_left(plan)
    left = (left_s is None or left_s > 0) and anything_left(plan, read_trials(plan.folder))
    return not left and (_asked(plan) is None or is_scored(plan.folder, plan.test, plan.config.evaluate))


def _asked(plan: SweepPlan) -> dict[str, Any] | None:
    """Return what the promoted set is to be scored by on the test split; None for nothing."""
    wanted = plan.config.evaluate
    if not wanted.repeats or plan.test is None:
        return None
    return asked(plan.folder, plan.test, wanted)


def _found(plan: SweepPlan, trials: Sequence[Trial]) -> Sweep:
    """Return what a sweep that has come to its end says.

    Raises:
        EngineError: When it has nothing to say.
    """
    best, bests, folder = best_of(trials), best_by_storage(trials), plan.folder
    if best is None:
        raise _nothing(plan, trials)
    names = config_names(bests)
    return Sweep(
        url=folder.url,
        trials=tuple(trials),
        best=best,
        bests=tuple(bests),
        configs=tuple(f"{folder.url}/best/{names[trial.index]}.yaml" for trial in bests),
        accuracies=tuple(read_accuracies(folder)) if _asked(plan) else (),
        seconds=float(_status(folder).get("seconds", 0.0)),
    )


class _Driver:
    """Drives a sweep that is ours from where it is to its end."""

    def __init__(self, plan: SweepPlan, lease: Lease, watcher: Watcher) -> None:
        self.plan, self.lease, self.watcher, self.folder = plan, lease, watcher, plan.folder
        self.before, self.began = float(_status(self.folder).get("seconds", 0.0)), time.monotonic()
        rule = RULES[plan.sweep.scheduler]
        self.book = Book(folder=self.folder, rule=rule, guard=lease.check, told=self._told)

    def drive(self) -> Sweep:
        """Do the trials that are left, and all that comes after them."""
        known, left_s = len(ended(self._trials())), _seconds_left(self.plan)
        self.watcher.say(
            f"{self.plan.config.name}: {known} of {self.plan.count} trials are done, sweep {self.folder.url}"
        )
        if (left_s is None or left_s > 0) and anything_left(self.plan, self._trials()):
            # What is finished so far is not all that is asked for now.
            self._write_status("running")
            set_environment()
            # It loads Ray.
            from raydd.sweep.tuning import run_trials

            run_trials(self.plan, self.book, left_s=left_s)
        trials = self._trials()
        best = best_of(trials)
        if best is None:
            raise _nothing(self.plan, trials)
        unfinished = sum(trial.state == "running" for trial in trials)
        if unfinished:
            self.watcher.say(
                f"sweep.hours are up; {unfinished} trials are left as they are, more hours go on with them"
            )
        self._write_status("promoting")
        self._write_best(best)
        self._promote(best)
        if _asked(self.plan) is not None and not is_scored(self.folder, self.plan.test, self.plan.config.evaluate):
            self._evaluate()
        self._write_page()
        self._write_status("finished")
        return _found(self.plan, trials)

    def _trials(self) -> list[Trial]:
        return [self.book.trials[index] for index in sorted(self.book.trials)]

    def _seconds(self) -> float:
        return round(self.before + time.monotonic() - self.began, 3)

    def _told(self, trial: Trial) -> None:
        """Tell people of a trial that has ended, and of how far the sweep is."""
        trials = self._trials()
        if trial.state != "running":
            self.watcher.say(_line(trial))
        # With each score, so that a driver that dies has told how long it worked.
        self._write_status("running")
        best = best_of(trials)
        far = f"best {best.accuracy:.1f} %" if best is not None and best.accuracy is not None else "none finished"
        self.watcher.sweeping(len(ended(trials)), self.plan.count, far)

    def _write_status(self, state: str) -> None:
        trials = self._trials()
        best = best_of(trials)
        status = {
            "state": state,
            "seconds": self._seconds(),
            "trials": self.plan.count,
            "ended": len(ended(trials)),
            "best": None if best is None else best.name,
        }
        self.lease.check()
        self.folder.write_json(STATUS, status)

    def _write_best(self, best: Trial) -> None:
        """Write the best of every storage: what they are, and their configs."""
        bests = best_by_storage(self._trials())
        names = config_names(bests)
        self.lease.check()
        for trial in bests:
            name = names[trial.index]
            config = self.plan.point_config(trial.drawn, f"{self.plan.config.name[:80]}-{name}")
            self.folder.write(f"best/{name}.yaml", dump_config(config).encode())
        stale = [name for name in self.folder.list("best/") if name.removesuffix(".yaml")[5:] not in names.values()]
        self.folder.delete(*stale)
        known = [
            {**trial.to_json(), "config": f"best/{names[trial.index]}.yaml", "run": f"trials/{trial.name}"}
            for trial in bests
        ]
        self.folder.write_json("best.json", {"best": best.name, "by_storage": known})

    def _promote(self, best: Trial) -> None:
        """Make the best trial's set the sweep's own."""
        learned = self.folder.folder("trials", best.name, "distilled")
        own = self.folder.folder("distilled")
        if own.exists("manifest.json"):
            here, there = (load_manifest(place).files["data.safetensors"] for place in (own, learned))
            if here.sha256 == there.sha256:
                return
        ds = DistilledSet.load(learned.url)
        named = replace(ds, recipe=replace(ds.recipe, name=self.plan.config.name))
        self.lease.check()
        named.save(own, transforms=Folder(self.plan.config.store).folder("transforms"))

    def _evaluate(self) -> None:
        """Score the best set on the test split."""
        plan, wanted, asked = self.plan, self.plan.config.evaluate, _asked(self.plan)
        assert plan.test is not None, "asked comes first"
        engine, began = plan.config.engine, time.monotonic()
        options = EvaluateOptions(
            test=plan.test,
            train=plan.train,
            protocol=None if wanted.protocol == "auto" else wanted.protocol,
            nets=None if wanted.nets == "auto" else [net.model_dump(mode="json") for net in wanted.nets],
            repeats=wanted.repeats,
            baselines=wanted.baselines,
            whole_epochs=wanted.whole_epochs,
            seed=plan.config.seed,
            workers=engine.workers,
            threads=engine.cpus_per_worker,
            gpus=engine.gpus_per_worker,
            precision=engine.precision,
            keep=self.folder.folder("evaluation").url,
        )
        found = evaluate_sets(DistilledSet.load(self.folder.url), options, self.watcher)
        body = {"results": [accuracy.to_json() for accuracy in found], "asked": asked, "test": plan.test}
        self.lease.check()
        self.folder.write_json("evaluation.json", {**body, "seconds": round(time.monotonic() - began, 3)})

    def _write_page(self) -> None:
        # Here, because whoever writes no page needs no plots.
        from raydd.report import write_sweep

        self.lease.check()
        write_sweep(self.folder)


def _line(trial: Trial) -> str:
    head = f"trial {trial.name} {trial.state}"
    if trial.state == "failed":
        return f"{head}: {trial.error} ({shown_point(trial)})"
    last = trial.scores[-1]
    at = "" if trial.state == "finished" else f" after {last.share:.0f} % of its rounds"
    return f"{head}: {trial.reached:.2f} %{at}, {duration(trial.seconds)} ({shown_point(trial)})"


def _nothing(plan: SweepPlan, trials: Sequence[Trial]) -> Exception:
    failed = [trial for trial in trials if trial.state == "failed"]
    if failed:
        kind = FinalError if all(trial.mistake for trial in failed) else EngineError
        return kind(f"no trial of {plan.folder.url} was finished; trial {failed[0].name}: {failed[0].error}")
    return FinalError(
        f"no trial of {plan.folder.url} was finished in sweep.hours ({plan.sweep.hours}); the same command with more goes on"
    )
