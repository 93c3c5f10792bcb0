from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raydd.errors import EngineError, RunError, StoreError, StoreFault
from raydd.store import Folder, Lease, to_json
from raydd.store.holder import Holder, process_state

HOLD = """
import sys, threading
from raydd.store import Folder, Lease
lease = Lease.acquire(Folder(sys.argv[1]), ttl_s=float(sys.argv[2]))
print(lease.generation, flush=True)
for line in sys.stdin:
    try:
        lease.check()
        print("mine", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""


@contextmanager
def another_driver(folder: Folder, ttl_s: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, folder.url, str(ttl_s)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str]) -> str:
    assert process.stdin is not None
    process.stdin.write("?\n")
    process.stdin.flush()
    return line(process)


def never(seconds: float) -> None:
    raise AssertionError("waited, where nothing needs to be waited for")


@pytest.fixture
def local(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "lease")


def test_generations_follow_each_other(folder: Folder) -> None:
    with Lease.acquire(folder, wait=never) as first:
        assert first.generation == 1
        first.check()
        with pytest.raises(RunError, match=r"expected no other driver on this run, got host .* pid") as caught:
            Lease.acquire(folder, wait=never)
        assert f"pid {os.getpid()}, last heartbeat" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(EngineError, match="generation 1 has been released"):
        first.check()
    second = Lease.acquire(folder, wait=never)
    assert second.generation == 2
    with pytest.raises(EngineError, match=r"lost the lease of generation 1 to generation 2 \(host"):
        first.check()
    first.release()
    second.check()
    second.release()
    second.release()
    assert folder.list() == [f"{kind}-0000000{number}.json" for kind in ("beat", "gen") for number in (1, 2)]


def test_eight_at_once_have_one_winner(folder: Folder) -> None:
    won: list[Lease] = []
    refused: list[RunError] = []
    gate = threading.Barrier(8)

    def contend() -> None:
        gate.wait()
        try:
            won.append(Lease.acquire(folder, wait=never))
        except RunError as error:
            refused.append(error)

    threads = [threading.Thread(target=contend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].check()
    won[0].release()


def test_a_driver_killed_is_replaced_at_once(local: Folder) -> None:
    with another_driver(local) as other:
        assert line(other) == "1"
        with pytest.raises(RunError, match=f"pid {other.pid}, last heartbeat"):
            Lease.acquire(local, wait=never)
        assert ask(other) == "mine"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with Lease.acquire(local, wait=never) as lease:
            assert lease.generation == 2
            lease.check()


@pytest.mark.parametrize("resumes", [False, True])
def test_a_stopped_driver_is_watched_for_its_ttl(local: Folder, resumes: bool) -> None:
    with another_driver(local, ttl_s=1.0) as other:
        assert line(other) == "1"
        os.kill(other.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, other.pid, os.WSTOPPED)
        said: list[str] = []
        waited: list[float] = []
        changed = threading.Event()

        def wait(seconds: float) -> None:
            waited.append(seconds)
            if resumes and len(waited) == 2:
                os.kill(other.pid, signal.SIGCONT)
            changed.wait(seconds)

        if resumes:
            with pytest.raises(RunError, match=f"pid {other.pid}"):
                Lease.acquire(local, wait=wait, say=said.append)
        else:
            with Lease.acquire(local, wait=wait, say=said.append) as lease:
                assert lease.generation == 2
                assert 0.9 <= sum(waited) <= 1.01
                os.kill(other.pid, signal.SIGCONT)
                assert ask(other).startswith(
                    f"EngineError: {local.url}: lost the lease of generation 1 to generation 2 "
                    f"(host {lease.holder.host} pid {os.getpid()}); this driver must stop writing"
                )
                lease.check()
        assert len(said) == 1
        assert f"watching for at most 1 s whether another driver lives (host {os.uname().nodename}" in said[0]


def foreign(**changes: Any) -> dict[str, Any]:
    """The record of a driver on another machine."""
    record = {
        "host": "node7",
        "pid": os.getpid(),
        "start": 1,
        "boot": "b",
        "pid_space": "p",
        "token": "t",
        "ttl_s": 0.2,
    }
    return {**record, **changes}


def put(folder: Folder, record: Any, beat: Any = None) -> None:
    folder.write_json("gen-00000004.json", record)
    if beat is not None:
        folder.write_json("beat-00000004.json", beat)


@pytest.mark.parametrize("beat", [None, {"count": 9, "released": False, "time": "2099-01-01T00:00:00+00:00"}, [], 3])
def test_a_silent_driver_elsewhere_is_replaced_whatever_its_clock_says(folder: Folder, beat: Any) -> None:
    put(folder, foreign(), beat)
    said: list[str] = []
    with Lease.acquire(folder, say=said.append) as lease:
        assert lease.generation == 5
    assert "at most 0.2 s" in said[0]
    assert "host node7" in said[0]


def test_a_driver_elsewhere_that_beats_is_refused(folder: Folder) -> None:
    put(folder, foreign(ttl_s=3600), {"count": 1, "released": False, "time": "1999"})
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        put(folder, foreign(ttl_s=3600), {"count": len(waited), "released": False, "time": "1999"})

    with pytest.raises(RunError, match=r"got host node7 pid .*, last heartbeat 1999; wait for it or stop it"):
        Lease.acquire(folder, wait=wait)
    assert len(waited) == 2  # the first wait wrote the same heartbeat again
    assert folder.list("gen-") == ["gen-00000004.json"]


def test_a_driver_elsewhere_that_releases_is_replaced(folder: Folder) -> None:
    put(folder, foreign(ttl_s=3600), {"count": 1, "released": False})
    released = {"count": 2, "released": True}
    with Lease.acquire(folder, wait=lambda seconds: put(folder, foreign(ttl_s=3600), released)) as lease:
        assert lease.generation == 5


@pytest.mark.parametrize(
    "record",
    [None, [], {}, foreign(pid="1"), foreign(ttl_s=-1), foreign(ttl_s=1e9), foreign(ttl_s=True), foreign(host=1)],
)
def test_a_damaged_record_is_watched_for_our_own_ttl(local: Folder, record: Any) -> None:
    put(local, record)
    waited: list[float] = []
    pause = threading.Event()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        pause.wait(seconds)

    with Lease.acquire(local, ttl_s=0.1, wait=wait) as lease:
        assert lease.generation == 5
    assert 0.05 <= sum(waited) <= 0.11


def test_other_names_in_the_folder_are_passed_over(local: Folder) -> None:
    for name in ("gen-7.json", "gen-0000000x.json", "gen-00000009.json.bak", "gen-000000009.json"):
        local.write(name, b"")
    with Lease.acquire(local, wait=never) as lease:
        assert lease.generation == 1


def test_a_racer_that_comes_late_does_not_win(local: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw no generation, and creates number 1 when number 2 has long been taken."""
    names = Folder.list
    late = [True]

    def stale(self: Folder, prefix: str = "") -> list[str]:
        if late.pop() if late else False:
            self.write("gen-00000002.json", to_json(Holder.this_process(60.0).record()))
            return []
        return names(self, prefix)

    monkeypatch.setattr(Folder, "list", stale)
    with pytest.raises(RunError, match=f"pid {os.getpid()}"):
        Lease.acquire(local, wait=never)


def test_the_heartbeat_goes_on_and_survives_a_fault(local: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, Any]] = []
    enough = threading.Event()

    def write_json(self: Folder, name: str, obj: Any) -> None:
        assert name == "beat-00000001.json"
        written.append(obj)
        if len(written) == 2:
            raise StoreError("made to fail")
        if len(written) >= 4:
            enough.set()

    monkeypatch.setattr(Folder, "write_json", write_json)
    with Lease.acquire(local, ttl_s=0.04) as lease:
        assert enough.wait(20)
        lease.check()
    assert [beat["count"] for beat in written] == list(range(1, len(written) + 1))
    assert [beat["released"] for beat in written] == [False] * (len(written) - 1) + [True]


def test_nobody_waits_for_ever_for_a_release(local: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, gate = Lease.acquire(local), threading.Event()
    monkeypatch.setattr("raydd.store.lease.RELEASE_S", 0.01)
    monkeypatch.setattr(Folder, "write_json", lambda *_: gate.wait(60))
    with pytest.raises(
        StoreFault, match=r"expected the lease to be released within 0.01 s, got no answer; check the store"
    ):
        lease.release()
    gate.set()


def test_leaving_with_a_broken_store_does_not_hide_the_first_error(
    local: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Folder, name: str, obj: Any) -> None:
        raise StoreError("made to fail")

    def work() -> None:
        with Lease.acquire(local):
            monkeypatch.setattr(Folder, "write_json", broken)
            raise KeyError("the run's own error")

    with pytest.raises(KeyError, match="the run's own error"):
        work()


@pytest.mark.parametrize("ttl_s", [0.0, -1.0, float("nan"), 1e6])
def test_a_senseless_ttl_is_refused(local: Folder, ttl_s: float) -> None:
    with pytest.raises(RunError, match="ttl_s must be above 0 and at most 86400"):
        Lease.acquire(local, ttl_s=ttl_s)


def test_the_state_of_processes() -> None:
    own = Holder.this_process(1.0)
    assert own.state() == "running"
    assert Holder.parse(own.record()) == own

    def other(**changes: Any) -> Holder | None:
        return Holder.parse({**own.record(), **changes})

    assert [
        holder.state() if holder else None
        for holder in (
            other(start=own.start + 1),
            other(pid=2**22 + 1),
            other(boot="x"),
            other(boot=""),
            other(pid_space="x"),
            other(host="renamed"),
        )
    ] == ["dead", "dead", "unknown", "unknown", "unknown", "running"]
    assert process_state(2**22 + 1) is None


def test_a_process_with_an_odd_name_is_read_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydd.store.holder._PROC", tmp_path)
    (tmp_path / "12").mkdir()
    fields = " ".join(str(number) for number in range(4, 30))
    (tmp_path / "12" / "stat").write_text(f"12 (a) b) T {fields}\n")
    assert process_state(12) == ("T", 22)  # the state is field 3 and the start time field 22
