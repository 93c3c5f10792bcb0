"""`raydd evaluate`: networks trained from scratch on distilled sets, wherever these and their test images are."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from raydd.config import EngineConfig, EvaluateConfig, validate
from raydd.config.net import read_net
from raydd.data.index import load_index
from raydd.distilled import DistilledSet, artifact_folder
from raydd.engine.coresets import with_coresets
from raydd.engine.executor import open_executor
from raydd.engine.numerics import keep_heap, numerics
from raydd.errors import ConfigError, UserError
from raydd.evaluate import (
    Accuracy,
    Evaluation,
    Keeping,
    Request,
    evaluate_all,
    net_text,
    record,
    robust_requests,
    robustness,
)
from raydd.packing import pack_once, packed_size, packed_training
from raydd.store import Folder, load_manifest
from raydd.watchers import Watcher

_log = logging.getLogger("raydd")
# What the numbers do not depend on.
_ELSEWHERE = ("workers", "keep", "record")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """What is to be evaluated, and where.

    Attributes:
        test: Packed test shards, or a SOURCE whose test split is packed first.
        train: Packed training shards or a SOURCE, for baselines and for choices on their validation part; by default those
            that the sets were distilled from, where they are still at hand.
        protocol: By default the one of each set's method.
        nets: Such as `convnet` or `convnet:width=64`; by default the network that each set was distilled with, or the
            protocol's own.
        grid: Options of those networks that are varied, with their values, in every combination.
        repeats: Networks of each kind.
        baselines: Out of `raydd.config.BASELINES`; by default, where there are training images, as many random real ones,
            and as many as take the same bytes, but none beside robust scores.
        predictors: Out of `train` (the networks themselves), `krr` (kernel ridge regression on their features) and `knn`.
        robust: Score all that the label-robust and the augmentation-robust score are made of.
        whole_epochs: Epochs of the training on the whole set.
        seed: Names initialisations, orders and augmentations.
        workers: Processes on a Ray cluster; 0: this process.
        threads: Torch threads of each, which are part of the numerics.
        gpus: GPUs of each; by default one where this process does the work and sees one, else none.
        precision: As in a config's `engine`.
        keep: Folder, at any fsspec URL that workers reach too, where finished networks are kept until all are, so that the
            same call goes on where it was stopped; by default none are.
        record: Write the results into the folders of those sets that are runs, for their reports, where they can be
            written to.
    """

    test: str
    train: str | None = None
    protocol: str | None = None
    nets: Sequence[Mapping[str, Any] | str] | None = None
    grid: Mapping[str, Sequence[str]] | None = None
    repeats: int = 5
    baselines: Sequence[str] | None = None
    predictors: Sequence[str] = ("train",)
    robust: bool = False
    whole_epochs: int = 20
    seed: int = 0
    workers: int = 0
    threads: int = 1
    gpus: float | None = None
    precision: str = "fp32"
    keep: str | None = None
    record: bool = False


def evaluate_sets(
    ds: DistilledSet | str | Sequence[DistilledSet | str], options: EvaluateOptions, watcher: Watcher
) -> list[Accuracy]:
    """Do what `raydd.evaluate` does."""
    if options.repeats < 1:
        raise ConfigError(f"repeats must be >= 1, got {options.repeats}")
    given = [ds] if isinstance(ds, DistilledSet | str) else list(ds)
    sets = [DistilledSet.load(one) if isinstance(one, str) else one for one in given]
    keep_heap()
    shards, size = Folder("shards").url, packed_size(sets[0]) if sets else None
    test = pack_once(options.test, shards, "test", size, watcher)
    options = replace(options, test=test)
    train = (
        own_shards(sets, options) if options.train is None else pack_once(options.train, shards, "train", size, watcher)
    )
    options = replace(options, train=train, baselines=_baselines(options, train))
    names = _names([one if isinstance(one, str) else one.recipe.name for one in given])
    requests = _requests(sets, names, options)
    facts = {key: value for key, value in asdict(options).items() if key not in _ELSEWHERE}
    nets = None if options.nets is None else [_net_text(net) for net in options.nets]
    told = {"sets": [one if isinstance(one, str) else one.recipe.name for one in given], **facts, "nets": nets}
    engine = _engine(options)
    kept, place = None if options.keep is None else Folder(options.keep), _digest(told)
    with numerics(engine), open_executor(engine) as executor:
        finished = None if kept is None else kept.folder(place)
        how: dict[str, Any] = {"train": train, "engine": engine, "executor": executor, "keep": finished}
        requests = [with_coresets(request, **how) for request in requests]
        results = evaluate_all(
            requests,
            test=test,
            train=train,
            repeats=options.repeats,
            whole_epochs=options.whole_epochs,
            seed=options.seed,
            device="cuda" if engine.gpus_per_worker else "cpu",
            map=executor.map if finished is None else Keeping(map=executor.map, folder=finished),
            on_result=watcher.evaluating,
        )
    if options.record:
        found = Evaluation(test=test, results=results, robust=robustness(results) if options.robust else [])
        _record([one for one in given if isinstance(one, str)], told, found)
    if kept is not None:
        kept.delete(*kept.list(f"{place}/"))
    return results


def asked(folder: Folder, test: str | None, wanted: EvaluateConfig) -> dict[str, Any]:
    """Return what the set in a folder is to be scored by, as it stands in evaluation.json."""
    learned = load_manifest(folder.folder("distilled")).files["data.safetensors"].sha256
    # A URL may come to hold other images.
    test_hash = None if test is None else load_index(Folder(test)).hash
    return {"set": learned, "test": test, "test_hash": test_hash, **wanted.model_dump(mode="json")}


def is_scored(folder: Folder, test: str | None, wanted: EvaluateConfig) -> bool:
    """Return whether evaluation.json says what the set in a folder scores as it is asked for now."""
    if not folder.exists("evaluation.json"):
        return False
    before, now = folder.record("evaluation.json").get("asked"), asked(folder, test, wanted)
    if isinstance(before, dict) and "test_hash" not in before:
        # Older records name the test split by its URL alone.
        del now["test_hash"]
    return before == now


def own_shards(sets: Sequence[DistilledSet], options: EvaluateOptions) -> str | None:
    """Return the URL of the packed training shards that all of the sets were distilled from.

    None where they are not at hand, where workers may not reach them, or where they are to be scored on.
    """
    wanted, scored_on = {ds.recipe.index_hash for ds in sets}, load_index(Folder(options.test)).hash
    for ds in sets:
        try:
            url = packed_training(ds)
            if url is None or wanted != {load_index(Folder(url)).hash} or scored_on in wanted:
                continue
        except (UserError, FileNotFoundError):
            continue
        elsewhere = bool(options.workers and os.environ.get("RAY_ADDRESS"))
        return Folder(url).url if "://" in url or not elsewhere else None
    return None


def _baselines(options: EvaluateOptions, train: str | None) -> Sequence[str]:
    if options.baselines is not None:
        return options.baselines
    return EvaluateConfig().baselines if train is not None and not options.robust else ()


def _net_text(net: Mapping[str, Any] | str) -> str:
    return net if isinstance(net, str) else net_text(read_net(dict(net)))


def _engine(options: EvaluateOptions) -> EngineConfig:
    gpus = options.gpus
    if gpus is None:
        gpus = float(not options.workers and torch.cuda.is_available())
    raw = {"workers": options.workers, "cpus_per_worker": options.threads, "gpus_per_worker": gpus}
    raw |= {"precision": options.precision}
    return validate(EngineConfig, raw, where="evaluate")


def _requests(sets: Sequence[DistilledSet], names: Sequence[str], options: EvaluateOptions) -> list[Request]:
    requests = [
        Request(
            ds=ds,
            name=name,
            protocol=options.protocol,
            nets=options.nets,
            grid=options.grid or {},
            baselines=options.baselines or (),
            predictors=options.predictors,
        )
        for ds, name in zip(sets, names, strict=True)
    ]
    return [wanted for request in requests for wanted in robust_requests(request)] if options.robust else requests


def _record(urls: Sequence[str], told: dict[str, Any], found: Evaluation) -> None:
    """Write what was found into the folders of runs, as far as they are runs and let us."""
    for url in urls:
        try:
            artifact = artifact_folder(url)
            # A set that lies in a folder of its own is no run's, whatever lies beside it.
            if artifact.url.endswith("/distilled") and artifact.parent.exists("config.yaml"):
                record(artifact.parent, told, found)
        except (UserError, FileNotFoundError) as error:
            _log.warning("the results are not kept beside the run: %s", error)


def _digest(told: dict[str, Any]) -> str:
    """Return a short name for what is asked, so that two evaluations that keep networks do not meet."""
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()[:16]


def _names(texts: Sequence[str]) -> list[str]:
    """Return what results call the sets: their texts, numbered where two are the same."""
    counts = [texts[:i].count(text) for i, text in enumerate(texts)]
    return [f"{text} ({count + 1})" if count else text for text, count in zip(texts, counts, strict=True)]
