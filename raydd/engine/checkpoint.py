"""Checkpoints: `checkpoints/00000500/{variables, state, slot-*}.safetensors` and, last, `manifest.json`.

A checkpoint is the state at the start of the round it is named after. It is written behind the rounds from copies: the
coordinator writes the variables and the optimiser's state, each worker the files of its own units, the manifest comes last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import safetensors.torch

from raydd.distilled import tensors_from
from raydd.engine.numerics import versions
from raydd.errors import EngineError, IntegrityError, RunError
from raydd.methods import Tensors
from raydd.store import Entry, Folder, commit, load_manifest, read_verified, verify
from raydd.threads import Threads

# A run that ends for another reason waits so long for the checkpoint that is being written.
CLOSE_S = 120.0
_log = logging.getLogger("raydd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a run at the start of a round.

    Attributes:
        round: The round.
        variables: The variables.
        optimiser: The optimiser's state.
        url: Its folder.
        entries: Its files, for the workers that read their units.
        seconds: What the run had taken until then.
    """

    round: int
    variables: Tensors
    optimiser: Tensors
    url: str
    entries: dict[str, Entry]
    seconds: float


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: The run's folder.
        hash: The config hash; checkpoints of another are refused.
        keep: How many to keep.
        generation: The lease's; stands in the manifests.
        check: Raises when the lease is another's; asked before anything is deleted.
    """

    def __init__(
        self, run: Folder, hash: str, keep: int, generation: int, check: Callable[[], None] = lambda: None
    ) -> None:
        self.folder = run.folder("checkpoints")
        self.hash, self.keep, self.generation, self.check = hash, keep, generation, check
        self._writer = Threads("checkpoint")
        self._pending: Future[None] | None = None
        # The round of the last one that is whole.
        self.committed: int | None = None

    def _place(self, round: int) -> Folder:
        return self.folder.folder(f"{round:08d}")

    def rounds(self) -> list[int]:
        """Return the rounds that have a manifest, ascending."""
        return sorted(round for round, names in self._places().items() if "manifest.json" in names)

    def _places(self) -> dict[int, set[str]]:
        """Return the files of every round, finished or not."""
        places: dict[int, set[str]] = {}
        for name in self.folder.list():
            round, _, file = name.partition("/")
            if round.isdigit() and file:
                places.setdefault(int(round), set()).add(file)
        return places

    def latest(self) -> Checkpoint | None:
        """Load the newest checkpoint that is whole; None where there is none at all.

        Raises:
            RunError: When it was written under another config.
            IntegrityError: When there are checkpoints and none is whole.
        """
        damages: list[str] = []
        for round in reversed(self.rounds()):
            try:
                return self._load(round)
            except IntegrityError as error:
                _log.warning("passing over a damaged checkpoint: %s", error)
                damages.append(str(error))
        if damages:
            raise IntegrityError(
                f"no checkpoint below {self.folder.url} is whole ({damages[-1]}); delete the run to start anew"
            )
        return None

    def _load(self, round: int) -> Checkpoint:
        folder = self._place(round)
        manifest = load_manifest(folder)
        if manifest.meta.get("hash") != self.hash:
            raise RunError(
                f"the checkpoint {folder.url} belongs to another config ({str(manifest.meta.get('hash'))[:12]}, this one is "
                f"{self.hash[:12]}); choose another name for this run"
            )
        problems = verify(folder, manifest)
        if problems:
            raise IntegrityError(problems[0])
        parts = {
            name: tensors_from(
                read_verified(folder, manifest, f"{name}.safetensors"), f"{folder.url}/{name}.safetensors"
            )
            for name in ("variables", "state")
        }
        now = versions()
        changed = [
            f"{key} was {was}, is {now.get(key)}"
            for key, was in manifest.meta["versions"].items()
            if now.get(key) != was
        ]
        if changed:
            _log.warning("going on elsewhere than before, so the last bits may differ: %s", "; ".join(changed))
        self.committed = round
        return Checkpoint(
            round=round,
            variables=parts["variables"],
            optimiser=parts["state"],
            url=folder.url,
            entries=dict(manifest.files),
            seconds=float(manifest.meta["seconds"]),
        )

    @property
    def busy(self) -> bool:
        """Whether one is still being written. Raises what its writing raised, once."""
        if self._pending is not None and self._pending.done():
            done, self._pending = self._pending, None
            done.result()
        return self._pending is not None

    def url(self, round: int) -> str:
        """Return the folder of a round's checkpoint."""
        return self._place(round).url

    def write(
        self,
        round: int,
        variables: Tensors,
        optimiser: Tensors,
        units: Callable[[], dict[str, Entry]],
        extras: Callable[[], None],
        seconds: float,
    ) -> None:
        """Begin to write a checkpoint in the background; `busy` must be false.

        Args:
            round: The round at whose start this is the state.
            variables: The variables; never changed in place by anybody.
            optimiser: The optimiser's state; likewise.
            units: Writes or awaits the units' files and returns them.
            extras: Writes what lies beside the checkpoints, such as the metrics; runs before the manifest.
            seconds: What the run has taken so far.
        """
        assert self._pending is None, "one at a time"
        files = {
            "variables.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in variables.items()}),
            "state.safetensors": safetensors.torch.save({k: v.contiguous() for k, v in optimiser.items()}),
        }
        meta: dict[str, Any] = {"hash": self.hash, "round": round, "generation": self.generation, "seconds": seconds}
        meta["versions"] = versions()

        def write() -> None:
            entries = units()
            extras()
            commit(self._place(round), files, entries=entries, meta={**meta, "time": time.time()})
            self.committed = round
            self._prune(round)

        self._pending = self._writer.submit(write)

    def _prune(self, newest: int) -> None:
        """Delete what is older than the checkpoints to keep, and what before this one a dead driver left unfinished."""
        places = self._places()
        whole = sorted(round for round, names in places.items() if "manifest.json" in names and round <= newest)
        old = [round for round in places if round < newest and round not in whole[-self.keep :]]
        if old:
            self.check()
        for round in old:
            folder = self._place(round)
            # The manifest goes first: what is half deleted is no checkpoint.
            folder.delete("manifest.json")
            folder.delete(*places[round])

    def wait(self, timeout_s: float) -> None:
        """Wait until nothing is being written; raise what the writing raised.

        Raises:
            EngineError: When that takes longer.
        """
        if self._pending is None:
            return
        if not futures.wait([self._pending], timeout_s).done:
            raise EngineError(f"expected a checkpoint to be written within {timeout_s:g} s, got none; check the store")
        done, self._pending = self._pending, None
        done.result()

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Stop the writer; what it is writing is finished, unless that takes longer."""
        if not self._writer.close(timeout_s):
            _log.warning("the checkpoint that is being written is given up: it takes longer than %g s", timeout_s)
