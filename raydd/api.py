"""What the verbs do, as functions: `raydd distill` and `raydd.distill` are the same code."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from raydd.catalogue import read_accuracies
from raydd.config import Config, EngineConfig, config_from, load_config, validate
from raydd.data.pack import pack
from raydd.data.sources import is_source, parse
from raydd.distilled import DistilledSet
from raydd.engine.coordinator import Progress, read_metrics
from raydd.engine.executor import Executor, open_executor
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import Plan, Resume, distil, is_finished, plan_run
from raydd.errors import StoreError
from raydd.evaluate import Accuracy
from raydd.evaluate import evaluate as score
from raydd.store import Folder, Lease, load_manifest

_log = logging.getLogger("raydd")


class Watcher(Protocol):
    """Is told how long work goes on. Every method may be called often."""

    def packing(self, done: int, total: int) -> None:
        """Images packed."""
        ...

    def round(self, progress: Progress) -> None:
        """A round is done."""
        ...

    def evaluating(self, done: int, total: int) -> None:
        """Networks trained."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line."""
        ...


class Silent:
    """A watcher that says nothing."""

    def packing(self, done: int, total: int) -> None:
        """Ignore it."""

    def round(self, progress: Progress) -> None:
        """Ignore it."""

    def evaluating(self, done: int, total: int) -> None:
        """Ignore it."""

    def say(self, text: str) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run in the store.

    Attributes:
        url: Its folder.
        accuracies: What was scored: the distilled set first, then baselines.
    """

    url: str
    accuracies: tuple[Accuracy, ...]

    def distilled(self) -> DistilledSet:
        """Load the distilled set."""
        return DistilledSet.load(self.url)

    def metrics(self) -> list[dict[str, float]]:
        """Return the logged rounds: round, seconds, loss and whatever else the method tells."""
        return read_metrics(Folder(self.url))

    def status(self) -> dict[str, Any]:
        """Return the run's status: state, rounds, seconds, workers, faults."""
        return Folder(self.url).record("status.json")

    @property
    def artifact(self) -> str:
        """URL of the distilled set."""
        return Folder(self.url).folder("distilled").url

    @property
    def report(self) -> str:
        """URL of the report."""
        return f"{self.url}/report.html"

    @property
    def picture(self) -> str:
        """URL of the picture of the learned images."""
        return f"{self.url}/images.png"


def load(url: str) -> DistilledSet:
    """Load a distilled set from a run, an artifact folder or a pulled set, at any fsspec URL.

    Raises:
        DataError: When there is none.
        IntegrityError: When a file is missing, truncated or altered, naming it.
    """
    return DistilledSet.load(url)


def distill(
    config: Config | dict[str, Any] | str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    resume: Resume = "auto",
    watcher: Watcher | None = None,
) -> Run:
    """Distil a data set as a config says, evaluate the result and write the report; all of it goes on where it was stopped.

    Args:
        config: A config, plain data, or the path of a YAML file.
        overrides: Changes such as `method.ipc=10`.
        resume: `auto` goes on with a run that exists, `never` refuses it, `must` refuses one that does not.
        watcher: Is told of progress.

    Raises:
        UserError: For whatever the caller can mend: config, data, store, run.
        EngineError: When workers or arithmetic fail.
    """
    said = (
        load_config(os.fspath(config), overrides)
        if isinstance(config, str | os.PathLike)
        else config_from(config, overrides)
    )
    watcher = watcher or Silent()
    keep_heap()
    plan = prepare(said, watcher)
    return _distil_and_score(plan, resume, watcher)


def prepare(config: Config, watcher: Watcher | None = None) -> Plan:
    """Pack what must be packed and check the config against the data."""
    watcher = watcher or Silent()
    train, test = _packed(config, watcher)
    return plan_run(config, train, test)


def _distil_and_score(plan: Plan, resume: Resume, watcher: Watcher) -> Run:
    run = plan.run
    scored = _scores(plan) if is_finished(plan, resume) else None
    if scored is None or not _complete(run):
        with Lease.acquire(run.folder("lease"), say=watcher.say) as lease:
            # Once more: another driver may have had the run in between.
            finished = is_finished(plan, resume)
            scored = _scores(plan) if finished else None
            if scored is None:
                scored = _work(plan, finished, lease, watcher)
            _finish(run)
    return Run(url=run.url, accuracies=tuple(scored))


def _complete(run: Folder) -> bool:
    status = run.record("status.json") if run.exists("status.json") else {}
    return status.get("state") == "finished" and run.exists("report.html")


def _finish(run: Folder) -> None:
    """Write what is still missing of a run that is distilled and scored."""
    if not run.exists("report.html"):
        # Here, because a run that is finished needs no plots.
        from raydd.report import write_report

        write_report(run)
    status = run.record("status.json") if run.exists("status.json") else {}
    run.write_json("status.json", {**status, "state": "finished"})


def _work(plan: Plan, finished: bool, lease: Lease, watcher: Watcher) -> list[Accuracy]:
    config, run = plan.config, plan.run
    with numerics(config.engine), open_executor(config.engine) as executor:
        watcher.say(f"{config.name}: {config.method.rounds} rounds on {_who(executor)}, run {run.url}")
        ds = DistilledSet.load(run.url) if finished else distil(plan, executor, lease, watcher.round)
        # Evaluation reads the images that it needs anew; nothing is to be held twice.
        executor.end()
        return _score(plan, ds, executor, watcher)


def _who(executor: Executor) -> str:
    return f"{executor.workers} workers" if executor.workers else "this process"


def _asked(plan: Plan) -> dict[str, Any]:
    """Return what was to be evaluated and how, as it stands in evaluation.json."""
    learned = load_manifest(plan.run.folder("distilled")).files["data.safetensors"].sha256
    return {"set": learned, "test": plan.test, **plan.config.evaluate.model_dump(mode="json")}


def _scores(plan: Plan) -> list[Accuracy] | None:
    """Return the accuracies of a run whose evaluation is done, unless something else was asked for then."""
    if not plan.run.exists("evaluation.json"):
        return None
    if plan.run.record("evaluation.json").get("asked") != _asked(plan):
        return None
    return read_accuracies(plan.run)


def _score(plan: Plan, ds: DistilledSet, executor: Executor, watcher: Watcher) -> list[Accuracy]:
    wanted = plan.config.evaluate
    results: list[Accuracy] = []
    started = time.monotonic()
    if wanted.repeats and plan.test is None:
        watcher.say("no test split is known, so nothing is scored; set data.test")
    elif wanted.repeats and plan.test is not None:
        results = score(
            ds,
            train=plan.job.shards,
            test=plan.test,
            protocol=wanted.protocol,
            nets=None if wanted.nets == "auto" else wanted.nets,
            repeats=wanted.repeats,
            baselines=wanted.baselines,
            whole_epochs=wanted.whole_epochs,
            seed=plan.config.seed,
            map=executor.map,
            on_result=watcher.evaluating,
        )
    seconds = round(time.monotonic() - started, 3)
    body: dict[str, Any] = {"results": [accuracy.to_json() for accuracy in results], "asked": _asked(plan)}
    body |= {"test": plan.test, "seconds": seconds}
    # A report tells of one evaluation; that of the one before goes first.
    plan.run.delete("report.html")
    plan.run.write_json("evaluation.json", body)
    return results


def evaluate(
    ds: DistilledSet | str,
    *,
    test: str,
    train: str | None = None,
    protocol: str | None = None,
    nets: Sequence[str] | None = None,
    repeats: int = 5,
    baselines: Sequence[str] = (),
    seed: int = 0,
    workers: int = 0,
    watcher: Watcher | None = None,
) -> list[Accuracy]:
    """Train networks from scratch on a distilled set and score them on a test split.

    Args:
        ds: The set, or its URL.
        test: Packed test shards, or a SOURCE whose test split is packed first.
        train: Packed training shards or a SOURCE, for baselines.
        protocol: By default the one of the set's method.
        nets: Such as `convnet` or `convnet:width=64`; by default the network that the set was distilled with.
        repeats: Networks of each kind.
        baselines: Out of `random` and `whole`.
        seed: Names initialisations, orders and augmentations.
        workers: Processes on a Ray cluster; 0: this process.
        watcher: Is told of progress.

    Raises:
        UserError: When set, test split, protocol or network do not fit each other.
    """
    ds = load(ds) if isinstance(ds, str) else ds
    watcher = watcher or Silent()
    keep_heap()
    shards = Folder("shards").url
    size = _packed_size(ds)
    test_url = _pack_once(test, shards, "test", size, watcher)
    train_url = _pack_once(train, shards, "train", size, watcher) if train is not None else None
    engine = validate(EngineConfig, {"workers": workers}, where="evaluate")
    options: dict[str, Any] = {"test": test_url, "train": train_url, "protocol": protocol, "nets": nets}
    options |= {"repeats": repeats, "baselines": baselines, "seed": seed, "on_result": watcher.evaluating}
    with numerics(engine), open_executor(engine) as executor:
        return score(ds, map=executor.map, **options)


def _packed_size(ds: DistilledSet) -> int | None:
    """Return the `data.size` of the run that made a set: a SOURCE is packed as it was there."""
    data = ds.recipe.config.get("data")
    size = data.get("size") if isinstance(data, dict) else None
    return size if isinstance(size, int) else None


def _packed(config: Config, watcher: Watcher) -> tuple[str, str | None]:
    """Return the URLs of the packed training and test splits, after packing what is a SOURCE."""
    data, beside = config.data, _beside(config.store)
    train = _pack_once(data.train, beside, "train", data.size, watcher)
    if data.test is not None:
        return train, _pack_once(data.test, beside, "test", data.size, watcher)
    if is_source(data.train) and parse(data.train).test_split in parse(data.train).splits:
        return train, _pack_once(data.train, beside, "test", data.size, watcher)
    return train, None


def _beside(store: str) -> str:
    """Return the folder of shards beside a store; inside it where the store is a bucket's root."""
    folder = Folder(store)
    try:
        return folder.parent.folder("shards").url
    except StoreError:
        return folder.folder("shards").url


def _pack_once(source: str, shards: str, split: str, size: int | None, watcher: Watcher) -> str:
    """Return packed shards as they are; pack a SOURCE first, under a name of its own."""
    if not is_source(source):
        return source
    kind, _, root = source.partition(":")
    name = "-".join(filter(None, [kind, _short(root), str(size) if size else ""]))
    dest = Folder(shards).folder(name, split).url
    pack(source, dest, split=split, size=size, workers=_packers(kind), progress=watcher.packing)
    return dest


def _short(root: str) -> str:
    import hashlib

    if not root:
        return ""
    where = root if "://" in root else str(Path(root).resolve())
    return f"{Path(root).name}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def _packers(kind: str) -> int:
    return 1 if kind == "digits" else os.cpu_count() or 1


__all__ = ["Run", "Silent", "Watcher", "distill", "evaluate", "load", "prepare"]
