"""What a worker does, in one process or on a cluster: the slots it was dealt, and the units that live beside them.

This is the whole arithmetic of a run but for the update of the variables. `DistillWorker` wraps it for Ray, `LocalExecutor` calls
it directly, so that both give the same bits. Arrays come and go as numpy: they travel through the object store without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from raydd.config import Config
from raydd.data.reader import RealData
from raydd.data.transforms import (
    BLOCK,
    Transform,
    channel_statistics,
    fit_zca_frepo,
    fit_zca_rtp,
    rtp_ridge,
    statistics,
)
from raydd.distilled import tensors_from
from raydd.engine.job import Job, facts_of, open_real, problem_of
from raydd.errors import IntegrityError
from raydd.methods import Contribution, Slot, Tensors, create
from raydd.store import Entry, Folder, digest

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A slot's contribution on its way: see `raydd.methods.Contribution`.

    Attributes:
        slot: The slot's index.
        gradients: Empty where the workers reduce them themselves.
        metrics: As in the contribution.
        finite: Whether loss and gradients are.
    """

    slot: int
    gradients: Arrays
    metrics: dict[str, float]
    finite: bool


class Work:
    """The slots and units of one worker.

    Args:
        job: What to work on.
        device: Where arithmetic happens.
        whitening: Tensors of the fitted whitening, where the config has one.
    """

    def __init__(self, job: Job, device: torch.device, whitening: Arrays | None = None) -> None:
        self.job, self.device = job, device
        self.real = open_real(job.config, job.shards)
        if self.real.index.hash != job.index_hash:
            raise IntegrityError(
                f"expected the data set {job.index_hash[:12]} at {job.shards}, got {self.real.index.hash[:12]}; "
                "were the shards packed again during the run?"
            )
        self.method = create(job.config.method, job.config.net, problem_of(job.config, self.real, device))
        self.transform = transform_of(job.config, self.real, whitening).to(device)
        self.units: dict[int, Tensors] = {}
        self.slots_done = 0
        # Units that gave a gradient in this round and have not seen the variables that came of it.
        self._pending: tuple[int, Sequence[int]] | None = None

    def initial(self) -> Arrays:
        """Return the variables at round 0."""
        return to_arrays(self.method.start(self._images))

    def _images(self, ids: Tensor, round: int | None = None) -> Tensor:
        # Pixels travel to the device as bytes and are normalised there.
        return self.transform(self.real.images(ids, round).to(self.device))

    def fresh(self, units: Sequence[int]) -> None:
        """Hold these units, in their state at round 0."""
        self._pending = None
        # In the order that a checkpoint gives them back in: sums over a state must not depend on where it came from.
        self.units = {unit: dict(sorted(self.method.unit_state(unit).items())) for unit in units}

    def restore(self, units: Sequence[int], checkpoint: str, entries: dict[str, Entry]) -> None:
        """Hold these units, in the state that a checkpoint has of them."""
        self._pending = None
        folder = Folder(checkpoint)
        self.units = {unit: self._read_unit(folder, unit, entries) for unit in units}

    def _read_unit(self, folder: Folder, unit: int, entries: dict[str, Entry]) -> Tensors:
        name = unit_file(unit)
        data = folder.read(name)
        if digest(data) != entries[name]:
            raise IntegrityError(
                f"{folder.url}/{name} was altered since the checkpoint was written; delete {folder.url}"
            )
        tensors = tensors_from(data, f"{folder.url}/{name}")
        return {key: value.to(self.device) for key, value in tensors.items()}

    def advance(self, round: int, variables: Arrays, slots: Sequence[int]) -> list[Reply]:
        """Let units of the round before see the new variables, then work on this round's slots.

        Args:
            round: The round.
            variables: The variables at its start.
            slots: Indices of the slots dealt to this worker, in order.
        """
        given = self.contribute(round, to_tensors(variables, self.device), slots)
        return [Reply(c.slot.index, to_arrays(c.gradients), c.metrics, is_finite(c)) for c in given]

    def contribute(self, round: int, variables: Tensors, slots: Sequence[int]) -> list[Contribution]:
        """Do what `advance` says with tensors on this worker's device."""
        self.finish(variables)
        shared = self.method.shared_state(round) if slots else None
        given = [self._slot(round, self.method.slots_all[index], variables, shared) for index in slots]
        units = dict.fromkeys(
            slot.unit for slot in map(self.method.slots_all.__getitem__, slots) if slot.unit is not None
        )
        self._pending = (round, tuple(units))
        self.slots_done += len(slots)
        return given

    def _slot(self, round: int, slot: Slot, variables: Tensors, shared: Any) -> Contribution:
        ids = self.method.real_ids(round, slot)
        x_real, y_real = self._images(ids, round), self.real.labels[ids].to(self.device)
        state = self.units[slot.unit] if slot.unit is not None else {}
        return self.method.contribution(round, slot, variables, state, shared, x_real, y_real)

    def finish(self, variables: Tensors) -> None:
        """Let the units of the last round see the variables that came of it, unless they have."""
        if self._pending is None:
            return
        round, units = self._pending
        self._pending = None
        for unit in units:
            self.units[unit] = self.method.after_update(round, unit, self.units[unit], variables)

    def snapshot(self, checkpoint: str, units: Sequence[int]) -> Callable[[], dict[str, Entry]]:
        """Return a function that writes units as they are now; it may run in another thread. `finish` comes first.

        Args:
            checkpoint: The checkpoint's folder.
            units: Which of this worker's units it is to write; others write the rest.
        """
        # No function changes a tensor it was given, so holding the dicts is a copy; a GPU's memory is left at once.
        states = {unit: {key: value.cpu() for key, value in self.units[unit].items()} for unit in units}

        def write() -> dict[str, Entry]:
            folder, entries = Folder(checkpoint), {}
            for unit, state in states.items():
                data = safetensors.torch.save({key: value.contiguous() for key, value in state.items()})
                folder.write(unit_file(unit), data)
                entries[unit_file(unit)] = digest(data)
            return entries

        return write


def fit_whitening(job: Job) -> Arrays:
    """Fit the whitening that a config asks for on the training images; returns the whole transform's tensors."""
    real = open_real(job.config, job.shards)
    base = transform_of(job.config, real, None)
    batches = (images for images, _ in real.stream(1000))
    rtp = job.config.data.zca == "rtp"
    zca = fit_zca_rtp(batches, ridge=rtp_ridge(facts_of(real).name)) if rtp else fit_zca_frepo(batches, base)
    return to_arrays(Transform(mean=base.mean, std=base.std, zca=zca).to_tensors())


def is_finite(contribution: Contribution) -> bool:
    """Whether a slot's loss and gradients are finite."""
    # The least and the greatest in one pass and without a copy; NaN is passed on.
    ends = (torch.stack(torch.aminmax(g)) for g in contribution.gradients.values() if g.numel())
    return math.isfinite(contribution.metrics["loss"]) and all(bool(pair.isfinite().all()) for pair in ends)


def unit_file(unit: int) -> str:
    """Return the name of a unit's file in a checkpoint."""
    return f"slot-{unit:04d}.safetensors"


def transform_of(config: Config, real: RealData, whitening: Arrays | None) -> Transform:
    """Return the run's normalisation: the papers' table where the data set is in it, else exact from the index.

    Args:
        config: The resolved config.
        real: The training images; none is read.
        whitening: Tensors of the fitted whitening, where the config has one.
    """
    style = "frepo" if config.method.default_protocol == "frepo" else "dc"
    known = None if config.data.statistics == "fit" else statistics(facts_of(real).name, style)
    if config.data.zca == "rtp":
        # RTP's whitening normalises image by image.
        known = (torch.zeros(real.index.channels), torch.ones(real.index.channels))
    if known is None:
        place = {name: position for position, name in enumerate(real.index.classes)}
        positions = [place[name] for name in real.class_names]
        known = channel_statistics(real.index, positions)
    plain = Transform(mean=known[0], std=known[1])
    if whitening is None:
        return plain
    stride = max(1, real.index.size // BLOCK)
    json = {**plain.to_json(), "zca": {"variant": config.data.zca, "stride": stride}}
    return Transform.from_parts(to_tensors(whitening), json)


def bytes_of(arrays: Arrays) -> int:
    """Return how much is sent where arrays are."""
    return sum(array.nbytes for array in arrays.values())


def to_arrays(tensors: Tensors) -> Arrays:
    """Return tensors as numpy arrays on the CPU."""
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}


def to_tensors(arrays: Arrays, device: torch.device | None = None) -> dict[str, Tensor]:
    """Return numpy arrays as tensors in memory of their own: arrays from the object store are read-only and badly aligned."""
    # numpy copies three times as fast as torch does.
    tensors = {name: torch.from_numpy(np.array(value, order="C")) for name, value in arrays.items()}
    return {name: value.to(device) for name, value in tensors.items()} if device is not None else tensors
