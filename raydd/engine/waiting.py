"""Waiting for workers on a Ray cluster without being fooled by one that will never answer."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from raydd.engine.cluster import Hand
from raydd.engine.faults import WorkersLost, explain
from raydd.engine.group import PeerLost
from raydd.errors import RaydError

# Ray itself takes 15 to 65 s to notice a node that is gone, and never notices a process that stands still.
LOOK_EVERY_S = 5.0
PING_TIMEOUT_S = 30.0
# The exception that Ray makes of a worker's has this in its text only.
_WHERE = re.compile(r"pid=(\d+), ip=([^,)\s]+)")
_log = logging.getLogger("raydd")


def gather(refs: list[Any], hands: Sequence[Hand], doing: str, timeout_s: float) -> list[Any]:
    """Return a reply of each of these workers, pinging those that are late.

    A worker that does not answer, or is later than `timeout_s`, is marked as lost.

    Args:
        refs: One call of each worker.
        hands: The workers.
        doing: What was asked of them, for errors, such as `round 7`.
        timeout_s: The longest that a reply may take.

    Raises:
        WorkersLost: When a worker died or fell silent.
        RaydError: What a worker raised on purpose, as it is.
        EngineError: What a worker raised otherwise.
    """
    deadline = time.monotonic() + timeout_s
    patience = min(LOOK_EVERY_S, timeout_s)
    while True:
        try:
            return ray.get(refs, timeout=patience)
        except GetTimeoutError:
            late = _late(refs, hands)
            left = deadline - time.monotonic()
            mute = late if left <= 0 else silent(late)
            for hand in mute:
                hand.lost = True
            if mute or left <= 0:
                said = f"{len(mute)} of {len(hands)} workers did not answer" if mute else "replies did not arrive"
                raise WorkersLost(f"{said} in time at {doing}") from None
            # Replies that are all there are only on their way, which takes as long as it takes.
            patience = min(LOOK_EVERY_S, left) if late else left
        except RayTaskError as error:
            raise _cause(error, doing) from None
        except RayError as error:
            raise WorkersLost(str(error).splitlines()[0]) from error


def silent(hands: Sequence[Hand], *, idle: bool = False) -> list[Hand]:
    """Return the workers that do not answer a ping; they answer while they compute, unless they are to be `idle`."""
    pings = [(hand.actor.idle if idle else hand.actor.ping).remote() for hand in hands]
    if not pings:
        return []
    ready, _ = ray.wait(pings, num_returns=len(pings), timeout=PING_TIMEOUT_S)
    answered = {ping for ping in ready if succeeded(ping)}
    return [hand for hand, ping in zip(hands, pings, strict=True) if ping not in answered]


def succeeded(ready: Any) -> bool:
    """Say whether a call that has ended ended well."""
    try:
        ray.get(ready, timeout=1)
    except RayError:
        return False
    return True


def _late(refs: list[Any], hands: Sequence[Hand]) -> list[Hand]:
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)
    there = set(ready)
    return [hand for ref, hand in zip(refs, hands, strict=True) if ref not in there]


def _cause(error: RayTaskError, doing: str) -> Exception:
    cause = error.cause
    if isinstance(cause, PeerLost):
        return WorkersLost(str(cause))
    if isinstance(cause, RaydError):
        return cause
    _log.error("%s", error)
    where = _WHERE.search(str(error))
    return explain(cause, f"worker {where[1]} at {where[2]}" if where else "a worker", doing)
