"""Local writes that fail midway leave what was there, and nothing that a reader would believe."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raydd.errors import StoreError
from raydd.store import Folder


def failing(number: int) -> object:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "runs")
    folder.write("x", b"old")
    return folder


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "No space left on device; free some space"),
        (errno.EROFS, "Read-only file system; choose a folder that can be written"),
        (errno.EACCES, "Permission denied; check that this user or key may do that here"),
        (errno.EDQUOT, "free some of the quota"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_write_that_fails_leaves_the_old_file(
    folder: Folder, step: str, number: int, advice: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, step, failing(number))
    with pytest.raises(StoreError, match=advice) as caught:
        folder.write("x", b"new")
    with pytest.raises(StoreError):
        folder.write("y/z", b"new")
    assert str(caught.value).startswith(f"cannot write {folder.url}/x: ")
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert folder.read("x") == b"old"
    assert folder.list() == ["x"]
    assert [name for name in os.listdir(folder.url) if name not in ("x", "y")] == []
    assert waits == []


def test_a_create_that_fails_leaves_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.ENOSPC))
    with pytest.raises(StoreError, match="cannot create"):
        folder.create("lock", b"me")
    monkeypatch.undo()
    assert os.listdir(folder.url) == ["x"]
    assert folder.create("lock", b"me")


def test_a_fault_that_passes_is_tried_again(
    folder: Folder, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, faults = os.replace, [errno.ESTALE, errno.EBUSY]

    def flaky(source: str, target: str) -> None:
        if faults:
            raise OSError(faults.pop(), "for a moment")
        replace(source, target)

    monkeypatch.setattr(os, "replace", flaky)
    folder.write("x", b"new")
    assert folder.read("x") == b"new"
    assert waits == [0.5, 1.0]


@pytest.mark.parametrize(("setting", "tries"), [(None, 6), ("0", 1), ("2", 3)])
def test_tries_are_bounded(
    folder: Folder, setting: str | None, tries: int, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting is not None:
        monkeypatch.setenv("RAYDD_STORE_RETRIES", setting)
    monkeypatch.setattr(os, "replace", failing(errno.ETIMEDOUT))
    with pytest.raises(StoreError, match=f"timed out, {tries} times; check the network"):
        folder.write("x", b"new")
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0][: tries - 1]


@pytest.mark.parametrize("setting", ["-1", "many", "", "1000"])
def test_a_senseless_number_of_retries_is_refused(
    folder: Folder, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYDD_STORE_RETRIES", setting)
    with pytest.raises(StoreError, match="RAYDD_STORE_RETRIES must be a whole number from 0 to 100"):
        folder.read("x")


def test_a_writer_killed_before_the_file_is_moved(folder: Folder) -> None:
    code = (
        "import os, signal, sys; from raydd.store import Folder\n"
        "os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Folder(sys.argv[1]).write(sys.argv[2], b'new')"
    )
    for name in ("x", "d/y"):
        ran = subprocess.run([sys.executable, "-c", code, folder.url, name])
        assert ran.returncode == -signal.SIGKILL
    assert folder.read("x") == b"old"
    assert folder.list() == ["x"]
    assert len(os.listdir(folder.folder("d").url)) == 1  # what it left, hidden
    # A second writer is not disturbed by it, and the last deletion clears it away.
    folder.write("d/y", b"new")
    folder.delete("d/y")
    assert folder.folders() == []
    assert not os.path.exists(folder.folder("d").url)


def test_a_download_that_fails_leaves_the_target(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "t" / "x"
    target.parent.mkdir()
    target.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", failing(errno.ENOSPC))
    with pytest.raises(StoreError, match=f"cannot download {folder.url}/x to {target}: No space left"):
        folder.download("x", target)
    assert os.listdir(target.parent) == ["x"]
    assert target.read_bytes() == b"before"


def test_a_file_in_the_place_of_a_folder(folder: Folder) -> None:
    for operation in (folder.write, folder.create):
        with pytest.raises(StoreError, match="a file stands where a folder is needed"):
            operation("x/y", b"1")
    folder.write("d/y", b"1")
    with pytest.raises(StoreError, match="a folder stands where a file is needed"):
        folder.write("d", b"1")
    assert folder.list() == ["d/y", "x"]


def test_a_folder_pruned_while_writing_is_made_again(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, pruned = os.replace, []

    def once(source: str, target: str) -> None:
        if not pruned:
            pruned.append(source)
            os.unlink(source)
            os.rmdir(os.path.dirname(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", once)
    folder.write("d/y", b"1")
    assert pruned
    assert folder.read("d/y") == b"1"


def test_links_to_folders_are_followed_but_not_in_circles(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "img").write_bytes(b"1")
    os.symlink(tmp_path / "other", folder.local_path / "linked")
    os.symlink(folder.local_path, folder.local_path / "circle")
    os.symlink(tmp_path / "nowhere", folder.local_path / "broken")
    assert folder.list() == ["linked/img", "x"]
