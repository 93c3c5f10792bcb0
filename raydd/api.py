"""What the verbs do, as functions: `raydd distill` and `raydd.distill` are the same code."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from raydd.config import Config, EngineConfig, config_from, load_config, validate
from raydd.config.load import apply_overrides
from raydd.config.train import TrainConfig
from raydd.data.pack import pack
from raydd.data.sources import is_source, parse
from raydd.distilled import DistilledSet, artifact_folder
from raydd.engine.coordinator import Progress, read_metrics
from raydd.engine.coresets import with_coresets
from raydd.engine.executor import Executor, open_executor
from raydd.engine.numerics import keep_heap, numerics
from raydd.engine.run import Plan, Resume, distil, is_finished, plan_run
from raydd.engine.tracking import check_trackers
from raydd.engine.training import plan_training, train_network
from raydd.errors import DataError, StoreError, UserError
from raydd.evaluate import Accuracy, Evaluation, Keeping, Request, pooled, robust_requests, robustness
from raydd.evaluate import evaluate_all as score_all
from raydd.evaluate import record as write_record
from raydd.export import Exported, check_lossless
from raydd.export import export as write_export
from raydd.live import read_accuracies
from raydd.seeding import derive
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

    def exporting(self, done: int, total: int) -> None:
        """Images written in another format."""
        ...

    def training(self, done: int, total: int, loss: float) -> None:
        """Updates of a network done, and the loss of the last."""
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

    def exporting(self, done: int, total: int) -> None:
        """Ignore it."""

    def training(self, done: int, total: int, loss: float) -> None:
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
    """Load a distilled set from a run, an artifact folder, or a pulled or exported set, at any fsspec URL.

    Raises:
        DataError: When there is none, or a lossy export of one.
        IntegrityError: When a file is missing, truncated or altered, naming it.
    """
    check_lossless(url)
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


def _write_report(run: Folder, shards: str) -> str:
    """Write a run's report, with real images of the training shards where it keeps none and they can be read."""
    # Here, because whoever writes no report needs no plots.
    from raydd.report import draw_real, has_real, write_report

    ds, real = load(run.url), None
    # A coreset's images are real ones.
    if ds.recipe.rounds and not has_real(run):
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
    config = load(folder.url).recipe.config
    data = config.get("data", {})
    train, beside = str(data.get("train", "")), _beside(str(config.get("store", "runs")))
    return _write_report(folder, _packed_at(train, beside, "train", data.get("size")) if is_source(train) else train)


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
            DistilledSet.load(each.run.url) if is_done else distil(each, executor, lease, watcher.round)
            for each, is_done in zip(plans, done, strict=True)
        ]
        # Evaluation reads the images that it needs anew; nothing is to be held twice.
        executor.end()
        return _score(plan, [(ds, each.config.seed) for ds, each in zip(sets, plans, strict=True)], executor, watcher)


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


def _score(
    plan: Plan, sets: Sequence[tuple[DistilledSet, int]], executor: Executor, watcher: Watcher
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
        options |= {"map": Keeping(map=executor.map, folder=plan.run.folder("evaluation"))}
        parts = []
        for ds, seed in sets:
            request = Request(ds=ds, protocol=wanted.protocol, nets=nets, baselines=() if parts else wanted.baselines)
            request = with_coresets(request, train=plan.job.shards, engine=engine, executor=executor)
            parts.append(score_all([request], seed=seed, on_result=watcher.evaluating, **options))
        results = pooled(parts)
    seconds = round(time.monotonic() - started, 3)
    body: dict[str, Any] = {"results": [accuracy.to_json() for accuracy in results], "asked": _asked(plan)}
    body |= {"test": plan.test, "seconds": seconds}
    # A report tells of one evaluation; that of the one before goes first.
    plan.run.delete("report.html")
    plan.run.write_json("evaluation.json", body)
    # Finished networks, which an interrupted evaluation would have gone on from.
    kept = plan.run.folder("evaluation")
    kept.delete(*kept.list())
    return results


def evaluate(
    ds: DistilledSet | str | Sequence[DistilledSet | str],
    *,
    test: str,
    train: str | None = None,
    protocol: str | None = None,
    nets: Sequence[str] | None = None,
    grid: Mapping[str, Sequence[str]] | None = None,
    repeats: int = 5,
    baselines: Sequence[str] = (),
    predictors: Sequence[str] = ("train",),
    robust: bool = False,
    seed: int = 0,
    workers: int = 0,
    threads: int = 1,
    gpus: float | None = None,
    keep: str | None = None,
    record: bool = False,
    watcher: Watcher | None = None,
) -> list[Accuracy]:
    """Train networks from scratch on distilled sets and score them on a test split.

    The test split is read when all that a protocol leaves open has been chosen, for all sets. `raydd.evaluate.arrange`
    makes a table of the results, `raydd.evaluate.robustness` the scores that `robust` asks for.

    Args:
        ds: The set or its URL, or several of them.
        test: Packed test shards, or a SOURCE whose test split is packed first.
        train: Packed training shards or a SOURCE, for baselines and for choices on their validation part.
        protocol: By default the one of each set's method.
        nets: Such as `convnet` or `convnet:width=64`; by default the network that each set was distilled with, or the
            protocol's own.
        grid: Options of those networks that are varied, with their values, in every combination.
        repeats: Networks of each kind.
        baselines: Out of `raydd.config.BASELINES`.
        predictors: Out of `train` (the networks themselves), `krr` (kernel ridge regression on their features) and `knn`.
        robust: Score all that the label-robust and the augmentation-robust score are made of.
        seed: Names initialisations, orders and augmentations.
        workers: Processes on a Ray cluster; 0: this process.
        threads: Torch threads of each, which are part of the numerics.
        gpus: GPUs of each; by default one where this process does the work and sees one, else none.
        keep: Folder, at any fsspec URL that workers reach too, where finished networks are kept until all are, so that the
            same call goes on where it was stopped; by default none are.
        record: Write the results into the folders of those sets that are runs, for their reports, where they can be
            written to.
        watcher: Is told of progress.

    Raises:
        UserError: When sets, splits, protocol, networks or baselines do not fit each other.
    """
    given = [ds] if isinstance(ds, DistilledSet | str) else list(ds)
    sets = [load(one) if isinstance(one, str) else one for one in given]
    watcher = watcher or Silent()
    keep_heap()
    shards, size = Folder("shards").url, _packed_size(sets[0]) if sets else None
    test_url = _pack_once(test, shards, "test", size, watcher)
    train_url = _pack_once(train, shards, "train", size, watcher) if train is not None else None
    if gpus is None:
        gpus = float(not workers and torch.cuda.is_available())
    raw = {"workers": workers, "cpus_per_worker": threads, "gpus_per_worker": gpus}
    engine = validate(EngineConfig, raw, where="evaluate")
    names = _names([one if isinstance(one, str) else one.recipe.name for one in given])
    options: dict[str, Any] = {"protocol": protocol, "nets": nets, "grid": grid or {}, "predictors": predictors}
    requests = [
        Request(ds=one, name=name, baselines=baselines, **options) for one, name in zip(sets, names, strict=True)
    ]
    if robust:
        requests = [wanted for request in requests for wanted in robust_requests(request)]
    with numerics(engine), open_executor(engine) as executor:
        asked = [names, test_url, train_url, protocol, nets, grid, repeats, baselines, predictors, robust, seed]
        kept = None if keep is None else Folder(keep)
        keeping = None if kept is None else Keeping(map=executor.map, folder=kept.folder(_digest(asked)))
        results = score_all(
            [with_coresets(request, train=train_url, engine=engine, executor=executor) for request in requests],
            test=test_url,
            train=train_url,
            repeats=repeats,
            seed=seed,
            device="cuda" if engine.gpus_per_worker else "cpu",
            map=keeping or executor.map,
            on_result=watcher.evaluating,
        )
    if kept is not None:
        kept.delete(*kept.list(f"{_digest(asked)}/"))
    if record:
        facts = {"names": names, "train": train_url, "protocol": protocol, "nets": nets, "grid": grid, "seed": seed}
        facts |= {"repeats": repeats, "baselines": baselines, "predictors": predictors, "robust": robust}
        found = Evaluation(test=test_url, results=results, robust=robustness(results) if robust else [])
        _record([one for one in given if isinstance(one, str)], {**facts, "threads": threads, "gpus": gpus}, found)
    return results


def _record(urls: Sequence[str], asked: dict[str, Any], found: Evaluation) -> None:
    """Write what was found into the folders of runs, as far as they are runs and let us."""
    for url in urls:
        run = artifact_folder(url).parent
        if run.exists("config.yaml"):
            try:
                write_record(run, {**asked, "test": found.test}, found)
            except StoreError as error:
                _log.warning("the results are not kept beside the run: %s", error)


def _digest(asked: list[Any]) -> str:
    """Return a short name for whatever is asked, so that two evaluations that keep networks do not meet."""
    return hashlib.sha256(json.dumps(asked, default=str).encode()).hexdigest()[:16]


def _names(texts: Sequence[str]) -> list[str]:
    """Return what results call the sets: their texts, numbered where two are the same."""
    counts = [texts[:i].count(text) for i, text in enumerate(texts)]
    return [f"{text} ({count + 1})" if count else text for text, count in zip(texts, counts, strict=True)]


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
    beside = _beside(config.store)
    packed = {"data": _pack_once(config.data, beside, "train", None, watcher)}
    if config.test is not None:
        packed["test"] = _pack_once(config.test, beside, "test", _size_of(config), watcher)
    if not is_source(config.data):
        check_lossless(config.data)
    job = plan_training(config.model_copy(update=packed))
    return train_network(job, resume=resume, watch=watcher.training)


def _size_of(config: TrainConfig) -> int | None:
    """Return what a SOURCE of test images is resized to: as it was where a set comes from."""
    shards = is_source(config.data) or Folder(config.data).exists("index.json")
    return None if shards or not is_source(config.test or "") else _packed_size(load(config.data))


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
    dest = _packed_at(source, shards, split, size)
    pack(source, dest, split=split, size=size, workers=_packers(source.partition(":")[0]), progress=watcher.packing)
    return dest


def _packed_at(source: str, shards: str, split: str, size: int | None) -> str:
    """Return where a split of a SOURCE is packed."""
    kind, _, root = source.partition(":")
    name = "-".join(filter(None, [kind, _short(root), str(size) if size else ""]))
    return Folder(shards).folder(name, split).url


def _short(root: str) -> str:
    if not root:
        return ""
    where = root if "://" in root else str(Path(root).resolve())
    return f"{Path(root).name}-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


def _packers(kind: str) -> int:
    return 1 if kind == "digits" else os.cpu_count() or 1


__all__ = [
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
