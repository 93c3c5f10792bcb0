"""What the verbs do, as functions: `raydd distill` and `raydd.distill` are the same code."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raydd.config import Config, config_from, load_config, validate
from raydd.config.load import apply_overrides
from raydd.config.train import TrainConfig
from raydd.data.sources import is_source
from raydd.distilled import DistilledSet
from raydd.engine.coresets import with_coresets
from raydd.engine.executor import Executor, open_executor
from raydd.engine.metrics import read_metrics
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import Plan, Resume, distil, is_finished, plan_run
from raydd.engine.tracking import check_trackers
from raydd.engine.training import plan_training, train_network
from raydd.errors import DataError, UserError
from raydd.evaluate import Accuracy, Keeping, Request, pooled
from raydd.evaluate import evaluate_all as score_all
from raydd.evaluating import EvaluateOptions, asked, evaluate_sets, is_scored
from raydd.export import Exported
from raydd.export import export as write_export
from raydd.live import read_accuracies
from raydd.packing import beside, pack_once, packed, packed_size, packed_training
from raydd.seeding import derive
from raydd.store import Folder, Lease
from raydd.watchers import Silent, Watcher

_log = logging.getLogger("raydd")


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
    """Load a distilled set from a run, an artifact folder, or a pulled or exported set, at any fsspec URL.

    A local set is read where it lies. What comes from elsewhere is kept in RAYDD_CACHE by its contents, checked at every
    load, and fetched once a machine, by however many processes; see `raydd.store.content`.

    Raises:
        DataError: When there is none, or a lossy export of one.
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
    check_trackers(config.track)
    train, test = packed(config, watcher)
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
            lease.check()
            _finish(plan)
    return Run(url=run.url, accuracies=tuple(scored))


def _complete(run: Folder) -> bool:
    status = run.record("status.json") if run.exists("status.json") else {}
    return status.get("state") == "finished" and run.exists("report.html")


def _finish(plan: Plan) -> None:
    """Write what is still missing of a run that is distilled and scored."""
    run = plan.run
    if not run.exists("report.html"):
        _write_report(run, plan.job.shards)
    status = run.record("status.json") if run.exists("status.json") else {}
    run.write_json("status.json", {**status, "state": "finished"})


def _write_report(run: Folder, shards: str | None) -> str:
    """Write a run's report, with real images of the training shards where it keeps none and they can be read."""
    # Here, because whoever writes no report needs no plots.
    from raydd.report import draw_real, has_real, write_report

    ds, real = load(run.url), None
    # A coreset's images are real ones.
    if shards is not None and ds.recipe.rounds and not has_real(run):
        try:
            real = draw_real(Folder(shards), ds.classes, int(ds.recipe.config.get("seed", 0)))
        except (UserError, FileNotFoundError) as error:
            _log.warning("the report shows no real images beside the learned ones: %s", error)
    return write_report(run, real)


def report(run: str) -> str:
    """Write `report.html` of a run anew.

    Args:
        run: The run's URL.

    Returns:
        The URL of the page.

    Raises:
        DataError: When there is no run, or it is not finished.
        StoreError: When it cannot be written to.
    """
    folder = _run_at(run)
    return _write_report(folder, packed_training(load(folder.url)))


def compare(runs: Sequence[str]) -> str:
    """Write one page on which several runs stand side by side, `compare.html` in the first one's folder.

    Args:
        runs: URLs of two runs or more.

    Returns:
        The URL of the page.

    Raises:
        UserError: When there are fewer, or too many for a page.
        DataError: When one is no run, or not finished.
        StoreError: When the first one's folder cannot be written to.
    """
    from raydd.report import write_comparison

    return write_comparison([_run_at(run) for run in runs])


def _run_at(url: str) -> Folder:
    folder = Folder(url)
    if not folder.exists("config.yaml"):
        raise DataError(f"expected a run at {folder.url}, got no config.yaml there; check the URL")
    return folder


def _work(plan: Plan, finished: bool, lease: Lease, watcher: Watcher) -> list[Accuracy]:
    config, run = plan.config, plan.run
    with numerics(config.engine), open_executor(config.engine) as executor:
        watcher.say(f"{config.name}: {config.method.rounds} rounds on {_who(executor)}, run {run.url}")
        plans = [plan, *(_another(plan, k) for k in range(1, config.evaluate.sets))]
        done = [finished, *(is_finished(each, "auto") for each in plans[1:])]
        sets = [
            DistilledSet.load(each.run.url)
            if is_done
            else distil(each, executor, lease, watcher.round, watcher.validating)
            for each, is_done in zip(plans, done, strict=True)
        ]
        # Evaluation reads the images that it needs anew; nothing is to be held twice.
        executor.end()
        seeded = [(ds, each.config.seed) for ds, each in zip(sets, plans, strict=True)]
        return _score(plan, seeded, executor, lease, watcher)


def _another(plan: Plan, k: int) -> Plan:
    """Return the k-th further run of `evaluate.sets`: the same with a seed of its own, in a folder below the run's."""
    config = plan.config
    update = {
        "name": f"{k + 1:02d}",
        "store": plan.run.folder("sets").url,
        "seed": derive(config.seed, "set", k),
        "evaluate": config.evaluate.model_copy(update={"sets": 1}),
    }
    return plan_run(config.model_copy(update=update), plan.job.shards, plan.test)


def _who(executor: Executor) -> str:
    return f"{executor.workers} workers" if executor.workers else "this process"


def _scores(plan: Plan) -> list[Accuracy] | None:
    """Return the accuracies of a run whose evaluation is done, unless something else was asked for then."""
    return read_accuracies(plan.run) if is_scored(plan.run, plan.test, plan.config.evaluate) else None


def _score(
    plan: Plan, sets: Sequence[tuple[DistilledSet, int]], executor: Executor, lease: Lease, watcher: Watcher
) -> list[Accuracy]:
    """Score each set with networks drawn by its own seed; baselines stand beside the first."""
    wanted = plan.config.evaluate
    results: list[Accuracy] = []
    started = time.monotonic()
    if wanted.repeats and plan.test is None:
        watcher.say("no test split is known, so nothing is scored; set data.test")
    elif wanted.repeats and plan.test is not None:
        nets = None if wanted.nets == "auto" else wanted.nets
        engine = plan.config.engine
        options: dict[str, Any] = {"train": plan.job.shards, "test": plan.test, "repeats": wanted.repeats}
        options |= {"whole_epochs": wanted.whole_epochs, "device": "cuda" if engine.gpus_per_worker else "cpu"}
        kept = plan.run.folder("evaluation")
        options |= {"map": Keeping(map=executor.map, folder=kept), "on_result": watcher.evaluating}
        requests = [Request(ds=ds, seed=seed, protocol=wanted.protocol, nets=nets) for ds, seed in sets]
        first = replace(requests[0], baselines=wanted.baselines)
        first = with_coresets(first, train=plan.job.shards, engine=engine, executor=executor, keep=kept)
        results = pooled(score_all([first, *requests[1:]], **options))
    seconds = round(time.monotonic() - started, 3)
    body: dict[str, Any] = {
        "results": [accuracy.to_json() for accuracy in results],
        "asked": asked(plan.run, plan.test, wanted),
    }
    body |= {"test": plan.test, "seconds": seconds}
    lease.check()
    # A report tells of one evaluation; that of the one before goes first.
    plan.run.delete("report.html")
    plan.run.write_json("evaluation.json", body)
    # Finished networks, which an interrupted evaluation would have gone on from.
    kept = plan.run.folder("evaluation")
    kept.delete(*kept.list())
    return results


def evaluate(
    ds: DistilledSet | str | Sequence[DistilledSet | str], *, watcher: Watcher | None = None, **options: Any
) -> list[Accuracy]:
    """Train networks from scratch on distilled sets and score them on a test split.

    The test split is read when all that a protocol leaves open has been chosen, for all sets. `raydd.evaluate.arrange`
    makes a table of the results, `raydd.evaluate.robustness` the scores that `robust` asks for.

    Args:
        ds: The set or its URL, or several of them.
        watcher: Is told of progress.
        options: The fields of `raydd.evaluating.EvaluateOptions`, such as `test="shards/test"` (which must be given),
            `protocol="dsa"`, `nets=["convnet"]` and `repeats=5`.

    Returns:
        Set by set and network by network the accuracies, in percent: the set's own, then the baselines'.

    Raises:
        UserError: When sets, splits, protocol, networks or baselines do not fit each other.
        EngineError: When workers cannot be had or kept.
    """
    return evaluate_sets(ds, EvaluateOptions(**options), watcher or Silent())


def export(ds: DistilledSet | str, dest: str, format: str, *, watcher: Watcher | None = None) -> Exported:
    """Write a distilled set in the format of another tool; see `raydd.export`.

    Args:
        ds: The set, or its URL.
        dest: A new or empty folder, at any fsspec URL.
        format: `webdataset`, `hf` (both lossless), or `folder` of PNG files.
        watcher: Is told of progress.

    Raises:
        UserError: When there is no such set or format, or something lies at `dest`.
    """
    ds = load(ds) if isinstance(ds, str) else ds
    return write_export(ds, dest, format, progress=(watcher or Silent()).exporting)


def train(
    data: str,
    net: str,
    *,
    test: str | None = None,
    workers: int = 0,
    overrides: Sequence[str] = (),
    resume: Resume = "auto",
    watcher: Watcher | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train one network the ordinary way, data-parallel where there are workers; goes on where it was stopped.

    Args:
        data: A run, a distilled set, packed shards, or a SOURCE that is packed first.
        net: Such as `resnet18`, `convnet:width=64`, `torchvision:resnet18` or `timm:NAME`.
        test: Packed test shards or a SOURCE, to score the network on at the end.
        workers: Processes of Ray Train; 0: this process.
        overrides: Changes such as `momentum=0.8` or `engine.cpus_per_worker=2`.
        resume: As for `distill`.
        watcher: Is told of progress.
        options: Whatever else `raydd.config.train.TrainConfig` has, such as `epochs=20` or `store="s3://bucket/runs"`.

    Returns:
        What train.json says: `accuracy` in percent (None without `test`), `loss`, `updates`, `final` (URL of the weights,
        safetensors), `run`, the config and versions.

    Raises:
        UserError: For whatever the caller can mend: data, network, options, store, run.
        EngineError: When workers or arithmetic fail.
    """
    watcher = watcher or Silent()
    engine = {**options.pop("engine", {}), "workers": workers}
    raw = {"data": data, "net": net, "test": test, "engine": engine, **options}
    config = validate(TrainConfig, apply_overrides(raw, overrides), where="train")
    place = beside(config.store)
    packed = {"data": pack_once(config.data, place, "train", None, watcher)}
    if config.test is not None:
        packed["test"] = pack_once(config.test, place, "test", _size_of(config), watcher)
    job = plan_training(config.model_copy(update=packed))
    return train_network(job, resume=resume, watch=watcher.training)


def _size_of(config: TrainConfig) -> int | None:
    """Return what a SOURCE of test images is resized to: as it was where a set comes from."""
    shards = is_source(config.data) or Folder(config.data).exists("index.json")
    return None if shards or not is_source(config.test or "") else packed_size(load(config.data))


__all__ = [
    "EvaluateOptions",
    "Run",
    "Silent",
    "Watcher",
    "compare",
    "distill",
    "evaluate",
    "export",
    "load",
    "prepare",
    "report",
    "train",
]
