"""What is read at most: a file that claims or has an absurd size costs one line and not the machine's memory."""

from __future__ import annotations

from pathlib import Path

from raydd.errors import DataError

# Of a record: a manifest, a recipe, an index. ImageNet-1K's index has less than a hundredth of it.
MOST_RECORD = 64 << 20
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_OLD_CGROUP = _CGROUP / "memory"


def free_memory() -> int | None:
    """Return the bytes of memory that this process could still take, by machine and container; None where neither tells."""
    known = [left for left in (_of_machine(), _of_container()) if left is not None]
    return min(known, default=None)


def check_fits(where: str, size: int) -> None:
    """Refuse what does not fit into memory, before a byte of it is read.

    Args:
        where: The file, for the error.
        size: Its bytes, as a manifest or the store tells.

    Raises:
        DataError: It has more than there is memory for.
    """
    free = free_memory()
    if free is not None and size > free:
        raise DataError(
            f"{where}: expected at most {free / 2**30:.1f} GiB, the memory that is free here, got {size / 2**30:.1f} GiB; "
            "use a larger machine, or check where it comes from"
        )


def _of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def _of_container() -> int | None:
    new = _left(_CGROUP / "memory.max", _CGROUP / "memory.current", _CGROUP / "memory.stat", "inactive_file")
    if new is not None:
        return new
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    most, used, stat = (_OLD_CGROUP / name for name in names)
    return _left(most, used, stat, "total_inactive_file")


def _left(most: Path, used: Path, stat: Path, reclaimable: str) -> int | None:
    """Return what a control group leaves; pages of files that nobody uses count as free."""
    try:
        limit, taken = most.read_text().strip(), int(used.read_text())
        cached = [line.split()[1] for line in stat.read_text().splitlines() if line.startswith(f"{reclaimable} ")]
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - taken + int(cached[0] if cached else 0)) if limit.isdecimal() else None
