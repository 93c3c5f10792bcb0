"""Ray: attaching to a cluster or starting a local one, and hiring workers on it."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from raydd.config import EngineConfig
from raydd.errors import ConfigError, EngineError
from raydd.urls import check_endpoints

# What a worker needs to find a store, and where a node keeps decoded images; secrets come from the cluster's own
# environment or roles, never through Ray.
_STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE")
FORWARDED = (*_STORE, "RAYDD_CACHE")
# Ray runs a worker's methods outside its main thread, where glibc would give them an arena of its own that returns its memory
# to the kernel whatever `keep_heap` says: rounds take 1.6 times as long. It reads this when a process starts.
_WORKER_ENV = {"MALLOC_ARENA_MAX": "1"}
CONNECT_S = 30.0
_log = logging.getLogger("raydd")
_keeping = 0
_idle: list[Hand] = []
_busy: list[Hand] = []
_ours = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker's resources are held: a bundle of a placement group, which goes with the worker where it is `ours`."""

    group: Any
    bundle: int
    ours: bool


@dataclass(slots=True, eq=False)
class Hand:
    """A hired worker: its actor, its place, and what it was hired for.

    `lost` says that it did not answer in time, although it may still answer pings.
    """

    actor: Any
    place: Place
    shape: tuple[Any, ...]
    lost: bool = False

    def dismiss(self) -> None:
        """Kill the actor and give its resources back; waits for nobody, as the actor's node may be frozen."""
        import ray
        from ray.util.placement_group import remove_placement_group

        if self in _busy:
            _busy.remove(self)
        ray.kill(self.actor, no_restart=True)
        if self.place.ours:
            remove_placement_group(self.place.group)


def set_environment() -> None:
    """Set what Ray reads when it is imported; does nothing for a driver that has imported Ray already.

    A local cluster is guarded by a token that nobody else knows, and workers start as plain Python processes even where the
    driver came by `uv run`.
    """
    if "ray" in sys.modules:
        return
    if not os.environ.get("RAY_ADDRESS"):
        # The workers of a local Ray inherit it.
        os.environ.update(_WORKER_ENV)
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # A worker without a GPU of its own sees none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def forwarded() -> dict[str, str]:
    """Return the variables of this process that workers and jobs are told: names and addresses, and no secret.

    Raises:
        StoreError: An endpoint has a password in it.
    """
    check_endpoints()
    return {name: os.environ[name] for name in FORWARDED if name in os.environ}


def check_this_machine(engine: EngineConfig) -> None:
    """Check that a local Ray could hold one worker, where there will be one.

    Raises:
        ConfigError: When this machine has fewer CPUs than one worker wants.
    """
    if not os.environ.get("RAY_ADDRESS"):
        _check_fits(engine, cpus=os.cpu_count() or 1, gpus=None, where="this machine")


def connect(engine: EngineConfig, cpus: int | None = None) -> None:
    """Attach to the cluster that `RAY_ADDRESS` names (as inside a Ray job), else start a local one; once a process.

    Args:
        engine: Says what a worker needs.
        cpus: How many a local one is to have; by default what all workers need.

    Raises:
        ConfigError: When no node could hold one worker, and no autoscaler could bring another.
        EngineError: When the cluster does not answer.
    """
    import ray

    address = os.environ.get("RAY_ADDRESS", "")
    wanted = engine.workers * engine.cpus_per_worker if cpus is None else cpus
    if ray.is_initialized() and _ours and ray.cluster_resources().get("CPU", 0) < wanted:
        release_idle()
        ray.shutdown()
    if not ray.is_initialized():
        _init(address, wanted)
    sizes = _sizes()
    if sizes:
        _check_fits(
            engine,
            cpus=max(size.get("CPU", 0) for size in sizes),
            gpus=max(size.get("GPU", 0) for size in sizes),
            where="the largest node of the cluster",
        )


def attach(address: str) -> None:
    """Attach to a cluster only to look at it.

    Raises:
        EngineError: When it does not answer, or its versions are others.
    """
    import ray

    if not ray.is_initialized():
        _init(address, 0)


def _sizes() -> list[dict[str, float]]:
    """Return the resources of every node that the cluster has or could start; nothing where it may start any."""
    import ray
    from ray._private.state import state

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    config = state.get_cluster_config()
    if config is not None and config.node_group_configs:
        groups = [group for group in config.node_group_configs if group.max_count]
        return [*alive, *(dict(group.resources) for group in groups)]
    # An autoscaler seldom says to what it would grow a cluster.
    return [] if _grows() else alive


def _grows() -> bool:
    """Return whether the cluster's autoscaler may start nodes, as it does where workers come from zero.

    Ray has no public call for this. Version 2 of the autoscaler, KubeRay's, says that it runs; of version 1, that of `ray up`,
    the kinds of nodes it counts tell: where it only looks on, as on every other cluster, they are made of the nodes' ids.
    """
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
    from ray.autoscaler.v2.utils import is_autoscaler_v2
    from ray.experimental.internal_kv import _internal_kv_get

    if is_autoscaler_v2(fetch_from_server=True):
        return True
    status = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
    kinds = status.get("autoscaler_report", {}).get("active_nodes", {})
    return any(not kind.startswith("node_") for kind in kinds)


def _init(address: str, cpus: int) -> None:
    import ray
    from ray.exceptions import RayError

    global _ours
    # Ray puts a handler of its own for SIGTERM; who drives the run has one already.
    _check_listens(address)
    handler = signal.getsignal(signal.SIGTERM)
    told = forwarded()
    common: dict[str, Any] = {"configure_logging": True, "logging_level": logging.WARNING, "log_to_driver": True}
    try:
        if address:
            # A job that was submitted with variables of its own has them in our environment already: they are the same.
            os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
            ray.init(address=address, runtime_env={"env_vars": {**_WORKER_ENV, **told}}, **common)
        else:
            ray.init(
                address="local", num_cpus=max(1, cpus), include_dashboard=False, dashboard_host="127.0.0.1", **common
            )
        _ours = not address
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        where = f"the Ray cluster at {address} (RAY_ADDRESS)" if address else "a local Ray"
        raise EngineError(f"cannot reach {where}: {str(error).splitlines()[0]}") from error
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _check_listens(address: str) -> None:
    """Check that somebody listens at a head's address; where nobody does Ray ends the process.

    Raises:
        EngineError: When nobody does.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "://" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        cause = getattr(error, "strerror", None) or str(error)
        raise EngineError(
            f"cannot reach the Ray cluster at {address} (RAY_ADDRESS): {cause}; start it, or correct the address"
        ) from error


def _check_fits(engine: EngineConfig, *, cpus: float, gpus: float | None, where: str) -> None:
    if engine.cpus_per_worker > cpus:
        raise ConfigError(
            f"engine.cpus_per_worker must be <= {cpus:g}, the CPUs of {where}, got {engine.cpus_per_worker}"
        )
    if gpus is not None and engine.gpus_per_worker > gpus:
        raise ConfigError(
            f"engine.gpus_per_worker must be <= {gpus:g}, the GPUs of {where}, got {engine.gpus_per_worker:g}"
        )


def take_idle(shape: tuple[Any, ...], most: int) -> list[Hand]:
    """Return up to `most` workers of a shape that were kept from an earlier run."""
    kept = [hand for hand in _idle if hand.shape == shape][:most]
    for hand in kept:
        _idle.remove(hand)
    return kept


def engage(hands: list[Hand]) -> None:
    """Count workers among those that this process holds."""
    _busy.extend(hands)


def hired() -> list[Hand]:
    """Return the workers that this process holds, busy ones first."""
    return [*_busy, *_idle]


def release(hands: list[Hand]) -> None:
    """Dismiss workers, or keep them idle where `keep_workers` is in force."""
    for hand in hands:
        if _keeping:
            _busy.remove(hand)
            _idle.append(hand)
        else:
            hand.dismiss()


def release_idle() -> None:
    """Dismiss all workers that are kept idle."""
    while _idle:
        _idle.pop().dismiss()


@contextlib.contextmanager
def keep_workers() -> Iterator[None]:
    """Keep workers between the runs of this block: the next run takes them over and need not start processes."""
    global _keeping
    _keeping += 1
    try:
        yield
    finally:
        _keeping -= 1
        if not _keeping:
            release_idle()
