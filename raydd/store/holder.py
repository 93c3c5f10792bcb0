"""Who holds a lease: enough to tell on the same machine, without clocks, whether that process still lives."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LONGEST_TTL_S = 86400.0
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """One process, told from all others.

    Attributes:
        host: Host name, for people.
        pid: Process id within `pid_space`.
        start: Start time of the process in clock ticks since boot: tells it from a later one of the same id.
        boot: The kernel's boot id.
        pid_space: The process id name space: two containers on one kernel have different ones.
        token: Unlike that of any other lease.
        ttl_s: For how long its heartbeat may rest before it may be replaced.
    """

    host: str
    pid: int
    start: int
    boot: str
    pid_space: str
    token: str
    ttl_s: float

    @classmethod
    def this_process(cls, ttl_s: float) -> Holder:
        """Return the record of the calling process."""
        state = process_state(os.getpid())
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            start=state[1] if state else 0,
            boot=_boot(),
            pid_space=_pid_space(),
            token=secrets.token_hex(16),
            ttl_s=ttl_s,
        )

    @classmethod
    def parse(cls, record: Any) -> Holder | None:
        """Return the holder that a lease file names, None where the record is damaged."""
        kinds = {"host": str, "pid": int, "start": int, "boot": str, "pid_space": str, "token": str}
        if not isinstance(record, dict) or not all(type(record.get(key)) is kind for key, kind in kinds.items()):
            return None
        ttl_s: Any = record.get("ttl_s")
        if type(ttl_s) not in (int, float) or not 0 < ttl_s <= LONGEST_TTL_S:
            return None
        return cls(**{key: record[key] for key in kinds}, ttl_s=float(ttl_s))

    def record(self) -> dict[str, Any]:
        """Return what a lease file says."""
        return asdict(self)

    def state(self) -> str:
        """Return `running`, `stopped`, `dead`, or `unknown` where it cannot be seen from here."""
        if not self.boot or not self.pid_space or (self.boot, self.pid_space) != (_boot(), _pid_space()):
            return "unknown"
        found = process_state(self.pid)
        if found is None or found[1] != self.start or found[0] in "ZX":
            return "dead"
        return "stopped" if found[0] in "Tt" else "running"


def process_state(pid: int) -> tuple[str, int] | None:
    """Return (state letter, start time in ticks since boot) of a process of this machine, None where there is none."""
    try:
        line = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may hold anything, parentheses and spaces too.
    fields = line.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_space() -> str:
    try:
        return os.readlink(_PROC / "self/ns/pid")
    except OSError:
        return ""
