"""`DistillWorker`: a thin shell around `Work` for Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ray
import torch

from raydd.config import EngineConfig
from raydd.engine.group import Group, Place, open_meeting
from raydd.engine.held import Held
from raydd.engine.job import Job
from raydd.engine.numerics import apply_numerics, keep_heap, versions
from raydd.engine.telemetry import CacheMeter
from raydd.engine.work import Arrays, Reply, Work, to_tensors
from raydd.store import Entry


@ray.remote(concurrency_groups={"io": 2}, max_restarts=0, max_task_retries=0)  # pyrefly: ignore[unexpected-keyword]
class DistillWorker:
    """A worker of any run: `begin` gives it one, and may give it another afterwards."""

    def __init__(self, engine: EngineConfig) -> None:
        keep_heap()
        self.engine = engine
        apply_numerics(engine)
        self.device = torch.device("cuda") if ray.get_gpu_ids() else torch.device("cpu")
        self.work: Work | None = None
        self.meter: CacheMeter | None = None
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self.written: Future[dict[str, Entry]] | None = None
        self.held: Held | None = None
        self.meeting: Any = None

    @ray.method(concurrency_group="io")
    def ping(self) -> dict[str, Any]:
        """Answer at once, whatever the worker is busy with: which process it is, and how many slots of its run it has done."""
        slots = self.work.slots_done if self.work is not None else 0
        return {"pid": os.getpid(), "node": ray.get_runtime_context().get_node_id(), "slots": slots}

    def idle(self) -> None:
        """Answer when nothing else is under way."""

    def begin(self, job: Job, whitening: Arrays | None) -> dict[str, str]:
        """Take a run; return what its last bits depend on here."""
        self.engine = job.config.engine
        apply_numerics(self.engine)
        self.end()
        self.work = Work(job, self.device, whitening)
        self.meter = CacheMeter(job.config.method.name)
        return versions()

    def _ready(self) -> Work:
        assert self.work is not None, "begin comes first"
        # OpenMP keeps the number of threads per calling thread, and Ray does not say which one a method runs on.
        torch.set_num_threads(self.engine.cpus_per_worker)
        return self.work

    def initial(self) -> Arrays:
        """Return the variables at round 0."""
        return self._ready().initial()

    def fresh(self, units: Sequence[int]) -> None:
        """Hold units in their first state."""
        self._ready().fresh(units)

    def restore(self, units: Sequence[int], checkpoint: str, entries: dict[str, Entry]) -> None:
        """Hold units as a checkpoint has them."""
        self._ready().restore(units, checkpoint, entries)

    def advance(self, round: int, variables: Arrays, slots: Sequence[int]) -> list[Reply]:
        """Do a round's slots."""
        self._let_go()
        try:
            return self._ready().advance(round, variables, slots)
        finally:
            self._tell()

    def meet(self) -> tuple[str, int]:
        """Return where a group of which this worker is the first member can meet: host and port."""
        self._let_go()
        host = ray.util.get_node_ip_address()
        self.meeting = open_meeting(host, self.engine.step_timeout_s)
        return host, self.meeting.port

    def hold(self, share: Sequence[int], arrays: tuple[Arrays, Arrays], place: Place | None, *, split: bool) -> None:
        """Keep the variables here from now on, and join the group that exchanges gradients, if there is one."""
        work, meeting = self._ready(), self.meeting if place is not None and place.rank == 0 else None
        if place is None or place.rank:
            self._let_go()
        group = Group(place, meeting, self.device) if place is not None else None
        self.held = Held(work, share, *arrays, group=group, split=split)

    def advance_held(self, first: int, count: int) -> list[list[Reply]]:
        """Do whole rounds with the variables that are kept here."""
        self._ready()
        assert self.held is not None, "hold comes first"
        try:
            return self.held.advance(first, count)
        except BaseException:
            # The others wait for this worker's gradients: they must learn that none will come.
            self.held.close()
            raise
        finally:
            self._tell()

    def _tell(self) -> None:
        if self.work is not None and self.meter is not None:
            self.meter.tell(self.work.real.hits)

    def bring(self) -> tuple[Arrays, Arrays]:
        """Return the variables and the optimiser's state that are kept here."""
        assert self.held is not None, "hold comes first"
        return self.held.bring()

    def snapshot(self, variables: Arrays | None, checkpoint: str, units: Sequence[int]) -> None:
        """Freeze units and begin to write them in the background; the variables are None where they are kept here."""
        work = self._ready()
        if variables is not None:
            work.finish(to_tensors(variables, self.device))
        elif self.held is not None:
            self.held.finish()
        self.written = self.writer.submit(work.snapshot(checkpoint, units))

    @ray.method(concurrency_group="io")
    def snapshot_written(self, timeout_s: float) -> dict[str, Entry]:
        """Wait until the last snapshot is written; return its files."""
        assert self.written is not None, "snapshot comes first"
        return self.written.result(timeout_s)

    def end(self) -> None:
        """Forget the run and the images held for it."""
        self._let_go()
        self.work = None

    def _let_go(self) -> None:
        if self.held is not None:
            self.held.close()
        self.held = self.meeting = None

    def call(self, function: Callable[[Any, Any], Any], shared: Any, item: Any) -> Any:
        """Return `function(shared, item)`."""
        torch.set_num_threads(self.engine.cpus_per_worker)
        return function(shared, item)
