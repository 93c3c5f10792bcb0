"""The engine under fire: on one cluster of small nodes on this machine, one thing after another dies in mid-run.

`python -m tests.engine.nodes` prints the table of the README: what the run does, and how long it takes. With a path, what
happened is written there as JSON; `test_faults.py` reads it. A process of its own, since another cluster may live in pytest's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
import torch
from ray.cluster_utils import Cluster

import raydd
from raydd.api import Silent
from raydd.config import Config, EngineConfig
from raydd.data.pack import pack
from raydd.engine import cluster as crew
from raydd.engine import faults, openings, waiting
from raydd.engine.cluster import Hand, keep_workers
from raydd.engine.coordinator import Progress
from raydd.engine.distributed import RayExecutor
from raydd.errors import RaydError
from tests.engine.toys import bits, toy

# Ray reads them when it is imported: a process without them starts itself anew.
ENV = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "MALLOC_ARENA_MAX": "1",
}
AT, CHECKPOINT, ROUNDS = 6, 4, 16
LOOK_S, PING_S, REPLACE_S, LOSSES = 1.0, 6.0, 60.0, 3
HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
Report = dict[str, Any]


class Disturber(Silent):
    """Does something once so many rounds are done, and notes when the run noticed and when the next round was done."""

    def __init__(self, act: Callable[[], object], times: int = 1) -> None:
        self.act, self.left = act, times
        self.acted = self.noticed = self.again = 0.0
        self.texts: list[str] = []
        self.workers: list[int] = []

    def round(self, progress: Progress) -> None:
        self.workers.append(progress.workers)
        if self.noticed and not self.again:
            self.again = time.monotonic()
        if progress.round == AT and self.left:
            self.left -= 1
            self.acted = self.acted or time.monotonic()
            self.act()

    def heard(self, text: str) -> None:
        self.texts.append(text)
        if self.acted and not self.noticed and text.startswith(("round ", "taking up")):
            self.noticed = time.monotonic()


class Ear(logging.Handler):
    """Passes raydd's log on to whom it concerns."""

    def __init__(self, disturber: Disturber) -> None:
        super().__init__()
        self.disturber = disturber

    def emit(self, record: logging.LogRecord) -> None:
        self.disturber.heard(record.getMessage())


class Fire:
    """The cluster, the data and the undisturbed result."""

    def __init__(self, home: Path, nodes: Cluster) -> None:
        self.home, self.nodes = home, nodes
        self.shards, self.store = str(home / "shards"), str(home / "runs")
        pack("digits", self.shards)
        torch.set_num_threads(1)
        self.truth = bits(raydd.distill(self.config("truth", workers=0)).url)
        self.reports: dict[str, Report] = {}
        self.executor: RayExecutor | None = None
        begin = RayExecutor.__init__

        def watched(executor: RayExecutor, engine: Any) -> None:
            begin(executor, engine)
            self.executor = executor

        RayExecutor.__init__ = watched

    @property
    def hands(self) -> list[Hand]:
        """The run's workers; the first has slot 0."""
        assert self.executor is not None
        return self.executor.hands

    def config(self, name: str, *, workers: int = 3, **changes: Any) -> Config:
        common = {"method__rounds": ROUNDS, "engine__checkpoint_every": CHECKPOINT, "name": name}
        # Workers that keep the variables do many rounds at a time, in the midst of which nobody here can disturb them.
        common |= {"engine__exchange": "store", "engine__start_timeout_s": 120, "engine__replace_timeout_s": REPLACE_S}
        return toy("dm", changes.pop("shards", self.shards), self.store, workers=workers, **{**common, **changes})

    def run(self, name: str, act: Callable[[], object], *, times: int = 1, **changes: Any) -> Report:
        """Distil while `act` happens; take down what came of it."""
        disturber = Disturber(act, times)
        ear, log = Ear(disturber), logging.getLogger("raydd")
        log.addHandler(ear)
        config = self.config(name.replace(" ", "-").replace(",", ""), **changes)
        report: Report = {"outcome": "", "error": "", "code": 0}
        try:
            run = raydd.distill(config, watcher=disturber)
            report["outcome"] = "same bits" if bits(run.url) == self.truth else "OTHER BITS"
            report["status"] = run.status()
        except RaydError as error:
            ended = time.monotonic()
            report |= {"outcome": "ends", "error": str(error), "code": error.exit_code}
            disturber.noticed, disturber.again = ended, 0.0
        finally:
            log.removeHandler(ear)
        report["checkpoints"] = sorted(
            p.parent.name for p in Path(self.store).glob(f"{config.name}/checkpoints/*/manifest.json")
        )
        report["noticed_s"] = round(disturber.noticed - disturber.acted, 1)
        report["again_s"] = round(disturber.again - disturber.noticed, 1) if disturber.again else None
        report |= {"texts": disturber.texts, "workers": disturber.workers}
        self.reports[name] = report
        sys.stderr.write(
            f"{name}: {json.dumps({k: report[k] for k in ('outcome', 'error', 'noticed_s', 'again_s')})}\n"
        )
        return report


def told(hand: Hand) -> Any:
    return ray.get(hand.actor.ping.remote(), timeout=60)


def ask_each(hands: list[Hand], function: Callable[[Any, Any], Any], item: Any = None) -> None:
    """Do something in workers' own processes."""
    ray.get([hand.actor.call.remote(function, None, item) for hand in hands], timeout=60)


def poison(_: None, slot: int) -> None:
    """Let this slot's gradient of round AT be NaN, once."""
    from dataclasses import replace

    from raydd.methods.dm import DM

    plain, left = DM.contribution, [slot]

    def contribution(self: Any, round: int, slot: Any, *rest: Any) -> Any:
        result = plain(self, round, slot, *rest)
        if round != AT or slot.index not in left:
            return result
        left.remove(slot.index)
        return replace(result, gradients={name: value * float("nan") for name, value in result.gradients.items()})

    contribution.plain = plain
    DM.contribution = contribution


def starve(_: None, megabytes: int) -> None:
    """Let the process have this much more address space, and the method want more than that."""
    import resource

    from raydd.methods.dm import DM

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, -1))

    def contribution(self: Any, *_: Any) -> Any:
        return torch.ones(megabytes * 2**19)

    contribution.plain = DM.contribution
    DM.contribution = contribution


def heal(_: None, __: None) -> None:
    """Undo `poison` and `starve`."""
    import resource

    from raydd.methods.dm import DM

    resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    while hasattr(DM.contribution, "plain"):
        DM.contribution = DM.contribution.plain


def send(number: signal.Signals, pids: list[int]) -> None:
    for each in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


def spread(fire: Fire) -> None:
    """Three groups of one bundle that would all fit on one node: where do they go?"""
    from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

    groups = [placement_group([{"CPU": 0.25}]) for _ in range(3)]
    assert all(group.wait(60) for group in groups)
    where = [placement_group_table(group)["bundles_to_node_id"][0] for group in groups]
    for group in groups:
        remove_placement_group(group)
    fire.reports["placement"] = {"nodes": len(set(where))}


@ray.remote(max_restarts=0)
class Placed:
    """Stands in for a worker where there is no CUDA: says which GPU Ray gave it."""

    def __init__(self, engine: EngineConfig) -> None:
        self.engine = engine

    def ping(self) -> tuple[str, list[int]]:
        return ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()


def gpus(fire: Fire) -> None:
    """Workers that want a whole GPU, or half of one, on two nodes that say that they have one each: where do they go?"""
    added = [fire.nodes.add_node(num_cpus=2, num_gpus=1, wait=False) for _ in range(2)]
    report: Report = {}
    with patch.object(openings, "DistillWorker", Placed):
        for share, count in ((1.0, 2), (0.5, 4)):
            asked = openings.Openings(EngineConfig(workers=count, gpus_per_worker=share))
            hands = asked.fill(count, count, 120)
            report[str(share)] = sorted(told(hand) for hand in hands)
            for hand in hands:
                hand.dismiss()
            asked.close()
    fire.reports["gpus"] = report
    for node in added:
        fire.nodes.remove_node(node, allow_graceful=False)
    deadline = time.monotonic() + 60
    while ray.cluster_resources().get("GPU") and time.monotonic() < deadline:
        time.sleep(0.1)


def killer(fire: Fire, count: int = 1) -> Callable[[], None]:
    return lambda: send(signal.SIGKILL, [told(hand)["pid"] for hand in fire.hands[:count]])


def workers_die(fire: Fire) -> None:
    fire.run("worker killed", killer(fire))
    fire.run("two workers killed at once", killer(fire, 2))
    frozen: list[int] = []

    def freeze() -> None:
        frozen.append(told(fire.hands[0])["pid"])
        send(signal.SIGSTOP, frozen)

    fire.run("worker frozen", freeze)
    send(signal.SIGKILL, frozen)
    fire.run("worker killed that kept its rows", killer(fire), engine__exchange="resident")
    fire.run("worker frozen that others wait for", freeze, engine__exchange="collective")
    send(signal.SIGKILL, frozen)


def workers_err(fire: Fire) -> None:
    fire.run("NaN from one worker", lambda: ask_each(fire.hands[:1], poison, 0))
    fire.run("NaN from every worker", lambda: ask_each(fire.hands, poison, 0))
    ask_each(crew.hired(), heal)
    fire.run("worker without memory", lambda: ask_each(fire.hands[:1], starve, 256))
    ask_each(crew.hired(), heal)
    fire.run("worker killed again and again", killer(fire), times=LOSSES)
    other = fire.home / "corrupt"
    shutil.copytree(fire.shards, other)

    def corrupt() -> None:
        shard = next(other.glob("*.tar"))
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
        killer(fire)()

    fire.run("shard corrupted, worker killed", corrupt, shards=str(other))


def node_of(fire: Fire, hand: Hand) -> Any:
    return next(node for node in fire.nodes.worker_nodes if node.node_id == told(hand)["node"])


def nodes_die(fire: Fire) -> None:
    def lose(hand: Hand) -> None:
        fire.nodes.remove_node(node_of(fire, hand), allow_graceful=False)

    fire.run("node killed, nothing to replace it", lambda: lose(fire.hands[0]), engine__replace_timeout_s=2)

    def gain() -> None:
        fire.nodes.add_node(num_cpus=2, wait=False)
        deadline = time.monotonic() + 90
        while not fire.executor.gained() and time.monotonic() < deadline:
            time.sleep(0.1)

    fire.run("node added", gain, engine__start_timeout_s=1)
    fire.run("node killed, another has room", lambda: lose(alone(fire)))
    frozen: list[int] = []

    def freeze() -> None:
        hand = alone(fire)
        raylet = node_of(fire, hand).all_processes["raylet"][0].process.pid
        frozen.extend([raylet, *beside(fire, hand)])
        send(signal.SIGSTOP, frozen)

    fire.run("node frozen, nothing to replace it", freeze, engine__replace_timeout_s=2)
    send(signal.SIGKILL, frozen)


def alone(fire: Fire) -> Hand:
    """Return a worker that has a node for itself."""
    return next(hand for hand in fire.hands if len(beside(fire, hand)) == 1)


def beside(fire: Fire, hand: Hand) -> list[int]:
    """Return the processes of all workers on a worker's node."""
    all_told = [told(each) for each in fire.hands]
    return [each["pid"] for each in all_told if each["node"] == told(hand)["node"]]


@contextlib.contextmanager
def small_nodes(folder: str) -> Iterator[Cluster]:
    """A head that takes no work, and three nodes of one CPU."""
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH, "temp_dir": folder}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(3):
            nodes.add_node(num_cpus=1, wait=False)
        nodes.wait_for_nodes(120)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def burn(home: Path) -> dict[str, Report]:
    """Let everything happen; return what came of it, by name."""
    logging.getLogger("raydd").setLevel(logging.INFO)
    waiting.LOOK_EVERY_S, waiting.PING_TIMEOUT_S, faults.MOST_LOSSES_OF_A_ROUND = LOOK_S, PING_S, LOSSES
    # Ray's sockets need short paths.
    folder = tempfile.mkdtemp(prefix="rd", dir="/tmp")
    try:
        with small_nodes(folder) as nodes, keep_workers():
            fire = Fire(home, nodes)
            for scenes in (spread, gpus, workers_die, workers_err, nodes_die):
                scenes(fire)
            return fire.reports
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def table(reports: dict[str, Report]) -> str:
    """Return the README's table."""
    lines = ["| event | what the run does | noticed after | next round done after |", "|---|---|---|---|"]
    for name, report in reports.items():
        if name in ("placement", "gpus"):
            continue
        again = "-" if report["again_s"] is None else f"{report['again_s']} s"
        lines.append(f"| {name} | {report['outcome']} | {report['noticed_s']} s | {again} |")
    return "\n".join(lines)


def main() -> None:
    if "RAY_AUTH_TOKEN" not in os.environ:
        os.execve(sys.executable, [sys.executable, "-m", "tests.engine.nodes", *sys.argv[1:]], {**os.environ, **ENV})
    home = Path(tempfile.mkdtemp(prefix="raydd-nodes"))
    try:
        reports = burn(home)
        if sys.argv[1:]:
            Path(sys.argv[1]).write_text(json.dumps(reports, indent=1))
        sys.stdout.write(table(reports) + "\n")
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
