"""Variables that live with the workers between two checkpoints, where sending them each round would cost too much.

A method whose slots own their rows (`Method.own_rows`: DM, and DC at one image a class) needs no exchange at all: each worker
takes its rows' optimiser steps itself. Nor does any method whose one worker has all slots. Otherwise the workers may reduce the
gradients among themselves (`group.py`), and each takes the same step. Either way the bits are those of a coordinator that does
it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from raydd.config import EngineConfig
from raydd.engine.group import Group
from raydd.engine.work import Arrays, Reply, Work, is_finite, to_arrays, to_tensors
from raydd.errors import ConfigError
from raydd.methods import Contribution, Method, Slot, Tensors

Exchange = Literal["store", "resident", "collective"]
# Of variables and as many gradients: two workers move 100 MB faster by the object store of one machine (67-80 ms against 99-128
# with gloo); what passes the coordinator's link grows with the workers, what passes a worker's does not.
MOST_BYTES = 128 * 2**20


def check_exchange(engine: EngineConfig, method: Method) -> None:
    """Check that a run's variables and gradients can travel as `engine.exchange` says.

    Raises:
        ConfigError: When the method's slots are coupled and are asked to be resident with several workers, or workers that
            share a GPU to gather gradients.
    """
    if engine.exchange == "resident" and engine.workers > 1 and not separable(method):
        raise ConfigError(
            "engine.exchange resident needs one worker, or a method whose classes share no network that trains on the set "
            "(dm, or dc and dsa at outer_loop 1 and one network a round); set it to auto"
        )
    if engine.exchange == "collective" and engine.gpus_per_worker % 1:
        raise ConfigError(
            f"engine.exchange collective needs a GPU of its own for every worker, got engine.gpus_per_worker "
            f"{engine.gpus_per_worker:g}; set it to auto"
        )


def separable(method: Method) -> bool:
    """Whether a method's slots own their rows."""
    return bool(method.slots_all) and all(method.own_rows(slot) is not None for slot in method.slots_all)


def choose_exchange(engine: EngineConfig, method: Method, variables: Tensors, workers: int) -> Exchange:
    """Return how the variables and gradients of a run travel.

    Args:
        engine: `exchange` says it, or `auto`; see `check_exchange`.
        method: The run's method.
        variables: Its variables.
        workers: How many there are; 0 for none, in one process.
    """
    if not workers:
        return "store"
    if engine.exchange != "auto":
        return engine.exchange
    way = automatic(separable(method), sum(value.nbytes for value in variables.values()), workers)
    # NCCL knows no two members on one GPU.
    return "store" if way == "collective" and engine.gpus_per_worker % 1 else way


def automatic(separable: bool, size: int, workers: int) -> Exchange:
    """Return what `auto` means for slots that own their rows or not, variables of `size` bytes, and one worker or more."""
    if separable or workers == 1:
        return "resident"
    return "collective" if size * workers > MOST_BYTES else "store"


class Held:
    """A worker's variables and optimiser state, from one checkpoint to the next.

    Where results are to be the same on any number of workers, they are on the CPU, where a coordinator has them too: a GPU
    rounds the optimiser's step otherwise.

    Args:
        work: The worker's slots.
        share: Indices of the slots dealt to it, in order.
        variables: All variables.
        optimiser: All of the optimiser's state.
        group: Where gradients are gathered; None for rows of this worker's own, or where it is alone.
        split: Whether this worker keeps the rows of its slots only, others the rest.
    """

    def __init__(
        self,
        work: Work,
        share: Sequence[int],
        variables: Arrays,
        optimiser: Arrays,
        *,
        group: Group | None,
        split: bool,
    ) -> None:
        self.work, self.method, self.share, self.group = work, work.method, frozenset(share), group
        self.rows = self._rows(share) if split else None
        self.home = torch.device("cpu") if work.job.config.engine.deterministic else work.device
        self.variables = to_tensors(variables, self.home)
        self.optimiser = self._cut(to_tensors(optimiser, self.home))

    def _rows(self, share: Sequence[int]) -> slice:
        ranges = [self.method.own_rows(self.method.slots_all[index]) for index in share]
        return slice(ranges[0].start, ranges[-1].stop) if ranges else slice(0, 0)  # type: ignore[union-attr]

    def _cut(self, tensors: Tensors) -> Tensors:
        """Return the rows that this worker changes, without a copy; a count of steps is everybody's."""
        if self.rows is None:
            return tensors
        return {name: value[self.rows] if value.ndim else value for name, value in tensors.items()}

    def advance(self, first: int, count: int) -> list[list[Reply]]:
        """Do whole rounds.

        Args:
            first: The first of them.
            count: How many.

        Returns:
            This worker's replies of each round, without their gradients. A round that some worker could not give finite numbers
            for is the last, and changes nothing.

        Raises:
            PeerLost: When another worker is gone.
        """
        rounds: list[list[Reply]] = []
        for round in range(first, first + count):
            slots = self.method.slots(round)
            there = self._there()
            own = self.work.contribute(round, there, [slot.index for slot in slots if slot.index in self.share])
            finite = {c.slot.index: is_finite(c) for c in own}
            rounds.append([Reply(c.slot.index, {}, c.metrics, finite[c.slot.index]) for c in own])
            gradients = self._reduce(own, slots, there, finite=all(finite.values()))
            if gradients is None:
                break
            self._update(round, gradients)
        return rounds

    def _there(self) -> Tensors:
        """Return the variables where the slots work."""
        return _at(self.work.device, self.variables)

    def _reduce(
        self, own: Sequence[Contribution], slots: Sequence[Slot], there: Tensors, *, finite: bool
    ) -> Tensors | None:
        """Return the round's gradients of what this worker updates; None where numbers are not finite."""
        if self.group is not None:
            gradients = self.group.reduce(self.method, own, slots, there, finite=finite)
            return None if gradients is None else _at(self.home, gradients)
        if not finite:
            return None
        here = [replace(c, gradients=_at(self.home, c.gradients)) for c in own]
        return self.method.reduce(self._cut(self.variables), here) if here else {}

    def _update(self, round: int, gradients: Tensors) -> None:
        if not gradients:
            return
        before = self._cut(self.variables)
        after, self.optimiser = self.method.update(round, before, self.optimiser, gradients)
        if self.rows is None:
            self.variables = after
        else:
            # These tensors are nobody else's, and what gave a gradient to this round has copied its rows.
            for name, value in after.items():
                self.variables[name][self.rows] = value

    def bring(self) -> tuple[Arrays, Arrays]:
        """Return this worker's variables and optimiser state: its own rows where they are split."""
        return to_arrays(self._cut(self.variables)), to_arrays(self.optimiser)

    def finish(self) -> None:
        """Let units see the variables that came of the last round."""
        self.work.finish(self._there())

    def close(self) -> None:
        """Leave the group, if any."""
        if self.group is not None:
            self.group.close()


def _at(device: torch.device, tensors: Tensors) -> Tensors:
    return {name: value.to(device) for name, value in tensors.items()}


def join(parts: Sequence[tuple[Arrays, Arrays]]) -> tuple[Tensors, Tensors]:
    """Return all variables and the optimiser's state from what workers with slots brought, in the order of their slots."""
    variables, optimiser = ([to_tensors(part) for part in arrays] for arrays in zip(*parts, strict=True))
    return _stack(variables), _stack(optimiser)


def _stack(parts: Sequence[Tensors]) -> Tensors:
    first = parts[0]
    return {name: torch.cat([part[name] for part in parts]) if value.ndim else value for name, value in first.items()}
