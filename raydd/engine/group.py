"""Workers that exchange gradients among themselves, by torch.distributed: gloo on CPUs, nccl on GPUs.

Gradients are added in the order of slots, by everybody or each a piece for all, so that all members hold the same bits, the
ones that a coordinator would have; an all-reduce of the library would add in an order of its own. A group lives as long as its
members do; after a loss the next one is formed, at a new address.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from raydd.methods import Contribution, Method, Slot, Tensors
from raydd.methods.base import mean_in_order


class PeerLost(Exception):
    """Another worker of the group died, fell silent, or gave up. Never leaves the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A worker's place in a group.

    Attributes:
        host: Where the group meets.
        port: Likewise.
        rank: Which member this is.
        size: How many there are.
        timeout_s: How long a member waits for the others.
    """

    host: str
    port: int
    rank: int
    size: int
    timeout_s: float


def open_meeting(host: str, timeout_s: float) -> dist.TCPStore:
    """Return a place to meet at a free port of this machine; it lasts as long as the object."""
    return dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=timeout_s))


class Group:
    """Membership of the group that exchanges gradients; one a process.

    Args:
        place: This worker's place.
        meeting: What `open_meeting` returned, in the process that did; others join it by its address.
        device: Where gradients lie.

    Raises:
        PeerLost: When the others do not come in time.
    """

    def __init__(self, place: Place, meeting: dist.TCPStore | None, device: torch.device) -> None:
        self.place, self.device = place, device
        timeout = timedelta(seconds=place.timeout_s)
        backend = "nccl" if device.type == "cuda" else "gloo"
        try:
            store = meeting or dist.TCPStore(place.host, place.port, is_master=False, timeout=timeout)
            dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=timeout)
        except RuntimeError as error:
            raise PeerLost(f"member {place.rank} of {place.size} met nobody: {_first_line(error)}") from error

    def reduce(
        self, method: Method, own: Sequence[Contribution], slots: Sequence[Slot], variables: Tensors, *, finite: bool
    ) -> Tensors | None:
        """Return the gradients of all variables in a round; every member has the same.

        Args:
            method: Says how contributions become gradients.
            own: This worker's contributions, in the order of slots.
            slots: All slots of the round, in order; the members' own follow one another.
            variables: What the gradients are of: they have the variables' shapes, but for the number of rows.
            finite: Whether this worker's gradients and losses are.

        Returns:
            None where some worker's are not finite.

        Raises:
            PeerLost: When another worker is gone.
        """
        names = sorted(variables)
        try:
            counts = self._announce(_counts(own, slots, names), finite=finite)
            if counts is None:
                return None
            if method.averages:
                return self._average(own, counts, names, variables)
            return method.reduce(variables, self._gather(own, counts, slots, names, variables))
        except RuntimeError as error:
            raise PeerLost(f"member {self.place.rank} of {self.place.size}: {_first_line(error)}") from error

    def _announce(self, counts: Tensor, *, finite: bool) -> Tensor | None:
        """Return who gives how much, int64 (members, slots, names); None where something is not finite."""
        mine = torch.cat([counts, torch.full((1, counts.shape[1]), int(not finite))]).to(self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.place.size)]
        dist.all_gather(everyone, mine)
        headers = torch.stack(everyone).cpu()
        return None if headers[:, -1].any() else headers[:, :-1]

    def _average(
        self, own: Sequence[Contribution], counts: Tensor, names: Sequence[str], variables: Tensors
    ) -> Tensors:
        """Return the mean over slots: each member averages one piece of all gradients, then all gather the pieces.

        A member receives twice the variables' size, however many there are.
        """
        lengths = counts.amax(dim=(0, 1)).tolist()
        rows = counts.any(dim=2).sum(dim=1).tolist()
        length, size = sum(lengths), self.place.size
        piece = -(-length // size)
        mine = torch.empty(len(own), piece * size, device=self.device)
        mine[:, length:] = 0
        for row, contribution in zip(mine, own, strict=True):
            _lay_out(contribution, names, row)
        pieces = mine.unflatten(1, (size, piece)).transpose(0, 1).reshape(-1)
        received = torch.empty(sum(rows) * piece, device=self.device)
        dist.all_to_all_single(received, pieces, [r * piece for r in rows], [len(own) * piece] * size)
        averaged = mean_in_order(received.view(-1, piece))
        whole = torch.empty(piece * size, device=self.device)
        dist.all_gather(list(whole.split(piece)), averaged)
        means = whole[:length].split(lengths)
        return {
            name: mean.reshape(variables[name].shape) if length else torch.zeros_like(variables[name])
            for name, mean, length in zip(names, means, lengths, strict=True)
        }

    def _gather(
        self,
        own: Sequence[Contribution],
        counts: Tensor,
        slots: Sequence[Slot],
        names: Sequence[str],
        variables: Tensors,
    ) -> list[Contribution]:
        """Return all slots' gradients, in order."""
        longest = int(counts.sum(dim=(1, 2)).max())
        mine = torch.empty(longest, device=self.device)
        at = 0
        for contribution in own:
            at += _lay_out(contribution, names, mine[at:])
        parts = [torch.empty_like(mine) for _ in range(self.place.size)]
        dist.all_gather(parts, mine)
        return _unflatten(parts, counts, slots, names, variables)

    def close(self) -> None:
        """Leave the group; those who wait for this worker are told at once."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _counts(own: Sequence[Contribution], slots: Sequence[Slot], names: Sequence[str]) -> Tensor:
    """Return how many numbers a worker gives, int64 (slots, names); zeros for what another gives, or nobody."""
    given = {contribution.slot.index: contribution.gradients for contribution in own}
    rows = [[given[s.index][n].numel() if n in given.get(s.index, ()) else 0 for n in names] for s in slots]
    return torch.tensor(rows, dtype=torch.int64)


def _lay_out(contribution: Contribution, names: Sequence[str], row: Tensor) -> int:
    """Write a contribution's gradients into a row, one after the other; return how many numbers they are."""
    at = 0
    for name in names:
        if name in contribution.gradients:
            gradient = contribution.gradients[name].reshape(-1)
            row[at : at + len(gradient)] = gradient
            at += len(gradient)
    return at


def _unflatten(
    parts: Sequence[Tensor],
    counts: Tensor,
    slots: Sequence[Slot],
    names: Sequence[str],
    variables: Mapping[str, Tensor],
) -> list[Contribution]:
    """Return contributions, in the order of slots, from what every member laid end to end."""
    at = [0] * len(parts)
    gathered = []
    for row, slot in enumerate(slots):
        gradients = {}
        for column, name in enumerate(names):
            member = int(counts[:, row, column].argmax())
            length = int(counts[member, row, column])
            if length:
                shape = variables[name].shape
                gradients[name] = parts[member][at[member] : at[member] + length].reshape(
                    shape if length == math.prod(shape) else (-1, *shape[1:])
                )
                at[member] += length
        gathered.append(Contribution(slot, gradients, {}))
    return gathered


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
