"""Data-parallel training by Ray Train: gloo between CPUs, nccl between GPUs.

Ray Train hires the workers, makes their process group, and begins anew with all of them when one dies; from where, our own
checkpoints say. What the driver is to know of its workers lies in the run's folder: `status.json`, how far they are, and
`failed.json`, an error that no new worker would mend.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

from raydd import errors
from raydd.config import EngineConfig
from raydd.engine.cluster import connect, release_idle, set_environment
from raydd.engine.numerics import apply_numerics, keep_heap
from raydd.engine.training import TrainJob, Watch, work
from raydd.errors import EngineError, RaydError
from raydd.store import Folder

LOSSES_SURVIVED = 20
STATUS_EVERY_S = 2.0
_log = logging.getLogger("raydd")


class _Members:
    """The process group that Ray Train has made; see `raydd.training.Group`."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def add(self, flat: Tensor) -> Tensor:
        """Return the sum over all processes; in place."""
        if self.size > 1:
            distributed.all_reduce(flat)
        return flat


class _Status:
    """Tells the driver how far it is, through the run's folder."""

    def __init__(self, run: Folder, generation: int) -> None:
        self.run, self.generation = run, generation
        self.last = -STATUS_EVERY_S

    def __call__(self, done: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if now - self.last >= STATUS_EVERY_S or done == total:
            self.last = now
            body = {"generation": self.generation, "update": done, "updates": total, "loss": loss}
            self.run.write_json("status.json", body)


def _train(told: dict[str, Any]) -> None:
    """Do a worker's part; runs in a process that Ray Train has started."""
    from ray.train.torch import get_device

    job: TrainJob = told["job"]
    run = Folder(job.run)
    before = _failure(run, job.generation)
    if before is not None:
        raise before
    keep_heap()
    apply_numerics(job.config.engine)
    device = get_device() if job.config.engine.gpus_per_worker else torch.device("cpu")
    members = _Members()
    try:
        work(job, members, device, _Status(run, job.generation) if members.rank == 0 else None)
    except RaydError as error:
        body = {"generation": job.generation, "kind": type(error).__name__, "message": str(error)}
        run.write_json("failed.json", body)
        raise


def _failure(run: Folder, generation: int) -> RaydError | None:
    """Return the error that workers of this driver have left, if any."""
    if not run.exists("failed.json"):
        return None
    body = run.record("failed.json")
    if body.get("generation") != generation:
        return None
    kind = getattr(errors, str(body.get("kind")), EngineError)
    return kind(str(body.get("message")))


def train_on_ray(job: TrainJob, watch: Watch | None = None) -> None:
    """Train on the cluster that `RAY_ADDRESS` names, else on a local one, until train.json is written.

    Raises:
        ConfigError: When no node could ever hold one worker.
        EngineError: When workers cannot be had or kept, or the arithmetic fails.
        UserError: When the data turns out to be damaged.
    """
    set_environment()
    engine, run = job.config.engine, Folder(job.run)
    connect(engine)
    import ray
    from ray.exceptions import RayError
    from ray.train import TrainingFailedError

    if ray.available_resources().get("CPU", 0) < engine.workers * engine.cpus_per_worker:
        # Workers that are kept for other runs would only stand in the way.
        release_idle()
    # What Ray Train stores of its own is of no use to anybody.
    place = tempfile.mkdtemp(prefix="raydd-train-")
    trainer = _trainer(job, place)
    follower = _Follower(job, run, trainer, watch)
    try:
        with _environment(engine), follower:
            trainer.fit()
    except (TrainingFailedError, RayError) as error:
        raise _failure(run, job.generation) or EngineError(_cause(error)) from error
    finally:
        trainer.end()
        shutil.rmtree(place, ignore_errors=True)


def _cause(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (
        f"Ray Train gave up after {LOSSES_SURVIVED} losses of workers: {lines[-1] if lines else type(error).__name__}"
    )


class _Follower:
    """A thread that tells of progress, and ends a training whose error would only come again."""

    def __init__(self, job: TrainJob, run: Folder, trainer: Any, watch: Watch | None) -> None:
        self.job, self.run, self.trainer, self.watch = job, run, trainer, watch
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._follow, name="train-follower", daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self._tell()

    def _follow(self) -> None:
        while not self.done.wait(STATUS_EVERY_S):
            try:
                self._tell()
                if _failure(self.run, self.job.generation) is not None:
                    self.trainer.end()
                    return
            except RaydError as error:
                _log.warning("cannot follow the training: %s", error)

    def _tell(self) -> None:
        if self.watch is None or not self.run.exists("status.json"):
            return
        status = self.run.record("status.json")
        if status.get("generation") == self.job.generation:
            self.watch(int(status["update"]), int(status["updates"]), float(status["loss"]))


def _trainer(job: TrainJob, place: str) -> Any:
    """Return Ray Train's trainer of a job, with two changes; `place` is a folder for what it stores of its own."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.config import LoggingConfig

    base: Any = TorchTrainer

    class Trainer(base):
        controller: Any = None

        def _register_sigint_handler(self, controller: Any) -> None:
            # Signals are the command line's affair; it ends everything by `end`.
            self.controller = controller

        def _create_default_callbacks(self) -> list[Any]:
            # One of them asks a dashboard every second, which a local Ray of ours does not have.
            kept = super()._create_default_callbacks()
            local = not os.environ.get("RAY_ADDRESS")
            return [c for c in kept if not (local and type(c).__name__ == "PlacementGroupCleanerCallback")]

        def end(self) -> None:
            if self.controller is not None:
                # Its workers, being its children, end with it.
                ray.kill(self.controller, no_restart=True)

    engine = job.config.engine
    resources = {"CPU": float(engine.cpus_per_worker)}
    if engine.gpus_per_worker:
        resources["GPU"] = float(engine.gpus_per_worker)
    return Trainer(
        _train,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=engine.workers, use_gpu=bool(engine.gpus_per_worker), resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="run",
            storage_path=place,
            failure_config=FailureConfig(max_failures=LOSSES_SURVIVED, controller_failure_limit=2),
            logging_config=LoggingConfig(log_level="CRITICAL"),
        ),
    )


@contextlib.contextmanager
def _environment(engine: EngineConfig) -> Iterator[None]:
    """Set what Ray Train reads of the driver's environment and hands on, and put back what was there."""
    wanted = {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(engine.start_timeout_s),
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
        "RAY_TRAIN_METRICS_ENABLED": "0",
    }
    if not os.environ.get("RAY_ADDRESS"):
        # On one machine there is nothing to be warned of.
        wanted["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({name: value for name, value in wanted.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
