"""What others see of a run while it goes on, and that looking never harms it."""

from __future__ import annotations

import json
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import raydd
from raydd.api import Silent
from raydd.catalogue import show
from raydd.data.cache import Hits
from raydd.engine import watching
from raydd.engine.coordinator import Progress
from raydd.engine.metrics import read_metrics
from raydd.errors import ConfigError, EngineError, StoreFault
from raydd.live import run_lines
from raydd.store import Folder
from tests.engine import standins
from tests.engine.toys import distil, toy

LONGEST_S = 60


class Stop(Exception):
    """Whoever watches has seen enough."""


class At(Silent):
    """Does something after certain rounds."""

    def __init__(self, todo: dict[int, Callable[[], Any]]) -> None:
        self.todo = todo

    def round(self, progress: Progress) -> None:
        self.todo.get(progress.round, lambda: None)()


def stop() -> None:
    raise Stop


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return what a condition gives once that is true."""
    until = time.monotonic() + LONGEST_S
    while not (value := condition()):
        assert time.monotonic() < until, "it never came"
        time.sleep(0.01)
    return value


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A status every few milliseconds."""
    monkeypatch.setattr(watching, "STATUS_EVERY_S", 0.02)


def events(run: str) -> list[Any]:
    """Return all events of a run, in the order that TensorBoard reads files in, as tensorboardX understands them."""
    from tensorboardX.crc32c import crc32c
    from tensorboardX.proto.event_pb2 import Event

    def masked(data: bytes) -> int:
        crc = crc32c(data)
        return ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF

    found = []
    for path in sorted(Path(run, "tensorboard").iterdir()):
        data, first = path.read_bytes(), True
        while data:
            size, check = struct.unpack("<QI", data[:12])
            body, after = data[12 : 12 + size], data[12 + size : 16 + size]
            assert (masked(data[:8]), struct.pack("<I", masked(body))) == (check, after)
            event = Event.FromString(body)
            assert (event.file_version == "brain.Event:2") == first
            found += [] if first else [event]
            data, first = data[16 + size :], False
    return found


def scalars(run: str) -> list[tuple[int, str, float]]:
    """Return (step, name, value) of all events."""
    return [(event.step, value.tag, value.simple_value) for event in events(run) for value in event.summary.value]


def expected(run: str) -> list[tuple[int, str, float]]:
    lines = read_metrics(Folder(run))
    single = struct.Struct("<f")
    return [
        (int(line["round"]), name, single.unpack(single.pack(value))[0])
        for line in lines
        for name, value in line.items()
        if name not in ("round", "seconds")
    ]


def test_show_of_a_run_that_goes_on(digits: str, tmp_path: Path, quick: None) -> None:
    config = toy("dm", digits, str(tmp_path), engine__checkpoint_every=2, method__rounds=20)
    run, seen = f"{tmp_path}/dm-0", {}

    def look() -> None:
        seen["live"] = wait_for(lambda: (facts := show(run)).get("round") == 10 and facts)

    raydd.distill(config, watcher=At({10: look}))
    live = seen["live"]
    assert (live["state"], live["rounds"], live["workers"], live["faults"]) == ("running", 20, 0, 0)
    assert live["rounds_per_second"] > 0
    assert live["seconds_left"] > 0
    assert 0 <= live["last_checkpoint"] < 10
    assert live["loss"] == read_metrics(Folder(run))[9]["loss"]
    assert set(live["phase_seconds"]) == {"slots", "update", "checkpoint", "rest"}
    for age in ("heard_s", "last_checkpoint_s"):
        assert 0 <= live[age] < LONGEST_S
    told = dict(run_lines(live))
    assert told["state"].startswith("running, last heard of ")
    assert told["round"] == "10 of 20"
    assert " left" in told["rate"]
    assert told["workers"] == "none, one process"
    assert told["last checkpoint"].startswith(f"round {live['last_checkpoint']}, ")
    done = show(run)
    assert (done["state"], done["round"], done["last_checkpoint"]) == ("finished", 20, 20)
    assert "heard_s" not in done


def test_show_of_a_run_that_has_ended_otherwise(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stop):
        raydd.distill(toy("dm", digits, str(tmp_path)), watcher=At({9: stop}))
    run = f"{tmp_path}/dm-0"
    stopped = show(run)
    assert stopped["state"] == "stopped"
    assert stopped["last_checkpoint"] in (4, 8)
    assert dict(run_lines(stopped))["state"].startswith("stopped, last heard of ")
    # Of a driver on another machine nothing is known but its heartbeat.
    lease = Folder(run).folder("lease")
    lease.write_json("gen-00000001.json", {**lease.record("gen-00000001.json"), "boot": "another"})
    beat = {"count": 3, "released": False, "time": "2020-02-02T02:02:02+00:00"}
    lease.write_json("beat-00000001.json", beat)
    status = Folder(run).record("status.json")
    assert show(run)["state"] == "running", "its status is young"
    Folder(run).write_json("status.json", {**status, "time": beat["time"]})
    silent = show(run)
    assert silent["state"] == "silent"
    assert silent["heard_s"] > 1e8
    lease.write_json("beat-00000001.json", {**beat, "time": 7})
    Folder(run).write_json("status.json", {"state": "running", "time": "then", "nodes": 3, "loss": "<b>"})
    assert show(run)["state"] == "running"
    assert dict(run_lines(show(run)))["workers"] == "none, one process"


def test_a_status_that_cannot_be_written(
    digits: str,
    tmp_path: Path,
    quick: None,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write, failed = Folder.write, []

    def fail(folder: Folder, name: str, data: bytes) -> None:
        beside = threading.current_thread() is not threading.main_thread()
        if name.startswith(("status", "events")) and beside:
            failed.append(name)
            raise StoreFault(f"{name} is not taken")
        write(folder, name, data)

    monkeypatch.setattr(Folder, "write", fail)
    enough = lambda: wait_for(lambda: failed.count("status.json") > 4)  # noqa: E731
    assert distil(toy("dm", digits, str(tmp_path)), watcher=At({3: enough})) == undisturbed["dm"]
    told = [record.message for record in caplog.records if "is not taken" in record.message]
    assert sorted(line.split(" of the run")[0] for line in told) == [
        "cannot write the events",
        "cannot write the status",
    ]


def test_nothing_is_written_under_a_lost_lease(digits: str, tmp_path: Path, quick: None) -> None:
    run = Folder(f"{tmp_path}/dm-0")
    seen: list[bytes] = []

    def lose() -> None:
        wait_for(lambda: run.exists("status.json"))
        lease = run.folder("lease")
        assert lease.create("gen-00000002.json", json.dumps(lease.record("gen-00000001.json")).encode())
        time.sleep(0.2)  # What was on its way has come.
        seen.append(run.read("status.json"))
        time.sleep(0.3)

    with pytest.raises(EngineError, match="lost the lease of generation 1 to generation 2"):
        raydd.distill(toy("dm", digits, str(tmp_path)), watcher=At({6: lose}))
    assert run.read("status.json") == seen[0]


def test_events_are_those_of_the_metrics(digits: str, tmp_path: Path) -> None:
    config = toy("frepo", digits, str(tmp_path))
    distil(config)
    whole = scalars(f"{tmp_path}/frepo-0")
    assert whole == expected(f"{tmp_path}/frepo-0")
    assert [step for step, name, _ in whole if name == "loss"] == list(range(12))
    assert not any(event.HasField("session_log") for event in events(f"{tmp_path}/frepo-0"))
    # Interrupted twice, once after a checkpoint whose events were told and which then was lost.
    again = config.model_copy(update={"name": "again"})
    folder = Folder(f"{tmp_path}/again")

    def committed(round: int) -> None:
        wait_for(lambda: folder.exists(f"checkpoints/{round:08d}/manifest.json"))

    # A checkpoint comes late where the one before it is still being written.
    for first, last in ((0, 4), (4, 8)):
        watcher = At({first + 3: lambda n=first: committed(n), last + 2: lambda n=last: committed(n), last + 3: stop})
        with pytest.raises(Stop):
            raydd.distill(again, watcher=watcher)
    for name in folder.list("checkpoints/00000008/"):
        folder.delete(name)
    assert folder.exists("tensorboard/events.out.tfevents.00000008.raydd")
    distil(again)
    assert scalars(folder.url) == whole
    restarts = [event.step for event in events(folder.url) if event.HasField("session_log")]
    assert restarts == [4]
    times = [event.wall_time for event in events(folder.url)]
    assert times == sorted(times)
    assert abs(times[-1] - time.time()) < LONGEST_S


def test_scores_on_the_way_are_told(digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # They are worked out at the end, here.
    monkeypatch.setattr("raydd.engine.executor.score_in_a_process", lambda *_: None)
    changes = {"data__val_fraction": 0.2, "evaluate__every": 6, "evaluate__repeats": 1, "evaluate__protocol": "dc"}
    raydd.distill(toy("dm", digits, str(tmp_path), **changes))
    scored = [(step, value) for step, name, value in scalars(f"{tmp_path}/dm-0") if name == "val_accuracy"]
    lines = [line for line in read_metrics(Folder(f"{tmp_path}/dm-0")) if "val_accuracy" in line]
    assert scored == [(line["round"], pytest.approx(line["val_accuracy"], rel=1e-6)) for line in lines]
    assert [step for step, _ in scored] == [5, 11]


@pytest.fixture
def trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand-ins for mlflow and wandb; yields the file that tells what they were told."""
    place = tmp_path / "standins"
    place.mkdir()
    standins.put(place)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path / "told.jsonl"))
    monkeypatch.setattr("raydd.engine.tracking.TRACK_EVERY_S", 0.02)
    yield tmp_path / "told.jsonl"
    for name in [name for name in sys.modules if name.split(".")[0] in ("mlflow", "wandb")]:
        del sys.modules[name]


def test_trackers_are_told_once_and_go_on(
    digits: str, tmp_path: Path, trackers: Path, undisturbed: dict[str, bytes]
) -> None:
    config = toy("dm", digits, str(tmp_path), track="[mlflow, wandb]")
    with pytest.raises(Stop):
        raydd.distill(config, watcher=At({11: stop}))
    first = standins.calls(trackers)
    assert [call for call in first if "experiment" in call] == [
        {"experiment": "raydd"},
        {"created": "dm-0", "experiment": "7"},
    ]
    assert {"created": "dm-0", "project": "raydd", "id": None, "resume": None, "ipc": 2} in first
    (params,) = (call["params"] for call in first if "params" in call)
    assert (params["method.ipc"], params["name"]) == ("2", "dm-0")
    assert {"ended": "m1", "status": "KILLED"} in first
    assert {"ended": "w1", "exit_code": 1} in first
    assert distil(config) == undisturbed["dm"]
    second = standins.calls(trackers)[len(first) :]
    assert second[0] == {"again": "m1", "status": "RUNNING"}
    assert {"created": "dm-0", "project": "raydd", "id": "w1", "resume": "allow", "ipc": 2} in second
    losses = {line["round"]: line["loss"] for line in read_metrics(Folder(f"{tmp_path}/dm-0"))}
    steps = [call["step"] for call in first + second if call.get("key") == "loss"]
    assert steps == list(range(12)), "each round once"
    for call in first + second:
        if call.get("key") == "loss":
            assert call["value"] == losses[call["step"]]
    by_wandb = [call for call in first + second if "values" in call]
    assert [call["step"] for call in by_wandb] == list(range(12))
    assert all(call["values"]["loss"] == losses[call["step"]] for call in by_wandb)
    assert {"ended": "m1", "status": "FINISHED"} in second
    assert {"ended": "w1", "exit_code": 0} in second
    assert not (tmp_path / "dm-0" / "tensorboard").exists()


def test_a_tracker_that_fails_ends_no_run(
    digits: str,
    tmp_path: Path,
    trackers: Path,
    undisturbed: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("STANDIN_FAILS", "1")
    assert distil(toy("dm", digits, str(tmp_path), track="[mlflow]")) == undisturbed["dm"]
    told = [record.message for record in caplog.records if "mlflow" in record.message]
    assert told == ["mlflow takes no metrics (no server answers); the run goes on"]


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed(
    name: str, digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ConfigError, match=rf"track names {name}, so its package must be installed, .*`pip install {name}`"
    ):
        raydd.distill(toy("dm", digits, str(tmp_path), track=f"[{name}]"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_tracked_is_no_part_of_the_hash(digits: str, tmp_path: Path) -> None:
    config = toy("dm", digits, str(tmp_path))
    assert config.track == ["tensorboard"]
    assert config.hash("x") == toy("dm", digits, str(tmp_path), track="[]").hash("x")


@pytest.mark.ray
def test_on_ray(digits: str, tmp_path: Path, quick: None, ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where workers are, and the metrics that the cluster collects."""
    from raydd.engine import telemetry

    sums: dict[str, float] = {}

    def inc(metric: Any, value: float, tags: dict[str, str] | None = None) -> None:
        assert value > 0
        name = ".".join([metric.info["name"], *(tags or {}).values()])
        sums[name] = sums.get(name, 0.0) + value

    monkeypatch.setattr(telemetry.Counter, "inc", inc)
    meter = telemetry.CacheMeter("dm")
    for found in (2, 2, 5):
        meter.tell(Hits(found=found, missed=3))
    assert (sums.pop("raydd_cache_hits"), sums.pop("raydd_cache_misses")) == (5, 3)
    run, seen = f"{tmp_path}/frepo-2", {}

    def look() -> None:
        seen.update(wait_for(lambda: (facts := show(run)).get("nodes") and facts))

    raydd.distill(toy("frepo", digits, str(tmp_path), workers=2), watcher=At({8: look}))
    import ray

    (node,) = {node["NodeManagerAddress"] for node in ray.nodes()}
    assert seen["nodes"] == {node: 2}
    assert dict(run_lines(seen))["workers"] == f"2 (2 on {node})"
    assert sums["raydd_rounds"] == 12
    # The variables to each of two workers, and the gradients of five members back.
    variables = Folder(run).read("checkpoints/00000012/variables.safetensors")
    size = sum(value.nbytes for value in safetensors.torch.load(variables).values())
    assert sums["raydd_exchanged_bytes"] == show(run)["exchanged_bytes"] == 12 * 7 * size
    assert "raydd_faults" not in sums
    assert sums["raydd_phase_seconds.slots"] > sums["raydd_phase_seconds.update"] > 0
