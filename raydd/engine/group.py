"""Workers that exchange gradients among themselves, by torch.distributed: gloo on CPUs, nccl on GPUs.

All gather everything and each adds in the order of slots, so that all of them hold the same bits, the ones that a coordinator
would have. A group lives as long as its members do; after a loss the next one is formed, at a new address.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from raydd.methods import Contribution, Slot, Tensors


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

    def gather(
        self, own: Sequence[Contribution], slots: Sequence[Slot], variables: Tensors, *, finite: bool
    ) -> list[Contribution] | None:
        """Return the gradients of all slots of a round, in their order; metrics stay where they were made.

        Args:
            own: This worker's contributions, in the order of slots.
            slots: All slots of the round, in order.
            variables: What the gradients are of: they have the variables' shapes, but for the number of rows.
            finite: Whether this worker's gradients and losses are.

        Returns:
            None where some worker's are not finite.

        Raises:
            PeerLost: When another worker is gone.
        """
        names = sorted(variables)
        flat, counts = _flatten(own, slots, names)
        # Who gives how much; zeros for what another gives. The last row counts those that are not finite.
        header = torch.cat([counts, torch.full((1, len(names)), 0 if finite else 1)]).to(self.device)
        flat = flat.to(self.device)
        try:
            everyone = [torch.empty_like(header) for _ in range(self.place.size)]
            dist.all_gather(everyone, header)
            headers = torch.stack(everyone).cpu()
            if headers[:, -1].any():
                return None
            totals = headers.sum(dim=(1, 2))
            longest = int(totals.max())
            padded = flat if len(flat) == longest else torch.cat([flat, flat.new_empty(longest - len(flat))])
            parts = [flat.new_empty(longest) for _ in range(self.place.size)]
            dist.all_gather(parts, padded)
        except RuntimeError as error:
            raise PeerLost(f"member {self.place.rank} of {self.place.size}: {_first_line(error)}") from error
        return _unflatten(parts, headers[:, :-1], slots, names, variables)

    def close(self) -> None:
        """Leave the group; those who wait for this worker are told at once."""
        if dist.is_initialized():
            dist.destroy_process_group()


def _flatten(own: Sequence[Contribution], slots: Sequence[Slot], names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return a worker's gradients laid end to end, and how long each is, int64 (slots, names)."""
    place = {slot.index: row for row, slot in enumerate(slots)}
    counts, pieces = torch.zeros(len(slots), len(names), dtype=torch.int64), []
    for contribution in own:
        for column, name in enumerate(names):
            if name in contribution.gradients:
                gradient = contribution.gradients[name]
                counts[place[contribution.slot.index], column] = gradient.numel()
                pieces.append(gradient.reshape(-1))
    return torch.cat(pieces) if pieces else torch.empty(0), counts


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
