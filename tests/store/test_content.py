"""What comes from elsewhere is kept by content: fetched once, checked always, gone on with, bounded."""

from __future__ import annotations

import fcntl
import logging
import os
import random
import secrets
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from raydd.errors import IntegrityError, StoreError
from raydd.store import Folder, content, digest, read_content
from tests.data.makers import tree
from tests.s3 import Proxy

DATA = random.Random(0).randbytes(10_500)
ENTRY = digest(DATA)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own; ranges of a thousand bytes."""
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "RANGE_BYTES", 1000)
    return tmp_path / "cache" / "content"


@pytest.fixture
def there() -> Folder:
    """A folder elsewhere, with a file."""
    folder = Folder(f"memory://{secrets.token_hex(6)}")
    folder.write("x", DATA)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges that were asked for."""
    seen: list[tuple[int, int]] = []
    read_ranges = Folder.read_ranges

    def counted(self: Folder, requests: list[tuple[str, int, int]]) -> list[bytes]:
        seen.extend((start, end) for _, start, end in requests)
        return read_ranges(self, requests)

    monkeypatch.setattr(Folder, "read_ranges", counted)
    return seen


def test_fetched_once_whatever_the_url(there: Folder, root: Path, asked: list[tuple[int, int]]) -> None:
    assert read_content(there, "x", ENTRY) == DATA
    assert asked == [(at, min(at + 1000, 10_500)) for at in range(0, 10_500, 1000)]
    asked.clear()
    there.write("y", b"of the same contents, it is believed")
    assert read_content(there, "x", ENTRY) == read_content(there, "y", ENTRY) == DATA
    assert asked == []
    assert tree(root) == {ENTRY.sha256: DATA}
    there.write("empty", b"")
    assert read_content(there, "empty", digest(b"")) == b""


def test_local_files_are_read_in_place(tmp_path: Path, root: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    heard: list[int] = []
    assert read_content(Folder(tmp_path), "x", ENTRY, heard.append) == DATA
    assert heard == [len(DATA)]
    assert not root.parent.exists()


def test_how_much_has_come_is_told(there: Folder, root: Path) -> None:
    root.mkdir(parents=True)
    (root / f"{ENTRY.sha256}.part").write_bytes(DATA[:8000])
    heard: list[int] = []
    read_content(there, "x", ENTRY, heard.append)
    assert heard == [9000, 10_000, 10_500, 10_500]


def test_damage_in_the_cache_is_noticed(
    there: Folder, root: Path, asked: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    for damaged in (DATA[:-1], DATA[:-1] + b"?", b"", DATA + b"?"):
        root.mkdir(parents=True, exist_ok=True)
        (root / ENTRY.sha256).write_bytes(damaged)
        asked.clear()
        with caplog.at_level(logging.WARNING, "raydd"):
            assert read_content(there, "x", ENTRY) == DATA
        assert len(asked) == 11
    assert caplog.messages == [f"{root / ENTRY.sha256} is damaged: it is fetched again"] * 4
    assert tree(root) == {ENTRY.sha256: DATA}


@pytest.mark.parametrize(
    ("kept", "fetched"),
    [(DATA[:4000], 7), (DATA[:4999], 7), (DATA[:999], 11), (DATA, 1), (b"?" * 4000, 7 + 11), (DATA + b"?", 11)],
)
def test_what_is_there_is_gone_on_with(
    kept: bytes, fetched: int, there: Folder, root: Path, asked: list[tuple[int, int]]
) -> None:
    root.mkdir(parents=True)
    (root / f"{ENTRY.sha256}.part").write_bytes(kept)
    assert read_content(there, "x", ENTRY) == DATA
    assert len(asked) == fetched
    assert tree(root) == {ENTRY.sha256: DATA}


def test_an_interruption_keeps_what_has_come(there: Folder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_ranges, calls = Folder.read_ranges, []

    def fails(self: Folder, requests: list[tuple[str, int, int]]) -> list[bytes]:
        calls.append(requests)
        if len(calls) == 2:
            raise StoreError("made to fail")
        return read_ranges(self, requests)

    monkeypatch.setattr(Folder, "read_ranges", fails)
    with pytest.raises(StoreError, match="made to fail"):
        read_content(there, "x", ENTRY)
    assert tree(root) == {f"{ENTRY.sha256}.part": DATA[:4000]}
    assert read_content(there, "x", ENTRY) == DATA
    assert [request[0][1] for request in calls] == [0, 4000, 4000, 8000]


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (DATA[:-1] + b"?", rf"x: expected sha256 {ENTRY.sha256}, got .*: the file has been altered"),
        (DATA[:-1], r"x: expected 10500 bytes, got 10499"),
        (DATA + b"?", r"x: expected 10500 bytes, got 10501"),
        (None, r"x: expected 10500 bytes, got no file"),
    ],
)
def test_damage_in_the_store_is_refused_and_not_kept(
    damaged: bytes | None, said: str, there: Folder, root: Path, asked: list[tuple[int, int]]
) -> None:
    there.delete("x") if damaged is None else there.write("x", damaged)
    with pytest.raises(IntegrityError, match=said):
        read_content(there, "x", ENTRY)
    assert tree(root) == {}
    assert sum(end - start for start, end in asked) <= ENTRY.size


def test_it_is_bounded(there: Folder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_BYTES", 25_000)
    entries = {}
    for number, name in enumerate("abcd"):
        data = bytes([number]) * 10_000
        there.write(name, data)
        entries[name] = digest(data)
    (root).mkdir(parents=True)
    (root / f"{'0' * 64}.part").write_bytes(b"left long ago")
    os.utime(root / f"{'0' * 64}.part", (0, 0))
    for name in ("a", "b", "a", "c"):
        read_content(there, name, entries[name])
        for kept in root.iterdir():  # as if a second went by
            os.utime(kept, ns=(0, kept.stat().st_mtime_ns - 10**9))
    assert set(tree(root)) == {entries["a"].sha256, entries["c"].sha256}
    monkeypatch.setattr(content, "MOST_BYTES", 5000)
    held = root / f"{'1' * 64}.part"
    with held.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.utime(held, (0, 0))
        read_content(there, "d", entries["d"])
    assert set(tree(root)) == {entries["d"].sha256, held.name}, "the newest stays, and what somebody fetches"


def test_a_cache_that_cannot_be_used_is_told_of(
    there: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING, "raydd"):
        assert read_content(there, "x", ENTRY) == DATA
    assert "x is not kept on this machine: " in caplog.text
    assert "Not a directory" in caplog.text
    assert "RAYDD_CACHE names another folder" in caplog.text


def test_a_full_disk_is_no_end(there: Folder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(content.os, "fsync", full)
    assert read_content(there, "x", ENTRY) == DATA
    assert tree(root) == {}, "what did not fit is not left to fill it"


def test_nobody_waits_for_one_who_stands_still(there: Folder, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "STALL_S", 0.2)
    root.mkdir(parents=True)
    with (root / f"{ENTRY.sha256}.part").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_content(there, "x", ENTRY) == DATA
    assert tree(root) == {ENTRY.sha256: DATA, f"{ENTRY.sha256}.part": b""}


SCRIPT = """
import hashlib, sys
from raydd.store import Entry, Folder, read_content

url, size, sha256 = sys.argv[1:]
print("ready", flush=True)
print(hashlib.sha256(read_content(Folder(url), "x", Entry(int(size), sha256))).hexdigest())
"""


@pytest.mark.s3
def test_many_processes_fetch_it_once(proxy: Proxy, s3_url: str) -> None:
    data = random.Random(1).randbytes(9 << 20)
    entry, folder = digest(data), Folder(f"{s3_url}/{secrets.token_hex(4)}")
    folder.write("x", data)
    proxy.sent.clear()
    all_ready = threading.Event()

    def held(method: str, path: str) -> None:
        if method == "GET":
            all_ready.wait(120)

    proxy.fault = held
    words = [sys.executable, "-c", SCRIPT, folder.url, str(entry.size), entry.sha256]
    programs = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
        all_ready.set()
        assert [program.communicate(timeout=200)[0] for program in programs] == [f"{entry.sha256}\n"] * 4
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    assert sorted(size for _, size in proxy.sent) == [1 << 20, 4 << 20, 4 << 20]
