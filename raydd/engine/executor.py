"""Executors: who does the slots of a round. `LocalExecutor` does them here; `RayExecutor` deals them to workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from threading import Event
from typing import Self, TypeVar

import torch

from raydd.config import EngineConfig
from raydd.engine.cluster import check_this_machine, set_environment
from raydd.engine.held import Exchange
from raydd.engine.job import Job
from raydd.engine.validation import Ask, Score, score_in_a_process
from raydd.engine.work import Arrays, Reply, Work, to_tensors
from raydd.errors import ConfigError
from raydd.evaluate import sequential
from raydd.methods import Slot, Tensors
from raydd.store import Entry

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor(ABC):
    """The workers of a run. A context manager; `begin` gives it a run, and it may be given another one afterwards."""

    workers: int
    # Bytes of variables and gradients that went between the driver and its workers so far.
    exchanged = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def begin(self, job: Job, slots: Sequence[Slot], whitening: Arrays | None) -> None:
        """Make every worker ready for a run.

        Args:
            job: The run.
            slots: All slots of its method.
            whitening: Tensors of the fitted transform, where the config whitens.
        """

    @abstractmethod
    def initial(self) -> Arrays:
        """Return the variables at round 0, made by a worker."""

    @abstractmethod
    def fresh(self) -> None:
        """Give every unit its state at round 0."""

    @abstractmethod
    def restore(self, checkpoint: str, entries: dict[str, Entry]) -> None:
        """Give every unit the state that a checkpoint has of it."""

    @abstractmethod
    def advance(self, round: int, variables: Arrays, slots: Sequence[int]) -> list[Reply]:
        """Return the contributions of a round's slots, given by index and in order.

        Raises:
            WorkersLost: When a worker died or fell silent.
        """

    @abstractmethod
    def hold(self, variables: Arrays, optimiser: Arrays, exchange: Exchange) -> None:
        """Let the workers keep the variables and the optimiser's state, and update them, from now on.

        Args:
            variables: At the start of the next round.
            optimiser: Likewise.
            exchange: `resident` or `collective`; `store` takes them away.
        """

    @abstractmethod
    def advance_held(self, first: int, count: int) -> list[list[Reply]]:
        """Do whole rounds with what the workers keep: the contributions of each, in order, without their gradients.

        A round for which some slot's numbers are not finite is the last, and changes nothing.

        Raises:
            WorkersLost: When a worker died or fell silent.
        """

    @abstractmethod
    def bring(self) -> tuple[Tensors, Tensors]:
        """Return the variables and the optimiser's state that the workers keep.

        Raises:
            WorkersLost: When a worker died or fell silent.
        """

    @abstractmethod
    def snapshot(self, variables: Arrays, checkpoint: str) -> Callable[[], dict[str, Entry]]:
        """Freeze all units as they are now; the function returned writes them and may run in another thread.

        Args:
            variables: At the start of the round that the checkpoint is named after.
            checkpoint: Its folder.
        """

    @abstractmethod
    def recover(self, *, turn: bool = False) -> None:
        """Replace lost workers, or go on with fewer; take up those that have come meanwhile.

        Args:
            turn: Give every slot to another worker than before, where there is another.
        """

    def gained(self) -> bool:
        """Say whether workers have come that `recover` would take up; never waits."""
        return False

    @abstractmethod
    def map(
        self,
        function: Callable[[Shared, Item], Result],
        items: Sequence[Item],
        shared: Shared,
        on_result: Callable[[int, int], None] | None = None,
    ) -> list[Result]:
        """Return `function(shared, item)` for every item, in order, wherever it is done.

        `on_result` is told (done, total) whenever an item is done.
        """

    @abstractmethod
    def score_beside(self, ask: Ask, url: str, stop: Event) -> Score | None:
        """Return the validation score of the set at `url` without the workers' help; None when stopped or impossible.

        Called from a thread of its own, which may wait.
        """

    def where(self) -> dict[str, int]:
        """Return how many workers are on each node, by its address. Called from any thread; may take seconds."""
        return {}

    @abstractmethod
    def end(self) -> None:
        """Forget the run that `begin` gave, and the images held for it; the workers stay."""

    @abstractmethod
    def close(self) -> None:
        """Let the workers go."""


class LocalExecutor(Executor):
    """All slots in this process, without Ray: for laptops, debugging, and machines with one GPU."""

    workers = 0

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.work: Work | None = None

    def begin(self, job: Job, slots: Sequence[Slot], whitening: Arrays | None) -> None:
        """See the base class."""
        self.work = Work(job, self.device, whitening)

    @property
    def _work(self) -> Work:
        assert self.work is not None, "begin comes first"
        return self.work

    def initial(self) -> Arrays:
        """See the base class."""
        return self._work.initial()

    def fresh(self) -> None:
        """See the base class."""
        self._work.fresh(units_of(self._work.method.slots_all))

    def restore(self, checkpoint: str, entries: dict[str, Entry]) -> None:
        """See the base class."""
        self._work.restore(units_of(self._work.method.slots_all), checkpoint, entries)

    def advance(self, round: int, variables: Arrays, slots: Sequence[int]) -> list[Reply]:
        """See the base class."""
        return self._work.advance(round, variables, slots)

    def hold(self, variables: Arrays, optimiser: Arrays, exchange: Exchange) -> None:
        """See the base class. There is nobody to keep them."""

    def advance_held(self, first: int, count: int) -> list[list[Reply]]:
        """See the base class."""
        raise NotImplementedError("one process exchanges nothing")

    def bring(self) -> tuple[Tensors, Tensors]:
        """See the base class."""
        raise NotImplementedError("one process exchanges nothing")

    def snapshot(self, variables: Arrays, checkpoint: str) -> Callable[[], dict[str, Entry]]:
        """See the base class."""
        self._work.finish(to_tensors(variables, self.device))
        return self._work.snapshot(checkpoint, list(self._work.units))

    def recover(self, *, turn: bool = False) -> None:
        """See the base class."""

    def map(
        self,
        function: Callable[[Shared, Item], Result],
        items: Sequence[Item],
        shared: Shared,
        on_result: Callable[[int, int], None] | None = None,
    ) -> list[Result]:
        """See the base class."""
        return sequential(function, items, shared, on_result)

    def score_beside(self, ask: Ask, url: str, stop: Event) -> Score | None:
        """See the base class."""
        return score_in_a_process(ask, url, stop)

    def end(self) -> None:
        """See the base class."""
        self.work = None

    def close(self) -> None:
        """See the base class."""
        self.end()


def check_engine(engine: EngineConfig) -> None:
    """Check that this machine can do what `engine` asks of it, without loading Ray; a cluster is asked when it is reached.

    Raises:
        ConfigError: When it cannot.
    """
    if engine.workers:
        check_this_machine(engine)
    elif engine.gpus_per_worker and not torch.cuda.is_available():
        raise ConfigError(
            f"engine.gpus_per_worker must be 0 where torch sees no GPU, got {engine.gpus_per_worker:g}; set it to 0, or "
            "RAY_ADDRESS to a cluster with GPUs and engine.workers to 1 or more"
        )


def open_executor(engine: EngineConfig) -> Executor:
    """Return the executor that `engine.workers` asks for.

    Raises:
        ConfigError: When no node could hold a worker.
        EngineError: When the cluster does not answer, or too few workers can be had.
    """
    check_engine(engine)
    if not engine.workers:
        return LocalExecutor(torch.device("cuda" if engine.gpus_per_worker else "cpu"))
    set_environment()
    from raydd.engine.distributed import RayExecutor

    return RayExecutor(engine)


def units_of(slots: Sequence[Slot]) -> list[int]:
    """Return the units that slots work on, each once."""
    return list(dict.fromkeys(slot.unit for slot in slots if slot.unit is not None))


def deal(slots: int, workers: int) -> list[range]:
    """Return each worker's contiguous share of all slots, as equal as can be.

    The share of a worker is fixed for as long as the workers are, so that units and cached images stay where they are.
    """
    return [range(slots * w // workers, slots * (w + 1) // workers) for w in range(workers)]
