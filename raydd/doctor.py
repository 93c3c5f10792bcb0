"""Is this machine, and a store, fit? Looks and touches; changes nothing that stays."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from importlib.metadata import version

from raydd.errors import RaydError
from raydd.store import Folder, cache_folder

Finding = tuple[str, bool, str]
LEAST_SHARED_MEMORY = 1 << 30


def examine(store: str | None) -> list[Finding]:
    """Return (what, whether it is good, detail) for everything that a run leans on.

    Args:
        store: URL of a store to write to and read from, or None.
    """
    findings = [_versions(), _processors(), _shared_memory(), _gpus(), _cache()]
    return findings + ([_store(store)] if store else [])


def _versions() -> Finding:
    names = ("raydd", "ray", "torch", "webdataset", "s3fs")
    return "versions", True, ", ".join([f"python {platform.python_version()}", *(f"{n} {version(n)}" for n in names)])


def _processors() -> Finding:
    return "processors", True, f"{os.cpu_count()} CPUs, {platform.machine()}"


def _shared_memory() -> Finding:
    free = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    advice = "" if free >= LEAST_SHARED_MEMORY else "; Ray's object store wants 1 GiB or more (docker: --shm-size)"
    return "/dev/shm", free >= LEAST_SHARED_MEMORY, f"{free / 2**30:.1f} GiB free{advice}"


def _gpus() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "GPUs", True, ", ".join(names) or "none; runs use CPUs"


def _cache() -> Finding:
    folder = cache_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    good = there.is_dir() and os.access(there, os.W_OK)
    state = f"{shutil.disk_usage(there).free / 2**30:.1f} GiB free" if good else f"{there} cannot be written"
    return "cache", good, f"decoded images: {folder}, {state}; RAYDD_CACHE names another folder"


def _store(url: str) -> Finding:
    name, data = f"raydd-doctor-{secrets.token_hex(4)}", secrets.token_bytes(1 << 16)
    try:
        folder = Folder(url)
        folder.write(name, data)
        same, listed, new = folder.read(name) == data, name in folder.list(name), folder.create(name, b"")
        folder.delete(name)
    except RaydError as error:
        return "store", False, str(error)
    good = same and listed and not new
    return (
        "store",
        good,
        f"{folder.url}: write, read, list, create-if-absent, delete" + ("" if good else " do not agree"),
    )
