"""A share of a slot, timed: how long a round of a config takes on this machine, without doing one and without its data.

The same method with fewer images (real ones, synthetic ones, inner steps) works on noise. Shares grow until one takes a good
part of a second; what they take is scaled by the images that went through the network.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raydd.config import Config, DataFacts
from raydd.data.transforms import BLOCK, Transform, Zca
from raydd.engine.executor import units_of
from raydd.engine.scaling import Round
from raydd.methods import Contribution, Method, Problem, Tensors, create

FIRST_SHARE, STEP = 1 / 1024, 4
ENOUGH_S = 0.5  # that a share is to take; the next one would take up to four times as long


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a round asks of a worker.

    Attributes:
        round: Slots and seconds.
        optimiser: Bytes of the optimiser's state.
        unit: Bytes of a unit.
        units: Units of all slots that any round may have.
        working: Bytes that a slot takes while it is worked on.
        process: Bytes that this process took before, with all that it had loaded.
        share: Part of a slot that was timed, in (0, 1].
    """

    round: Round
    optimiser: int
    unit: int
    units: int
    working: int
    process: int
    share: float


def measure(config: Config, facts: DataFacts, counts: Sequence[int], device: torch.device) -> Load:
    """Time a share of a slot, and what follows a round.

    Args:
        config: A resolved config of a method with rounds.
        facts: Of the data.
        counts: Images of each class that a round may see.
        device: Where.
    """
    whole = _method(config, config.method, facts, counts, device)
    process, share, parts = _rss(), FIRST_SHARE, []
    while True:
        part = _method(config, *_smaller(config, whole, facts, share), counts, device)
        parts.append((part, _Trial(config, part, device).spend()))
        # The first pays for what is made once in a process.
        if (parts[-1][1].total_s >= ENOUGH_S and len(parts) > 1) or share == 1:
            break
        share = min(1.0, share * STEP)
    (small, less), (part, spent) = parts[0], parts[-1]
    return _scaled(config, whole, part, spent, _working(whole, small, less, part, spent), process)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spent:
    """Seconds and bytes of a part."""

    slot_s: float
    unit_s: float
    shared_s: float
    update_s: float
    variables: int
    optimiser: int
    peaks: tuple[int, int]

    @property
    def total_s(self) -> float:
        return self.slot_s + self.unit_s


def _method(config: Config, method: Any, facts: DataFacts, counts: Sequence[int], device: torch.device) -> Method[Any]:
    by_class = torch.arange(sum(counts)).split(list(counts))[: facts.num_classes]
    problem = Problem(facts=facts, seed=config.seed, by_class=by_class, device=device)
    return create(method, config.net, problem)


def _smaller(config: Config, whole: Method[Any], facts: DataFacts, share: float) -> tuple[Any, DataFacts]:
    """Return the method's config and the facts with about this share of a slot's images, of one slot a round."""
    said, update = config.method, {}
    fields = type(said).model_fields

    def cut(value: Any, least: int = 1) -> int:
        return min(int(value), max(least, math.ceil(int(value) * share)))

    if "real_batch" in fields:
        update["real_batch"] = cut(getattr(said, "real_batch"))  # noqa: B009
    for name in ("models_per_round", "nets_per_round", "inits_per_round", "pool_size"):
        if name in fields:
            update[name] = 1
    if "inner_steps" in fields:
        # Of unrolled methods the steps are the work; DD's are bound to its images, its passes are not.
        name = "inner_epochs" if "inner_epochs" in fields else "inner_steps"
        return said.model_copy(update={**update, name: cut(getattr(said, name))}), facts
    if "inner_loop" in fields:
        update["inner_loop"] = cut(getattr(said, "inner_loop"))  # noqa: B009
    slot = whole.slots_all[0]
    classes = len(slot.classes) or facts.num_classes
    fewer = cut(classes, least=2)
    update["ipc"] = min(said.ipc, max(1, math.ceil(classes * said.ipc * share / fewer)))
    if slot.classes:
        update["classes_per_slot"] = fewer
    return said.model_copy(update=update), replace(facts, num_classes=fewer)


class _Trial:
    """One slot, unit and step of a smaller method, on noise."""

    def __init__(self, config: Config, method: Method[Any], device: torch.device) -> None:
        self.method, self.device = method, device
        self.slot = method.slots(0)[0]
        self.transform = _transform(config, method.problem.facts).to(device)
        self.clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def spend(self) -> _Spent:
        """Do all of it, twice where it is short."""
        method, slot = self.method, self.slot
        ids = method.real_ids(0, slot)
        owner = torch.repeat_interleave(torch.tensor([len(own) for own in method.problem.by_class]))
        gen = method.problem.generator("noise")
        images = torch.randint(256, (len(ids), *method.problem.shape), dtype=torch.uint8, generator=gen)
        labels = owner[ids].to(self.device)
        variables = {k: v.to(self.device) for k, v in method.start(self._noise).items()}
        optimiser = method.optimiser(variables)
        state = method.unit_state(slot.unit) if slot.unit is not None else {}
        shared_s, shared = self._timed(lambda: method.shared_state(0))

        def contribute() -> Contribution:
            pixels = self.transform(images.to(self.device))
            return method.contribution(0, slot, variables, state, shared, pixels, labels)

        def train(unit: int | None) -> Tensors:
            return state if unit is None else method.after_update(0, unit, state, variables)

        peaks = (_peak(contribute, self.device), _peak(lambda: train(slot.unit), self.device))
        slot_s, given = self._timed(contribute)
        reduced = method.reduce(variables, [given])
        update_s, (_, optimiser) = self._timed(lambda: method.update(0, variables, optimiser, reduced))
        unit_s, _ = self._timed(lambda: train(slot.unit))
        return _Spent(
            slot_s=slot_s,
            unit_s=unit_s,
            shared_s=shared_s,
            update_s=update_s,
            variables=_bytes(variables),
            optimiser=_bytes({name: value for name, value in optimiser.items() if value.ndim}),
            peaks=peaks,
        )

    def _noise(self, ids: Tensor) -> Tensor:
        gen = self.method.problem.generator("noise")
        return torch.randn(len(ids), *self.method.problem.shape, generator=gen)

    def _timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        seconds, result = math.inf, None
        for _ in range(2):
            started = self.clock()
            result = work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = min(seconds, self.clock() - started)
            if seconds > ENOUGH_S:
                break
        return seconds, result


def _working(whole: Method[Any], small: Method[Any], less: _Spent, large: Method[Any], more: _Spent) -> int:
    """Return the bytes that a slot takes while it is worked on: what peaks grow by with the images in a pass."""
    few, many = _widest(small), _widest(large)
    missing = (_widest(whole) - many) / (many - few) if many > few else 0.0
    pairs = zip(less.peaks, more.peaks, strict=True)
    return max(int(much + max(0, much - little) * missing) for little, much in pairs)


def _scaled(config: Config, whole: Method[Any], part: Method[Any], spent: _Spent, working: int, process: int) -> Load:
    """Return the load of the whole method, given what a part of it takes."""
    slots = whole.slots(0)
    units, size = units_of(slots), _size(config, whole)
    times = _images(whole) / _images(part)
    grown = size / spent.variables
    trained = _trained(whole) / _trained(part)
    averages = whole.averages
    round = Round(
        slots=len(slots),
        slot_s=spent.slot_s * times,
        size=size,
        units=len(units),
        unit_s=spent.unit_s * trained,
        shared_s=spent.shared_s,
        update_s=spent.update_s * grown,
        gradients=len(slots) if averages else max(1, len(units)),
        averages=averages,
        separable=all(whole.own_rows(slot) is not None for slot in whole.slots_all),
    )
    return Load(
        round=round,
        optimiser=int(spent.optimiser * grown),
        unit=_bytes(whole.unit_state(units[0])) if units else 0,
        units=len(units_of(whole.slots_all)),
        working=working,
        process=process,
        share=1 / times,
    )


def _images(method: Method[Any]) -> float:
    """Return how many images go through the network in a slot; those with a way back count three times."""
    said, slot = method.config, method.slots(0)[0]
    steps, real = getattr(said, "inner_steps", 0), len(method.real_ids(0, slot))
    if steps:
        batch = getattr(said, "inner_batch", 0) * int(getattr(said, "task_classes", 0))
        batch = batch or method.problem.facts.num_classes * said.ipc // steps
        return real + 6 * steps * getattr(said, "inner_epochs", 1) * batch
    return real + 3 * _rows(method)


def _rows(method: Method[Any]) -> int:
    """Return how many synthetic images a slot is about."""
    slot = method.slots(0)[0]
    return (len(slot.classes) or method.problem.facts.num_classes) * method.config.ipc


def _trained(method: Method[Any]) -> int:
    """Return how many synthetic images go through a unit's training after a round; of what trains on none, how many there are."""
    images = method.problem.facts.num_classes * method.config.ipc
    return min(images, getattr(method.config, "online_batch", images)) * max(1, getattr(method.config, "inner_loop", 1))


def _widest(method: Method[Any]) -> int:
    """Return how many images are held in one pass, about."""
    most = max(getattr(method.config, name, 0) for name in ("chunk", "online_batch")) or math.inf
    return int(max(min(most, getattr(method.config, "real_batch", 1)), min(most, _rows(method))))


def _size(config: Config, method: Method[Any]) -> int:
    """Return the bytes of the variables, without making those that start as images."""
    said, problem = method.config, method.problem
    if getattr(said, "init", "") == "noise":
        method = create(said.model_copy(update={"init": "real"}), config.net, problem)
    images = torch.empty(problem.facts.num_classes * said.ipc, *problem.shape, device="meta")
    return _bytes(method.init(images))


def _transform(config: Config, facts: DataFacts) -> Transform:
    """Return a normalisation that costs what the run's does."""
    shape = (facts.channels, facts.size, facts.size)
    if config.data.zca is None:
        return Transform(torch.zeros(facts.channels), torch.ones(facts.channels))
    stride = max(1, facts.size // BLOCK)
    matrix = torch.eye(math.prod(shape) // stride**2)
    zca = Zca("frepo", torch.zeros(shape), matrix, matrix, stride)
    return Transform(torch.zeros(facts.channels), torch.ones(facts.channels), zca)


def _bytes(tensors: Tensors) -> int:
    return sum(value.numel() * value.element_size() for value in tensors.values())


def _rss() -> int:
    """Return the bytes of memory that this process holds; 0 where the system does not tell."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024
    return 0


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor) and each.device.type != "meta":
                self._note(each.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known.add(storage)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size


def _peak(work: Callable[[], Any], device: torch.device) -> int:
    """Return the most bytes that the tensors of some work take at a time."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with _Live() as live:
        work()
    return live.peak
