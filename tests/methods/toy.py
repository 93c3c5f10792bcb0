"""Tiny problems without data on disk, and a driver that runs rounds in this process as the engine does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raydd.config import NETS, DataFacts, MethodSpec, methods
from raydd.data.plan import Windows
from raydd.engine.executor import deal
from raydd.methods import Contribution, Method, Problem, Slot, Tensors, create
from raydd.seeding import generator
from tests.methods import third

T = TypeVar("T")

SPECS: dict[str, MethodSpec] = {**methods(), **{spec.name: spec for spec in third.SPECS}}

# Small configs of the battery. They go through every branch of their method: blocks that workers do not divide, several
# members a round, chunks, mirrored copies, sampled online batches, members that are renewed. What names a method is another
# form of that one. A method that is not here, a third party's, says itself what is small.
CONFIGS: dict[str, dict[str, Any]] = {
    "dc": {
        "ipc": 2,
        "rounds": 12,
        "outer_loop": 3,
        "inner_loop": 2,
        "nets_per_round": 1,
        "classes_per_slot": 1,
        "real_batch": 6,
        "net_batch": 7,
        "lr_net": 0.05,
    },
    "dsa": {
        "ipc": 2,
        "rounds": 12,
        "outer_loop": 2,
        "inner_loop": 1,
        "nets_per_round": 5,
        "classes_per_slot": "all",
        "real_batch": 6,
    },
    "dd": {
        "ipc": 4,
        "rounds": 12,
        "inner_steps": 2,
        "inner_epochs": 2,
        "lr_inner": 0.05,
        "inits_per_round": 5,
        "real_batch": 9,
        "decay_epochs": 1,
        "augment": "crop_flip",
        "learn_labels": True,
        "lr_syn": 0.05,
        "chunk": 5,
    },
    "dm": {"ipc": 2, "rounds": 12, "classes_per_slot": 1, "real_batch": 6, "lr_syn": 1.0},
    "mmd": {"ipc": 2, "rounds": 12, "classes_per_slot": 1, "real_batch": 6},
    "rtp": {
        "ipc": 2,
        "rounds": 12,
        "num_bases": 4,
        "inner_steps": 5,
        "inner_batch": 3,
        "lr_net": 0.05,
        "task_classes": 4,
        "inits_per_round": 5,
        "real_batch": 3,
        "chunk": 5,
        "offload": True,
    },
    "frepo": {
        "ipc": 2,
        "rounds": 12,
        "pool_size": 5,
        "models_per_round": 3,
        "max_online_updates": 1,
        "real_batch": 8,
        "online_batch": 7,
        "chunk": 6,
        "flip": True,
        "lr_syn": 0.02,
        "lr_net": 0.01,
    },
}
CONFIGS["rtp_image"] = {
    **CONFIGS["rtp"],
    "name": "rtp",
    "address": "image",
    "shots": 2,
    "inner_steps": 3,
    "inner_batch": 2,
}
FALLBACK: dict[str, Any] = {"ipc": 2, "rounds": 12}
ITERATIVE = [name for name, spec in SPECS.items() if spec.config.iterative] + [n for n in CONFIGS if n not in SPECS]


@dataclass(frozen=True)
class Toy:
    """A data set in memory: images `(n, C, H, W)`, labels `(n,)` in no order, and the ids of each class."""

    images: Tensor
    labels: Tensor

    @property
    def by_class(self) -> tuple[Tensor, ...]:
        return tuple((self.labels == c).nonzero().flatten() for c in range(int(self.labels.max()) + 1))

    @property
    def facts(self) -> DataFacts:
        sizes = [len(ids) for ids in self.by_class]
        channels, size = self.images.shape[1:3]
        return DataFacts(name="toy", channels=channels, size=size, num_classes=len(sizes), smallest_class=min(sizes))


def data(counts: Sequence[int] = (4, 9, 6, 7, 5), channels: int = 1, size: int = 8) -> Toy:
    """Return noisy copies of one random image a class, `counts` of each."""
    gen = generator(7, "toy")
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=gen)]
    prototypes = torch.randn(len(counts), channels, size, size, generator=gen)
    noise = torch.randn(len(labels), channels, size, size, generator=gen)
    return Toy(prototypes[labels] + 0.3 * noise, labels)


def make(
    name: str,
    toy: Toy,
    *,
    seed: int = 0,
    net: dict[str, Any] | None = None,
    windows: Windows | None = None,
    **changes: Any,
) -> Method[Any]:
    """Build a method on a toy: its battery config with `changes`, and its own network at width 4 and depth 2."""
    options = {"name": name, **(CONFIGS.get(name) or {**FALLBACK, **SPECS[name].small}), **changes}
    config = SPECS[options["name"]].config.model_validate(options).resolved(toy.facts)
    shape = NETS[config.default_net].model_validate({"width": 4, "depth": 2, **(net or {})}).resolved(toy.facts)
    return create(config, shape, Problem(facts=toy.facts, seed=seed, by_class=toy.by_class, windows=windows))


@dataclass(frozen=True)
class State:
    """A run at the start of a round, and the mean loss of every round before."""

    round: int
    variables: Tensors
    optimiser: Tensors
    units: dict[int, Tensors]
    losses: tuple[float, ...] = ()

    def stored(self) -> State:
        """Return what a checkpoint keeps of this state."""
        units = {unit: _stored(state) for unit, state in self.units.items()}
        return replace(self, variables=_stored(self.variables), optimiser=_stored(self.optimiser), units=units)


def _stored(tensors: Tensors) -> Tensors:
    return safetensors.torch.load(safetensors.torch.save({name: t.contiguous() for name, t in tensors.items()}))


def start(method: Method[Any], toy: Toy) -> State:
    """Return a run at round 0."""
    variables = pure(method.init, toy.images[method.init_ids()])
    units = dict.fromkeys(slot.unit for slot in method.slots_all if slot.unit is not None)
    return State(0, variables, pure(method.optimiser, variables), {unit: method.unit_state(unit) for unit in units})


def run(
    build: Callable[[], Method[Any]],
    toy: Toy,
    rounds: int,
    *,
    state: State | None = None,
    workers: int = 0,
    backwards: bool = False,
) -> State:
    """Run to the start of round `rounds`.

    Args:
        build: Builds the method; each worker has one of its own.
        toy: The data.
        rounds: Where to stop.
        state: Where to begin; left out, at round 0.
        workers: How many the slots are dealt to; 0 is this process, without the copies that travelling makes.
        backwards: Do the slots of a round in reverse.
    """
    coordinator = build()
    state = state if state is not None else start(coordinator, toy)
    crew = [build() for _ in range(workers)] or [coordinator]
    shares = deal(len(coordinator.slots_all), len(crew))
    owner = {index: member for member, share in zip(crew, shares, strict=True) for index in share}
    while state.round < rounds:
        state = _one_round(coordinator, owner, toy, state, travel=_sent if workers else copy.copy, backwards=backwards)
    return state


def _one_round(
    coordinator: Method[Any],
    owner: dict[int, Method[Any]],
    toy: Toy,
    state: State,
    travel: Callable[[Tensors], Tensors],
    backwards: bool,
) -> State:
    round, slots, shared, given = state.round, coordinator.slots(state.round), {}, {}
    for slot in reversed(slots) if backwards else slots:
        member = owner[slot.index]
        if id(member) not in shared:
            shared[id(member)] = member.shared_state(round)
        given[slot.index] = contribute(
            member, toy, round, slot, travel(state.variables), state.units, shared[id(member)]
        )
    contributions = [replace(given[slot.index], gradients=travel(given[slot.index].gradients)) for slot in slots]
    gradients = pure(coordinator.reduce, state.variables, contributions)
    variables, optimiser = pure(coordinator.update, round, state.variables, state.optimiser, gradients)
    units = dict(state.units)
    # A unit evolves on every worker that has a slot of it, once and in the same way.
    for unit, members in _crews(slots, owner).items():
        evolved = [pure(m.after_update, round, unit, state.units[unit], travel(variables)) for m in members]
        assert all(same_bits(evolved[0], other) for other in evolved[1:])
        units[unit] = evolved[0]
    loss = sum(c.metrics["loss"] for c in contributions) / len(slots)
    return State(round + 1, variables, optimiser, units, (*state.losses, loss))


def _crews(slots: Sequence[Slot], owner: dict[int, Method[Any]]) -> dict[int, list[Method[Any]]]:
    """Return the workers that have a slot of each unit, each once."""
    crews: dict[int, list[Method[Any]]] = {}
    for slot in slots:
        if slot.unit is not None:
            crew = crews.setdefault(slot.unit, [])
            crew += [owner[slot.index]] if owner[slot.index] not in crew else []
    return crews


def _sent(tensors: Tensors) -> Tensors:
    """Return tensors as they come out of the object store: in C order, in memory of their own."""
    return {name: torch.tensor(np.ascontiguousarray(value.numpy())) for name, value in tensors.items()}


def contribute(
    method: Method[Any],
    toy: Toy,
    round: int,
    slot: Slot,
    variables: Tensors,
    units: dict[int, Tensors],
    shared: Any,
    dtype: torch.dtype = torch.float32,
) -> Contribution:
    """Return a slot's contribution, real images in `dtype`."""
    ids = method.real_ids(round, slot)
    state = units[slot.unit] if slot.unit is not None else {}
    x_real = toy.images[ids].to(dtype)
    return pure(method.contribution, round, slot, variables, state, shared, x_real, toy.labels[ids])


def objective(method: Method[Any], toy: Toy, round: int, variables: Tensors, state: State) -> tuple[float, Tensors]:
    """Return, in float64, what a round minimises and its gradients.

    Losses of slots are per class, and slots about the same classes (or about all) are averaged.
    """
    variables, units, shared = (double(tree) for tree in (variables, state.units, method.shared_state(round)))
    slots = method.slots(round)
    contributions = [contribute(method, toy, round, s, variables, units, shared, torch.float64) for s in slots]
    about = [slot.classes or (-1,) for slot in slots]
    times = sum(map(len, about)) / len({c for classes in about for c in classes})
    total = sum(c.metrics["loss"] * len(classes) for c, classes in zip(contributions, about, strict=True))
    return total / times, method.reduce(variables, contributions)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return nested dicts, sequences and dataclasses with `function` applied to all their tensors."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, value) for value in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{f.name: map_tensors(function, getattr(tree, f.name)) for f in fields(tree)})
    return tree


def double(tree: T) -> T:
    """Return a tree with all its floating tensors in float64."""
    return map_tensors(lambda t: t.double() if t.is_floating_point() else t, tree)


def leaves(tree: Any) -> list[Tensor]:
    """Return all tensors of a tree; those of a dict in the order of its keys, since a checkpoint keeps no other."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, list | tuple):
        return [leaf for value in tree for leaf in leaves(value)]
    if is_dataclass(tree) and not isinstance(tree, type):
        return [leaf for f in fields(tree) for leaf in leaves(getattr(tree, f.name))]
    return []


def same_bits(one: Any, other: Any) -> bool:
    """Say whether two trees hold the same tensors, bit for bit."""
    pairs = list(zip(leaves(one), leaves(other), strict=True))
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def pure(function: Callable[..., T], *args: Any) -> T:
    """Call a function and check that it left every tensor it was given as it was."""
    before = map_tensors(lambda t: t.detach().clone(), args)
    result = function(*args)
    name = getattr(function, "__name__", function)
    assert same_bits(before, args), f"{name} changed a tensor that it was given"
    assert not any(t.requires_grad for t in leaves(args)), f"{name} put a tensor that it was given on a tape"
    return result
