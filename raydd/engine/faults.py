"""What can go wrong beside a run, told apart: workers that are lost, slots that give NaN, memory that runs out."""

from __future__ import annotations

import errno

from raydd.errors import Diverged, EngineError

# The same round losing a worker so often is no accident; nor is a checkpoint after which so many were lost.
MOST_LOSSES_OF_A_ROUND = 5
MOST_LOSSES_OF_A_CHECKPOINT = 20
KEPT = "The last checkpoint is kept"
MORE_MEMORY = (
    "give workers more memory (fewer of them on a node), or lower method.classes_per_slot or method.real_batch where the "
    "method has them"
)
_MEMORY_TEXTS = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "can't start new thread",
)


class WorkersLost(Exception):
    """Workers died or fell silent in mid-round. Never leaves the engine: the coordinator goes back to its checkpoint."""


class NotFinite(WorkersLost):
    """A slot gave NaN or infinity for the first time: it is worth asking another worker."""


class Losses:
    """Tells losses that a cluster may have from those of a run that cannot go on."""

    def __init__(self) -> None:
        self._checkpoint: int | None = None
        self._rounds: list[int] = []

    def count(self, loss: WorkersLost, round: int, checkpoint: int | None) -> None:
        """Take down a loss.

        Args:
            loss: What happened.
            round: The round in which it did.
            checkpoint: The round of the newest checkpoint; None where there is none yet.

        Raises:
            EngineError: When there were too many since that checkpoint.
        """
        if checkpoint != self._checkpoint:
            self._checkpoint, self._rounds = checkpoint, []
        self._rounds.append(round)
        times = self._rounds.count(round)
        if times >= MOST_LOSSES_OF_A_ROUND or len(self._rounds) >= MOST_LOSSES_OF_A_CHECKPOINT:
            raise EngineError(
                f"lost workers {len(self._rounds)} times since the last checkpoint, {times} times in round {round} "
                f"(last: {loss}); it looks as if they run out of memory: {MORE_MEMORY}. {KEPT}"
            ) from loss


class Doubts:
    """Slots that gave NaN or infinity once."""

    def __init__(self) -> None:
        self._met: set[tuple[int, int]] = set()

    def meet(self, round: int, slot: int, *, workers: int) -> None:
        """Take down that a slot's reply was not finite.

        Raises:
            NotFinite: When another worker is to be asked.
            Diverged: When that was done already, or there is no other process.
        """
        again = (round, slot) in self._met
        if again or not workers:
            where = ", on another worker as well" if again and workers > 1 else ""
            raise Diverged(
                f"slot {slot} gave NaN or infinity in round {round}{where}; lower method.lr_syn, or raise the ridge if the "
                f"method has one. {KEPT}"
            )
        self._met.add((round, slot))
        raise NotFinite(f"slot {slot} gave NaN or infinity in round {round}")


def out_of_memory(error: BaseException | None) -> bool:
    """Say whether an error means that memory could not be had, on the CPU or a GPU."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in _MEMORY_TEXTS)


def explain(error: BaseException, who: str, doing: str) -> EngineError:
    """Return one clear line for an error that nobody raised on purpose.

    Args:
        error: The error.
        who: Who met it, such as `worker 1234 at 10.0.0.1`.
        doing: At what, such as `round 7`.
    """
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300].rstrip(".")
    if out_of_memory(error):
        return EngineError(f"{who} ran out of memory at {doing} ({said}); {MORE_MEMORY}. {KEPT}")
    kind = type(error).__name__
    return EngineError(f"{who} failed at {doing} ({kind}: {said}); this is a fault in raydd or the method. {KEPT}")
