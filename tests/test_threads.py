"""Threads that nobody has to wait for."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from raydd.threads import Threads


def test_what_is_given_is_done_in_order_and_its_errors_are_met() -> None:
    threads, seen = Threads("one"), []
    done = [threads.submit(lambda i=i: seen.append(i)) for i in range(20)]

    def fail() -> None:
        raise KeyboardInterrupt("made to fail")

    failed, after = threads.submit(fail), threads.submit(lambda: "still there")
    with pytest.raises(KeyboardInterrupt, match="made to fail"):
        failed.result(60)
    assert after.result(60) == "still there"
    assert threads.close(60)
    assert threads.close(60)
    assert seen == list(range(20))
    assert all(future.done() for future in done)


def test_several_work_at_once() -> None:
    threads, meeting = Threads("three", 3), threading.Barrier(3)
    places = [threads.submit(lambda: meeting.wait(60)) for _ in range(3)]
    assert sorted(place.result(60) for place in places) == [0, 1, 2]
    assert threads.close(60)


def test_closing_does_not_wait_for_what_hangs() -> None:
    threads, gate, begun = Threads("hangs"), threading.Event(), threading.Event()
    hanging = threads.submit(lambda: begun.set() or gate.wait(60))
    never = threads.submit(lambda: None)
    assert begun.wait(60)
    assert not threads.close(0.01, drop=True)
    assert never.cancelled()
    assert not hanging.done()
    gate.set()
    assert hanging.result(60) is True


HANGS = """
import sys, tempfile, threading
from raydd.store import Folder, commit
from raydd.threads import Threads

Folder.write = lambda *_: threading.Event().wait()
Threads("writer").submit(lambda: commit(Folder(tempfile.gettempdir()), {"x": b""}, meta={}))
sys.exit(3)
"""


def test_an_interpreter_ends_though_a_write_hangs() -> None:
    """Both the thread that commits and those that it lets write."""
    assert subprocess.run([sys.executable, "-c", HANGS], timeout=120, check=False).returncode == 3
