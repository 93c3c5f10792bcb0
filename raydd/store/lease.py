"""One driver a run: a lease that is a row of generations.

`gen-00000007.json` names the holder of generation 7 and is created only if absent, so one process gets it; the highest
generation holds the lease. A thread of the holder rewrites `beat-00000007.json`. Generations are never deleted, so that
no number is ever given twice. No two machines' clocks are compared: a heartbeat is old when *we* have watched it stand
still for the holder's `ttl_s`.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from raydd.errors import EngineError, IntegrityError, RunError, StoreError, StoreFault
from raydd.store.canonical import to_json
from raydd.store.folder import Folder
from raydd.store.holder import LONGEST_TTL_S, Holder
from raydd.threads import Threads

log = logging.getLogger(__name__)
TTL_S = 60.0
BEATS_PER_TTL = 4
RELEASE_S = 60.0
_GENERATION = re.compile(r"gen-(\d{8})\.json")


class Lease:
    """The right to write to a run, as long as nobody newer holds it. Make one by `acquire`.

    The heartbeat only keeps others from taking over; what protects the run is `check` before each commit and the
    `generation` in what is written.
    """

    def __init__(self, folder: Folder, generation: int, holder: Holder) -> None:
        self.folder, self.generation, self.holder = folder, generation, holder
        self._count = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease-{generation}", daemon=True)
        self._thread.start()

    @classmethod
    def acquire(
        cls,
        folder: Folder,
        *,
        ttl_s: float | None = None,
        wait: Callable[[float], Any] = time.sleep,
        say: Callable[[str], Any] | None = None,
    ) -> Lease:
        """Become the one driver of a run.

        A holder that released, or whose process on this machine is dead, is replaced at once. One that runs on this
        machine is refused at once. One that is stopped, or on another machine, is watched: refused at its next
        heartbeat, replaced when none came for its own `ttl_s`.

        Args:
            folder: The run's `lease/` folder.
            ttl_s: Seconds without a heartbeat after which others may replace us, > 0; by default those of
                `RAYDD_LEASE_TTL_S`, or 60.
            wait: Sleeps for so many seconds.
            say: Told once, before watching begins, whom it watches and for how long at most.

        Raises:
            RunError: Another driver lives; names it.
            StoreError: The store failed.
        """
        ttl_s = _default_ttl_s() if ttl_s is None else ttl_s
        if not 0 < ttl_s <= LONGEST_TTL_S:
            raise RunError(f"a lease's ttl_s must be above 0 and at most {LONGEST_TTL_S:g}, got {ttl_s}")
        holder = Holder.this_process(ttl_s)
        while True:
            newest = _newest(folder)
            if newest:
                _await_free(folder, newest, ttl_s, wait, say or log.info)
            mine = newest + 1
            # Lost to another that came at the same moment: that one is looked at in the next turn.
            if folder.create(_gen_name(mine), to_json(holder.record())) and _newest(folder) == mine:
                return cls(folder, mine, holder)

    def check(self) -> None:
        """Look whether the lease is still ours.

        Raises:
            EngineError: A newer generation exists, or this one was released.
            StoreError: The store cannot be asked.
        """
        newest = _newest(self.folder)
        if newest > self.generation:
            by = _describe(_read_holder(self.folder, newest))
            raise EngineError(
                f"{self.folder.url}: lost the lease of generation {self.generation} to generation {newest} ({by}); "
                "this driver must stop writing"
            )
        if self._stop.is_set():
            raise EngineError(f"{self.folder.url}: the lease of generation {self.generation} has been released")

    def release(self) -> None:
        """Let the next driver take over at once. Harmless when done twice or after the lease was lost.

        Raises:
            StoreError: The store failed.
            StoreFault: It took longer than `RELEASE_S`.
        """
        if self._stop.is_set():
            return
        self._stop.set()
        # In a thread, so that nobody waits for ever for a file system that is away.
        threads = Threads(f"release-{self.generation}")
        released = threads.submit(self._last_beat)
        if not threads.close(RELEASE_S):
            raise StoreFault(
                f"{self.folder.url}: expected the lease to be released within {RELEASE_S:g} s, got no answer; check the store"
            )
        released.result()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.release()
        except StoreError as fault:
            # The run's own outcome matters more: an unreleased lease only costs the next driver a look at our process.
            log.warning("%s", fault)

    def _beat(self) -> None:
        while True:
            try:
                self._write_beat(released=False)
            except StoreError as error:
                log.warning("no heartbeat: %s", error)
            if self._stop.wait(self.holder.ttl_s / BEATS_PER_TTL):
                return

    def _last_beat(self) -> None:
        self._thread.join()
        self._write_beat(released=True)

    def _write_beat(self, *, released: bool) -> None:
        self._count += 1
        # The time is for people to read; nothing compares it.
        beat = {"count": self._count, "released": released, "time": utc(time.time())}
        self.folder.write_json(_beat_name(self.generation), beat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """What a run's lease says of its driver, for people; nothing may rely on it.

    Attributes:
        state: `running`, `released`, `stopped` (by a signal), `dead`, or `unknown` where it is on another machine.
        time: Its last heartbeat by its own clock, as `utc` writes it; None before the first.
        driver: Host and process.
    """

    state: str
    time: str | None
    driver: str


def sign_of_life(folder: Folder) -> Sign | None:
    """Return what is known of the newest driver of a run, by the run's `lease/` folder; None where there was none."""
    newest = _newest(folder)
    if not newest:
        return None
    holder, beat = _read_holder(folder, newest), _read_beat(folder, newest)
    state = "released" if beat.get("released") is True else holder.state() if holder else "unknown"
    at = beat.get("time")
    return Sign(state=state, time=at if isinstance(at, str) else None, driver=_describe(holder))


def utc(seconds: float) -> str:
    """Return a moment, in seconds since 1970, for people: ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _await_free(
    folder: Folder, generation: int, ttl_s: float, wait: Callable[[float], Any], say: Callable[[str], Any]
) -> None:
    """Return once the holder of `generation` may be replaced; RunError when it lives."""
    holder = _read_holder(folder, generation)
    first = _read_beat(folder, generation)
    state = holder.state() if holder else "unknown"
    if first.get("released") is True or state == "dead":
        return
    who = f"{_describe(holder)}, last heartbeat {first.get('time', 'none yet')}"
    refusal = f"{folder.url}: expected no other driver on this run, got {who}; wait for it or stop it"
    if state == "running":
        raise RunError(refusal)
    limit = holder.ttl_s if holder else ttl_s
    say(f"{folder.url}: watching for at most {limit:g} s whether another driver lives ({who})")
    start = time.monotonic()
    while (waited := time.monotonic() - start) < limit:
        wait(min(max(limit / 20, 0.05), limit - waited))
        beat = _read_beat(folder, generation)
        if beat.get("released") is True:
            return
        if beat != first:
            raise RunError(refusal)


def _default_ttl_s() -> float:
    text = os.environ.get("RAYDD_LEASE_TTL_S", str(TTL_S))
    try:
        return float(text)
    except ValueError:
        raise RunError(f"RAYDD_LEASE_TTL_S must be a number of seconds, got {text!r}") from None


def _newest(folder: Folder) -> int:
    numbers = (_GENERATION.fullmatch(name) for name in folder.list("gen-"))
    return max((int(found[1]) for found in numbers if found), default=0)


def _gen_name(generation: int) -> str:
    return f"gen-{generation:08d}.json"


def _beat_name(generation: int) -> str:
    return f"beat-{generation:08d}.json"


def _read_holder(folder: Folder, generation: int) -> Holder | None:
    try:
        return Holder.parse(folder.json(_gen_name(generation)))
    except (FileNotFoundError, IntegrityError):
        return None


def _read_beat(folder: Folder, generation: int) -> dict[str, Any]:
    try:
        beat = folder.json(_beat_name(generation))
    except (FileNotFoundError, IntegrityError):
        return {}
    return beat if isinstance(beat, dict) else {}


def _describe(holder: Holder | None) -> str:
    return f"host {holder.host} pid {holder.pid}" if holder else "an unreadable holder"
