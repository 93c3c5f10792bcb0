"""What every node of a cluster tells of itself: versions, GPUs, memory, store, clock, token. Judged by `raydd.doctor`.

Each node is asked by a task that may run nowhere else and takes no resources; nobody is waited for without an end.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from raydd.engine.jobs import POLL_S, Jobs
from raydd.errors import EngineError, RaydError
from raydd.store import Folder
from raydd.store.limits import free_memory

ANSWER_S = 120.0
CLOCK_S = 20.0
JOB_S = 300.0
GPU_S = 90.0
PACKAGES = ("raydd", "ray", "torch")
_GPUS = (
    "import json, torch; print(json.dumps([torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]))"
)
_LISTENS = "0A"
_LOOPBACK = ("127.", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node tells.

    Attributes:
        name: Host name and address.
        head: Whether the cluster's head runs on it.
        versions: Of Python and of raydd, ray and torch; "" for what is not installed.
        shared_memory: Free bytes of /dev/shm.
        memory: Free bytes of memory, by machine and container; None where neither tells.
        gpus: How many GPUs Ray gives out there.
        torch_gpus: Names of the GPUs that torch sees; None where it was not asked, as there are none to give out.
        gpu_problem: Why torch could not be asked, or "".
        auth: `token`, or what else Ray's processes there take for authentication.
        store: What a store said, None where none was asked: "" for all is well, else the problem.
        skew_s: By how much its clock is ahead of the asker's, in seconds; between what was said and heard counts as 0.
        listens: Of the dashboard's port, the addresses it listens at there.
        problem: Why it did not answer, or "".
    """

    name: str
    head: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    shared_memory: int = 0
    memory: int | None = None
    gpus: float = 0.0
    torch_gpus: tuple[str, ...] | None = None
    gpu_problem: str = ""
    auth: str = ""
    store: str | None = None
    skew_s: float = 0.0
    listens: tuple[str, ...] = ()
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def look(store: str | None, mark: str | None, gpus: float, dashboard: int | None) -> dict[str, Any]:
    """Return what this machine tells, as fields of a `Node`; run on each.

    Args:
        store: URL of a store to write to and read from, or None.
        mark: Name of a file there that the asker has written, or None.
        gpus: How many GPUs Ray gives out here; torch is asked only where there are some, as that takes seconds.
        dashboard: The dashboard's port, or None.
    """
    names, problem = _torch_gpus() if gpus else (None, "")
    return {
        "versions": versions(),
        "shared_memory": shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0,
        "memory": free_memory(),
        "torch_gpus": names,
        "gpu_problem": problem,
        "auth": os.environ.get("RAY_AUTH_MODE", "") or "disabled",
        "store": None if store is None else try_store(store, mark),
        "listens": () if dashboard is None else tuple(listening(dashboard)),
    }


def versions() -> dict[str, str]:
    """Return versions of Python, raydd, Ray and torch here."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _torch_gpus() -> tuple[tuple[str, ...] | None, str]:
    """Ask torch in a process of its own: Ray hides the GPUs from a task that has none."""
    env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    try:
        done = subprocess.run([sys.executable, "-c", _GPUS], env=env, capture_output=True, text=True, timeout=GPU_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["torch ended without a word"])[-1]
    return tuple(json.loads(done.stdout.splitlines()[-1])), ""


def try_store(url: str, mark: str | None = None) -> str:
    """Write to a store, read, list, create, delete; return what is wrong, "" where nothing is.

    Args:
        url: The store.
        mark: Name of a file that somebody else has written there and that must be seen, or None.
    """
    name, data = f"raydd-doctor-{secrets.token_hex(4)}", secrets.token_bytes(1 << 16)
    try:
        folder = Folder(url)
        if mark is not None and not folder.exists(mark):
            return f"{folder.url} is another place there than here: what is written here is not seen there"
        folder.write(name, data)
        try:
            same, listed, new = folder.read(name) == data, name in folder.list(name), folder.create(name, b"")
        finally:
            folder.delete(name)
    except (RaydError, FileNotFoundError) as error:
        return str(error)
    return "" if same and listed and not new else f"{folder.url}: write, read, list and create-if-absent do not agree"


def listening(port: int, tables: tuple[str, ...] = ("/proc/net/tcp", "/proc/net/tcp6")) -> list[str]:
    """Return the addresses of this machine at which somebody listens to a port."""
    found = []
    for table in tables:
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            local, state = row.split()[1], row.split()[3]
            address, _, hexadecimal = local.rpartition(":")
            if state == _LISTENS and int(hexadecimal, 16) == port:
                found.append(_address(address))
    return sorted(set(found))


def _address(text: str) -> str:
    """Return an address as people write it: the kernel has it as words of four bytes, the lowest first."""
    words = [bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8)]
    packed = b"".join(words)
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def is_open(address: str) -> bool:
    """Say whether an address that is listened at is more than this machine's own."""
    return not address.startswith(_LOOPBACK) and not address.startswith("::ffff:127.")


def ask_nodes(store: str | None, *, answer_s: float = ANSWER_S) -> list[Node]:
    """Ask every living node of the cluster that this process is attached to.

    Args:
        store: URL of a store that each is to write to and read from, or None.
        answer_s: How long they may take.
    """
    mark = None if store is None else _mark(store)
    try:
        return _ask(store, mark, answer_s)
    finally:
        if store is not None and mark is not None:
            # Whoever may write but not delete is told by what the nodes found.
            with contextlib.suppress(RaydError):
                Folder(store).delete(mark)


def _mark(store: str) -> str | None:
    """Write a file that all nodes must see; return its name, None where the store does not even let us."""
    name = f"raydd-doctor-{secrets.token_hex(4)}"
    try:
        Folder(store).write(name, b"")
    except RaydError:
        return None
    return name


def _ask(store: str | None, mark: str | None, answer_s: float) -> list[Node]:
    import ray

    port, deadline = _dashboard_port(), time.monotonic() + answer_s
    alive = [node for node in ray.nodes() if node["Alive"]]
    asked = [(node, _on(node, look, store, mark, _gpus(node), port if _is_head(node) else None)) for node in alive]
    found = []
    for node, reference in asked:
        told = _answer(reference, deadline - time.monotonic())
        where = {"name": _name(node), "head": _is_head(node), "gpus": _gpus(node)}
        if isinstance(told, str):
            found.append(Node(**where, problem=told))
        else:
            found.append(Node(**told, **where, skew_s=_skew(node)))
    return found


def _on(node: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a node and on no other; takes no resources, so that a busy node answers as well."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments)


def _answer(reference: Any, seconds: float) -> Any:
    """Return what a node said, or why it did not, as text."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    try:
        return ray.get(reference, timeout=max(1.0, seconds))
    except GetTimeoutError:
        ray.cancel(reference, force=True)
        return "did not answer in time"
    except RayError as error:
        return " ".join(str(error).split())[:200]


def _skew(node: dict[str, Any]) -> float:
    """Return by how much a node's clock is ahead; its process is up by now, so that the answer takes no time."""
    before = time.time()
    told = _answer(_on(node, _now), CLOCK_S)
    after = time.time()
    if isinstance(told, str):
        return 0.0
    return min(0.0, told - before) + max(0.0, told - after)


def _now() -> float:
    return time.time()


def _gpus(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("GPU", 0))


def _is_head(node: dict[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _dashboard_port() -> int | None:
    """Return the dashboard's port; Ray has no public call for it."""
    from ray._private.ray_constants import DASHBOARD_ADDRESS, KV_NAMESPACE_DASHBOARD
    from ray.experimental.internal_kv import _internal_kv_get

    told = _internal_kv_get(DASHBOARD_ADDRESS, namespace=KV_NAMESPACE_DASHBOARD) or b""
    port = told.decode().rpartition(":")[2]
    return int(port) if port.isdecimal() and int(port) else None


def ask_by_job(jobs: Jobs, words: list[str], limit_s: float = JOB_S) -> list[dict[str, Any]]:
    """Let a Ray job examine its own cluster; return the findings that it prints.

    Args:
        jobs: The cluster's jobs.
        words: Further words for `raydd doctor`.
        limit_s: How long it may take.

    Raises:
        EngineError: When it says nothing that can be read, or does not end.
    """
    id = jobs.submit("doctor", ["doctor", "--json", *words])
    deadline = time.monotonic() + limit_s
    while not (state := jobs.state(id)).over:
        if time.monotonic() > deadline:
            jobs.cancel(id)
            raise EngineError(
                f"expected the job {id} at {jobs.address} to end in {limit_s:.0f} s, got {state.status} ({state.message}); see "
                "`ray status` on the cluster"
            )
        time.sleep(POLL_S)
    lines = jobs.logs(id).splitlines()
    told = next((line for line in reversed(lines) if line.startswith('{"findings"')), None)
    if told is None:
        said = next((line for line in reversed(lines) if line.strip()), state.message)
        raise EngineError(f"expected findings of the job {id} at {jobs.address}, got {said!r}; see `raydd logs {id}`")
    return json.loads(told)["findings"]
