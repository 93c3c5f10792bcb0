"""Is this machine, or a cluster, and a store, fit? Looks and touches; changes nothing that stays.

What is found is `ok`, a `warn`ing (it costs speed, bits or safety), or `stop`: it would stop a job, or lets anybody stop one.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from raydd.engine.probe import Node, ask_by_job, ask_nodes, is_open, try_store, versions
from raydd.errors import EngineError
from raydd.store import Folder, cache_folder
from raydd.store.limits import free_memory

Level = Literal["ok", "warn", "stop"]
LEAST_SHARED_MEMORY = 1 << 30
LEAST_MEMORY, LITTLE_MEMORY = 512 << 20, 2 << 30
# S3 refuses a request that is signed a quarter of an hour ago; ages that raydd tells are wrong much sooner.
MUCH_SKEW_S, SOME_SKEW_S = 300.0, 5.0
_SHM = "Ray's object store wants 1 GiB or more: docker's --shm-size, or an emptyDir of medium Memory at /dev/shm"
_MEMORY = "Ray kills tasks where memory runs out: end other programs, or take a larger machine"
_IMAGE = "use one image, or one environment, everywhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that a run leans on.

    Attributes:
        what: What was looked at.
        level: `ok`, `warn` or `stop`.
        detail: What was found.
        remedy: What to do about it; "" where nothing is to be done.
        where: The node, or "" for all, or for this machine.
    """

    what: str
    level: Level
    detail: str
    remedy: str = ""
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "good": self.level == "ok"}

    def line(self) -> str:
        """Return it as people read it."""
        mark = {"ok": "ok  ", "warn": "WARN", "stop": "BAD "}[self.level]
        where, remedy = f"{self.where}: " if self.where else "", f"; {self.remedy}" if self.remedy else ""
        return f"{mark} {self.what:16} {where}{self.detail}{remedy}"


def examine(store: str | None = None, address: str | None = None) -> list[Finding]:
    """Return what was found on a cluster, or, where none is named, on this machine.

    Args:
        store: URL of a store to write to and read from, by every node; or None.
        address: A dashboard's URL, whose cluster examines itself in a job; or the address that a driver attaches to; None:
            `RAY_ADDRESS`, as inside a job, else this machine.

    Raises:
        UserError: When a dashboard's address or token is wrong.
    """
    address = address or os.environ.get("RAY_ADDRESS") or ""
    if not address:
        return _this_machine(store)
    try:
        if address.startswith(("http://", "https://")):
            from raydd.engine.jobs import Jobs

            words = ["--store", store] if store else []
            told = ask_by_job(Jobs(address), words)
            return [Finding(**{key: value for key, value in one.items() if key != "good"}) for one in told]
        from raydd.engine.cluster import attach, set_environment

        os.environ["RAY_ADDRESS"] = address
        set_environment()
        attach(address)
    except EngineError as error:
        return [Finding(what="cluster", level="stop", detail=str(error))]
    return judge(ask_nodes(store), versions(), store)


def judge(nodes: Sequence[Node], ours: dict[str, str], store: str | None) -> list[Finding]:
    """Return what nodes' answers mean; what all have in common is told once.

    Args:
        nodes: What they told.
        ours: Versions of the driver.
        store: The store that they were to touch, or None.
    """
    answered = [node for node in nodes if not node.problem]
    found = [
        Finding(
            what="node",
            level="stop",
            detail=node.problem,
            remedy="see `ray status` and the node's raylet.out; take it out of the cluster, or start it anew",
            where=node.name,
        )
        for node in nodes
        if node.problem
    ]
    if not found:
        found.append(Finding(what="nodes", level="ok", detail=f"{len(nodes)} answered"))
    checks: list[tuple[str, Callable[[Node], Iterator[Finding]], str]] = [
        ("versions", lambda node: _versions_of(node, ours), _spoken(ours)),
        ("/dev/shm", _shared_memory_of, f"{_least(answered, 'shared_memory'):.1f} GiB free or more"),
        ("memory", _memory_of, f"{_least(answered, 'memory'):.1f} GiB free or more"),
        ("GPUs", _gpus_of, _all_gpus(answered)),
        ("clock", _clock_of, f"within {SOME_SKEW_S:.0f} s of the driver's"),
        ("authentication", _auth_of, "by token"),
        ("dashboard", _dashboard_of, "not open to others"),
    ]
    if store is not None:
        checks.append(("store", _store_of, f"{store}: every node writes, reads, lists, creates, deletes"))
    for what, check, well in checks:
        ill = [finding for node in answered for finding in check(node)]
        found += ill or ([Finding(what=what, level="ok", detail=well)] if answered else [])
    return found


def _spoken(told: dict[str, str]) -> str:
    return ", ".join(f"{name} {text or 'missing'}" for name, text in told.items())


def _least(nodes: Sequence[Node], what: str) -> float:
    return min((getattr(node, what) or 0 for node in nodes), default=0) / 2**30


def _all_gpus(nodes: Sequence[Node]) -> str:
    names = Counter(name for node in nodes for name in node.torch_gpus or ())
    return ", ".join(f"{count} x {name}" for name, count in names.items()) or "none; runs use CPUs"


def _versions_of(node: Node, ours: dict[str, str]) -> Iterator[Finding]:
    for name, expected in ours.items():
        got = node.versions.get(name, "")
        # Of Python the minor version decides, of torch only the last bits do.
        alike = got.split(".")[:2] == expected.split(".")[:2] if name == "python" else got == expected
        if not alike:
            yield Finding(
                what="versions",
                level="warn" if name == "torch" and got else "stop",
                detail=f"expected {name} {expected}, as the driver has, got {got or 'none'}",
                remedy=f"{_IMAGE}{'; results differ in their last bits' if name == 'torch' and got else ''}",
                where=node.name,
            )


def _shared_memory_of(node: Node) -> Iterator[Finding]:
    if node.shared_memory < LEAST_SHARED_MEMORY:
        detail = f"{node.shared_memory / 2**30:.1f} GiB free"
        yield Finding(what="/dev/shm", level="warn", detail=detail, remedy=_SHM, where=node.name)


def _memory_of(node: Node) -> Iterator[Finding]:
    if node.memory is not None and node.memory < LITTLE_MEMORY:
        level: Level = "stop" if node.memory < LEAST_MEMORY else "warn"
        detail = f"{node.memory / 2**30:.1f} GiB free"
        yield Finding(what="memory", level=level, detail=detail, remedy=_MEMORY, where=node.name)


def _gpus_of(node: Node) -> Iterator[Finding]:
    seen = node.torch_gpus
    if node.gpus and (seen is None or len(seen) < node.gpus):
        got = node.gpu_problem or f"{len(seen or ())} of them"
        yield Finding(
            what="GPUs",
            level="stop",
            detail=f"Ray gives out {node.gpus:g}, torch sees {got}",
            remedy="see `nvidia-smi` there: the driver must be new enough for torch's CUDA, and the container given the GPUs",
            where=node.name,
        )


def _clock_of(node: Node) -> Iterator[Finding]:
    if abs(node.skew_s) > SOME_SKEW_S:
        ahead = "ahead of" if node.skew_s > 0 else "behind"
        yield Finding(
            what="clock",
            level="stop" if abs(node.skew_s) > MUCH_SKEW_S else "warn",
            detail=f"{abs(node.skew_s):.0f} s {ahead} the driver's",
            remedy="let NTP set it; S3 refuses what is signed a quarter of an hour off, and ages of runs are told wrongly",
            where=node.name,
        )


def _auth_of(node: Node) -> Iterator[Finding]:
    if node.auth != "token":
        yield Finding(
            what="authentication",
            level="warn",
            detail=f"{node.auth}: whoever reaches a port of Ray's runs code there",
            remedy="start Ray with RAY_AUTH_MODE=token and one token everywhere (`ray get-auth-token --generate`)",
            where=node.name,
        )


def _dashboard_of(node: Node) -> Iterator[Finding]:
    opened = [address for address in node.listens if is_open(address)]
    if opened:
        guarded = node.auth == "token"
        yield Finding(
            what="dashboard",
            level="warn" if guarded else "stop",
            detail=f"listens at {', '.join(opened)}"
            + (
                ", where its token travels in plain text"
                if guarded
                else " without a token: anybody there runs and stops jobs"
            ),
            remedy="start the head with --dashboard-host=127.0.0.1 and tunnel to it, or let a network policy close it",
            where=node.name,
        )


def _store_of(node: Node) -> Iterator[Finding]:
    if node.store:
        remedy = (
            "give that node the same endpoint, region and right to the bucket; its keys come from its own environment"
        )
        yield Finding(what="store", level="stop", detail=node.store, remedy=remedy, where=node.name)


def _this_machine(store: str | None) -> list[Finding]:
    shared = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0
    here = Node(name="", shared_memory=shared, memory=free_memory())
    found = [_versions(), Finding(what="processors", level="ok", detail=f"{os.cpu_count()} CPUs, {platform.machine()}")]
    found += list(_shared_memory_of(here)) or [_free("/dev/shm", shared)]
    found += list(_memory_of(here)) or [_free("memory", here.memory)]
    found += [_gpus(), _cache(), *_token()]
    return found + ([_store(store)] if store else [])


def _free(what: str, count: int | None) -> Finding:
    return Finding(what=what, level="ok", detail="unknown" if count is None else f"{count / 2**30:.1f} GiB free")


def _versions() -> Finding:
    from importlib.metadata import version

    told = {**versions(), **{name: version(name) for name in ("webdataset", "s3fs")}}
    return Finding(what="versions", level="ok", detail=_spoken(told))


def _gpus() -> Finding:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding(what="GPUs", level="ok", detail=", ".join(names) or "none; runs use CPUs")


def _cache() -> Finding:
    folder = cache_folder()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    good = there.is_dir() and os.access(there, os.W_OK)
    state = f"{shutil.disk_usage(there).free / 2**30:.1f} GiB free" if good else f"{there} cannot be written"
    detail, other = f"decoded images: {folder}, {state}", "RAYDD_CACHE names another folder"
    return Finding(what="cache", level="ok" if good else "stop", detail=detail, remedy=other)


def _token() -> list[Finding]:
    """Return what is wrong with the file of this user's token; nothing where it is well, or there is none."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError:
        return []
    if not mode & 0o077:
        return []
    detail = f"others on this machine may read {file} (mode {mode:o})"
    return [Finding(what="token", level="warn", detail=detail, remedy=f"chmod 600 {file}")]


def _store(url: str) -> Finding:
    problem = try_store(url)
    well = f"{Folder(url).url}: write, read, list, create-if-absent, delete" if not problem else ""
    return Finding(what="store", level="stop" if problem else "ok", detail=problem or well)
