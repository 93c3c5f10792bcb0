"""Ordinary training of one network: planned, begun or gone on with, checkpointed, scored.

A run's folder in the store:

    config.json         the config, what names the data, and how many workers began it
    metrics.jsonl       loss and learning rate of up to 2000 updates
    checkpoints/        as of any run (`raydd.engine.checkpoint`), by update
    final.safetensors   the network's numbers under the names of its own `load_state_dict`
    train.json          config, accuracy and what `final.safetensors` must be; last: a run is finished once it is there

The result is a pure function of the config, the data and the number of workers, whether or not it was interrupted.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
import torch

from raydd.config.train import TrainConfig
from raydd.engine.checkpoint import Checkpoint, Checkpoints
from raydd.engine.executor import check_engine
from raydd.engine.metrics import read_metrics, write_metrics
from raydd.engine.numerics import keep_heap, numerics, versions
from raydd.engine.run import Resume
from raydd.errors import Diverged, EngineError, IntegrityError, RunError
from raydd.functional.recipe import TrainRecipe
from raydd.store import Entry, Folder, Lease, check_kind, digest
from raydd.training import Alone, Data, Group, Loop, Network, Position, open_data, open_network, open_test
from raydd.training.data import check_batch, facts_of

FORMAT = "raydd-train-1"
LOGGED_UPDATES = 2000
STORE_TIMEOUT_S = 1800.0
Watch = Callable[[int, int, float], None]
_log = logging.getLogger("raydd")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """A training that has been checked and may begin; plain data, for any process.

    Attributes:
        config: Without `auto`; its `data` and `test` are folders of shards or sets.
        data_hash: Names the contents of the data.
        test_hash: Names those of the test split; None where there is none.
        run: URL of its folder.
        generation: That of the lease under which it is written.
    """

    config: TrainConfig
    data_hash: str
    run: str
    test_hash: str | None = None
    generation: int = 0

    @property
    def hash(self) -> str:
        """The config's hash."""
        return self.config.hash(self.data_hash)

    def recipe(self, data: Data) -> TrainRecipe:
        """Return how the network is trained."""
        config = self.config
        assert config.epochs != "auto", "a job's config has no auto"
        assert config.lr != "auto", "a job's config has no auto"
        return TrainRecipe(
            optimiser=config.optimiser,
            lr=config.lr,
            updates=math.ceil(config.epochs * len(data) / config.batch),
            batch=config.batch,
            loss=data.loss,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            schedule=config.schedule,
            warmup=config.warmup,
            final=0.0 if config.schedule == "cosine" else 1.0,
        )


def plan_training(config: TrainConfig) -> TrainJob:
    """Check a config against its data, network and machine; starts nothing and writes nothing.

    Raises:
        ConfigError: When the config asks for what data, network or machine cannot give.
        DataError: When there is no data, or the test split does not fit it.
    """
    check_engine(config.engine)
    data = open_data(config.data)
    network = open_network(config.net, facts_of(data), config.seed)
    test_hash = None if config.test is None else open_test(config.test, data).index.hash
    least = 2 if network.state.buffers else 1
    batch = check_batch(data, config.batch, max(1, config.engine.workers), least=least)
    resolved = config.model_copy(
        update={
            # Whole paths: Ray Train's workers have a working directory of their own.
            "data": Folder(config.data).url,
            "test": None if config.test is None else Folder(config.test).url,
            "batch": batch,
            "epochs": data.epochs(batch) if config.epochs == "auto" else config.epochs,
            "lr": {"sgd": 0.01, "adam": 0.001}[config.optimiser] if config.lr == "auto" else config.lr,
            "augment": data.augmentation if config.augment == "auto" else config.augment,
            "name": _slug(f"train-{data.name}-{config.net}") if config.name == "auto" else config.name,
        }
    )
    run = Folder(resolved.store).folder(resolved.name)
    job = TrainJob(config=resolved, data_hash=data.hash, test_hash=test_hash, run=run.url)
    _loop(job, data, network, Alone(), torch.device("cpu"))
    return job


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:100]


def train_network(job: TrainJob, *, resume: Resume = "auto", watch: Watch | None = None) -> dict[str, Any]:
    """Do a training, or go on with it; returns what train.json says.

    Args:
        job: From `plan_training`.
        resume: `auto` goes on with a run that exists, `never` refuses it, `must` refuses one that does not.
        watch: Told (updates done, updates, loss) now and then.

    Raises:
        RunError: When the run exists and must not, does not exist and must, or is of another config.
        EngineError: When workers cannot be had or kept, or the arithmetic fails.
    """
    run, workers = Folder(job.run), job.config.engine.workers
    if _is_finished(job, run, resume):
        return read_result(run)
    with Lease.acquire(run.folder("lease")) as lease:
        job = replace(job, generation=lease.generation)
        if _is_finished(job, run, "auto"):
            return read_result(run)
        run.write_json("config.json", {"format": FORMAT, "hash": job.hash, "workers": workers, **_said(job)})
        if workers:
            # Here, so that a training in this process needs no Ray.
            from raydd.engine.raytrain import train_on_ray

            train_on_ray(job, watch)
        else:
            keep_heap()
            with numerics(job.config.engine):
                work(job, Alone(), torch.device("cuda" if job.config.engine.gpus_per_worker else "cpu"), watch)
    return read_result(run)


def _said(job: TrainJob) -> dict[str, Any]:
    return {
        "data_hash": job.data_hash,
        "test_hash": job.test_hash,
        "config": job.config.model_dump(mode="json"),
    }


def _is_finished(job: TrainJob, run: Folder, resume: Resume) -> bool:
    check_kind(run, "training")
    exists = run.exists("config.json")
    if exists and resume == "never":
        raise RunError(f"the run {run.url} exists; choose another name, delete it, or let --resume be auto")
    if not exists:
        if resume == "must":
            raise RunError(
                f"expected a run at {run.url} to go on with, got none; check name and store, or let --resume be auto"
            )
        return False
    before = run.record("config.json")
    if before.get("hash") != job.hash:
        raise RunError(
            f"the run {run.url} is of another config ({_difference(before, job)}); choose another name, or delete it"
        )
    if run.exists("train.json") and _is_scored(job, run.record("train.json")):
        return True
    # A finished one that is to be scored on another split: no update is left, and it ends anew.
    workers = before.get("workers")
    if max(1, workers if isinstance(workers, int) else 1) != max(1, job.config.engine.workers):
        _log.warning(
            "going on with %d workers, begun with %s: the result differs by rounding",
            job.config.engine.workers,
            workers,
        )
    return False


def _is_scored(job: TrainJob, result: dict[str, Any]) -> bool:
    if "test_hash" in result:
        return job.test_hash in (None, result["test_hash"])
    # Older records name the split by its URL alone.
    config = result.get("config")
    return job.config.test in (None, config.get("test") if isinstance(config, dict) else None)


def _difference(before: dict[str, Any], job: TrainJob) -> str:
    """Name the first key in which two configs differ."""
    old, new = before.get("config"), job.config.model_dump(mode="json")
    if before.get("data_hash") != job.data_hash or not isinstance(old, dict):
        return "the data is other data"
    keys = job.config.identity(job.data_hash).keys() - {"data"}
    key = next((key for key in sorted(keys) if old.get(key) != new[key]), None)
    return f"{key} was {old.get(key)!r}, now {new[key]!r}" if key else "it is of another version"


def read_result(run: Folder) -> dict[str, Any]:
    """Return what a finished training's train.json says, after checking that the weights are there, by their size.

    Raises:
        IntegrityError: When one of them was altered.
    """
    result = run.record("train.json")
    expected, size = result.get("weights"), run.size("final.safetensors")
    if result.get("format") != FORMAT or not isinstance(expected, dict) or size != expected.get("size"):
        raise IntegrityError(f"{run.url}: expected train.json and the weights it names, got others; delete the run")
    return {**result, "run": run.url, "final": f"{run.url}/final.safetensors"}


def work(job: TrainJob, group: Group, device: torch.device, watch: Watch | None = None) -> None:
    """Do one process's part of a training, from the last checkpoint if there is one, to train.json."""
    data = open_data(job.config.data)
    loop = _loop(job, data, open_network(job.config.net, facts_of(data), job.config.seed), group, device)
    engine = job.config.engine
    checkpoints = Checkpoints(Folder(job.run), job.hash, engine.keep_checkpoints, job.generation)
    try:
        found = checkpoints.latest()
        _agree(group, device, 0 if found is None else found.round)
        _Training(job, loop, checkpoints, found, watch).run()
    finally:
        checkpoints.close()


def _loop(job: TrainJob, data: Data, network: Network, group: Group, device: torch.device) -> Loop:
    config = job.config
    return Loop(
        network,
        data,
        job.recipe(data),
        seed=config.seed,
        augmentation=config.augment,
        group=group,
        device=device,
    )


def _agree(group: Group, device: torch.device, step: int) -> None:
    """Make sure that all processes go on from the same checkpoint."""
    steps = torch.zeros(group.size, dtype=torch.float64, device=device)
    steps[group.rank] = step
    steps = group.add(steps)
    if steps.unique().numel() > 1:
        raise EngineError(f"workers found different checkpoints ({steps.tolist()}); is the store shared by all nodes?")


class _Training:
    """The updates of one process between its first checkpoint and its last; only rank 0 writes."""

    def __init__(
        self, job: TrainJob, loop: Loop, checkpoints: Checkpoints, found: Checkpoint | None, watch: Watch | None
    ) -> None:
        self.job, self.loop, self.checkpoints, self.watch = job, loop, checkpoints, watch
        self.folder, self.writes = Folder(job.run), loop.group.rank == 0
        self.position = loop.start() if found is None else loop.restore(found.round, found.variables, found.optimiser)
        # Where there is a checkpoint to begin with, no other is written at once.
        self.last = (-1 if found is None else found.round, time.monotonic())
        self.seconds = 0.0 if found is None else found.seconds
        self.began = time.monotonic()
        self.loss = torch.zeros(())
        self.lines = [line for line in read_metrics(self.folder, "update") if line["update"] < self.position.step]

    def run(self) -> None:
        """Do what is left of the training."""
        stride = max(1, self.loop.updates // LOGGED_UPDATES)
        while self.position.step < self.loop.updates:
            if self._due():
                self._checkpoint()
            step = self.position.step
            self.position, loss = self.loop.step(self.position)
            self.loss = loss
            if step % stride == 0 or step == self.loop.updates - 1:
                self._log(step, self._checked(step))
        if self.writes and self.last[0] < self.loop.updates:
            self._checkpoint()
        data, test = self.loop.data, self.job.config.test
        accuracy = None if test is None else self.loop.score(self.position, open_test(test, data))
        if self.writes:
            self._finish(accuracy)

    def _clock(self) -> float:
        return round(self.seconds + time.monotonic() - self.began, 3)

    def _checked(self, step: int) -> float:
        """Return the loss of the last update, which waits for a GPU."""
        loss = float(self.loss)
        if not math.isfinite(loss):
            raise Diverged(f"training gave a loss of {loss} at update {step}; lower the learning rate (--lr)")
        return loss

    def _log(self, step: int, loss: float) -> None:
        rate = self.loop.recipe.lr_at(step, len(self.loop.data))
        self.lines.append({"update": step, "seconds": self._clock(), "lr": rate, "loss": loss})
        if self.watch is not None:
            self.watch(step + 1, self.loop.updates, loss)

    def _due(self) -> bool:
        if not self.writes or self.checkpoints.busy:
            return False
        engine, updates = self.job.config.engine, self.position.step - self.last[0]
        late = time.monotonic() - self.last[1] >= engine.checkpoint_every_s
        return self.last[0] < 0 or updates >= engine.checkpoint_every or (updates > 0 and late)

    def _checkpoint(self) -> None:
        """Begin to write a checkpoint of the position as it is."""
        # One of numbers that are none would bring the failure back for ever.
        self._checked(self.position.step - 1)
        self.checkpoints.wait(STORE_TIMEOUT_S)
        check_generation(self.folder, self.job.generation)
        net, optim = self.loop.tensors(self.position)
        lines = list(self.lines)
        self.checkpoints.write(
            self.position.step, net, optim, _no_units, lambda: write_metrics(self.folder, lines), self._clock()
        )
        self.last = (self.position.step, time.monotonic())

    def _finish(self, accuracy: float | None) -> None:
        self.checkpoints.wait(STORE_TIMEOUT_S)
        check_generation(self.folder, self.job.generation)
        named = self.loop.network.state_dict(self.position.state)
        weights = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in named.items()})
        entry = digest(weights)
        self.folder.write("final.safetensors", weights)
        result = {
            "format": FORMAT,
            "accuracy": accuracy,
            "updates": self.loop.updates,
            "loss": self.lines[-1]["loss"] if self.lines else None,
            "images": len(self.loop.data),
            "classes": list(self.loop.data.classes),
            "transform": self.loop.data.transform.to_json(),
            "workers": self.job.config.engine.workers,
            "seconds": self._clock(),
            "versions": versions(),
            "weights": {"size": entry.size, "sha256": entry.sha256},
            **_said(self.job),
        }
        self.folder.write_json("train.json", result)


def _no_units() -> dict[str, Entry]:
    return {}


def check_generation(run: Folder, generation: int) -> None:
    """Check that no newer driver has taken a run over; from any process.

    Raises:
        EngineError: When one has.
    """
    found = [re.fullmatch(r"lease/gen-(\d+)\.json", name) for name in run.list("lease/gen-")]
    newest = max((int(match[1]) for match in found if match), default=generation)
    if newest > generation:
        raise EngineError(f"{run.url}: another driver has taken this run over (lease {newest}, ours is {generation})")


__all__ = [
    "Position",
    "TrainJob",
    "check_generation",
    "plan_training",
    "read_result",
    "train_network",
    "work",
]
