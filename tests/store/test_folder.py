"""Every operation of a folder, alike on local disk, in memory and on S3."""

from __future__ import annotations

import os
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raydd.errors import IntegrityError, StoreError
from raydd.store import Folder, from_json, to_json

BIG = random.Random(0).randbytes((4 << 20) + 12345)  # a little more than one stream chunk


def test_write_read_overwrite(folder: Folder) -> None:
    folder.write("a/b.bin", b"first")
    assert folder.read("a/b.bin") == b"first"
    folder.write("a/b.bin", b"second one")
    assert folder.read("a/b.bin") == b"second one"
    assert folder.size("a/b.bin") == 10
    folder.write("empty", b"")
    assert folder.read("empty") == b""
    assert folder.read("empty", 0, 1) == b""
    assert folder.size("empty") == 0


def test_read_parts(folder: Folder) -> None:
    folder.write("x", b"0123456789")
    assert folder.read("x", 2, 5) == b"234"
    assert folder.read("x", 7) == b"789"
    assert folder.read("x", end=3) == b"012"
    assert folder.read("x", 8, 100) == b"89"
    assert folder.read("x", 50, 60) == b""
    assert folder.read("x", 4, 4) == b""
    with pytest.raises(ValueError, match="start and end must be >= 0, got -1"):
        folder.read("x", -1)


def test_read_ranges_of_several_files_in_order(folder: Folder) -> None:
    folder.write("x", b"0123456789")
    folder.write("d/y", b"abcdef")
    requests = [("d/y", 1, 3), ("x", 9, 10), ("x", 0, 4), ("d/y", 6, 6), ("x", 5, 5)]
    assert folder.read_ranges(requests) == [b"bc", b"9", b"0123", b"", b""]
    assert folder.read_ranges([]) == []
    with pytest.raises(IntegrityError, match=r"x: expected bytes 8 to 12, got 2 of them: truncated$"):
        folder.read_ranges([("x", 0, 1), ("x", 8, 12)])
    with pytest.raises(IntegrityError, match="expected bytes 80 to 90, got 0"):
        folder.read_ranges([("x", 80, 90)])
    with pytest.raises(FileNotFoundError, match=r"/d/z: no such file$"):
        folder.read_ranges([("x", 0, 1), ("d/z", 0, 1)])
    with pytest.raises(ValueError, match="0 <= start <= end"):
        folder.read_ranges([("x", 3, 2)])


def test_absent_is_file_not_found_or_none(folder: Folder) -> None:
    folder.write("d/x", b"1")
    for name in ("y", "d", "d/x/z", "e/f"):
        assert folder.size(name) is None
        assert not folder.exists(name)
        with pytest.raises(FileNotFoundError, match=f"cannot read {folder.url}/{name}: no such file"):
            folder.read(name)
        with pytest.raises(FileNotFoundError):
            folder.open(name)


def test_create_only_if_absent(folder: Folder) -> None:
    assert folder.create("d/lock", b"mine")
    assert not folder.create("d/lock", b"yours")
    assert not folder.create("d/lock", b"mine")
    assert folder.read("d/lock") == b"mine"
    assert folder.list() == ["d/lock"]


def test_create_race_has_one_winner(folder: Folder) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: folder.create("lock", b"holder %d" % i), range(8)))
    assert sum(won) == 1
    assert folder.read("lock") == b"holder %d" % won.index(True)


def test_lists_and_folders(folder: Folder) -> None:
    assert folder.list() == []
    assert folder.folders() == []
    for name in ("b/2", "b/1", "a/c/3", "top", "b-x"):
        folder.write(name, name.encode())
    assert folder.list() == ["a/c/3", "b-x", "b/1", "b/2", "top"]
    assert folder.list("b/") == ["b/1", "b/2"]
    assert folder.list("b") == ["b-x", "b/1", "b/2"]
    assert folder.list("a/c") == ["a/c/3"]
    assert folder.list("nope/x") == []
    assert folder.folders() == ["a", "b"]
    assert folder.folder("a").folders() == ["c"]
    assert folder.folder("a", "c").list() == ["3"]
    # A sibling whose name begins alike is another folder.
    Folder(folder.url + "-2").write("x", b"")
    assert "x" not in "".join(folder.list("to"))
    assert folder.list("") == ["a/c/3", "b-x", "b/1", "b/2", "top"]


def test_listings_are_never_cached(folder: Folder) -> None:
    other = Folder(folder.url)
    folder.write("a/1", b"")
    assert (folder.list(), folder.folders()) == (["a/1"], ["a"])
    other.write("b/2", b"")
    assert (folder.list(), folder.folders()) == (["a/1", "b/2"], ["a", "b"])
    other.delete("a/1")
    assert (folder.list(), folder.folders()) == (["b/2"], ["b"])


def test_delete(folder: Folder) -> None:
    for name in ("a/b/1", "a/b/2", "a/3"):
        folder.write(name, b"x")
    folder.delete()
    folder.delete("a/b/1", "nope", "no/such", "a/3/x", "a/b/2")
    assert folder.list() == ["a/3"]
    assert folder.folder("a").folders() == []
    folder.delete("a/3")
    assert folder.folders() == []


def test_stream_upload_download(folder: Folder, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(BIG)
    folder.upload("d/big", source)
    assert folder.size("d/big") == len(BIG)
    with folder.open("d/big") as stream:
        head = stream.read(100)
        assert head + stream.read() == BIG
    with folder.open("d/big") as stream:
        assert b"".join(iter(lambda: stream.read(1 << 20), b"")) == BIG
    folder.download("d/big", target)
    assert target.read_bytes() == BIG
    assert os.listdir(target.parent) == ["target"]
    with pytest.raises(FileNotFoundError, match="no such file"):
        folder.download("nope", target)
    assert target.read_bytes() == BIG
    with pytest.raises(FileNotFoundError, match="cannot upload"):
        folder.upload("x", tmp_path / "nope")


def test_json_is_canonical(folder: Folder) -> None:
    folder.write_json("x.json", {"b": [1, 2.5, None], "a": "\u00e9"})
    assert folder.read("x.json") == b'{\n "a": "\\u00e9",\n "b": [\n  1,\n  2.5,\n  null\n ]\n}\n'
    assert folder.json("x.json") == {"a": "\u00e9", "b": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("y.json", float("nan"))
    assert not folder.exists("y.json")
    folder.write("bad.json", b'{"a": 1')
    with pytest.raises(IntegrityError, match=r"bad\.json: expected JSON, got 7 bytes"):
        folder.json("bad.json")


@pytest.mark.parametrize("data", [b"", b"\xff", b"[NaN]", b"-Infinity", b"[" * 100_000, b"{'a': 1}"])
def test_hostile_json_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"^here: expected JSON"):
        from_json(data, "here")


def test_equal_objects_are_equal_bytes() -> None:
    assert to_json({"x": 1, "y": {"b": 2, "a": 3}}) == to_json({"y": {"a": 3, "b": 2}, "x": 1})


def test_odd_names_are_taken_literally(folder: Folder) -> None:
    for name in ("a b+c%20.txt", "[x]*?.txt", "n01440764/ILSVRC#1=2&3.JPEG", "..."):
        folder.write(name, name.encode())
        assert folder.read(name) == name.encode()
        assert name in folder.list()
    folder.delete("[x]*?.txt")
    assert len(folder.list()) == 3


@pytest.mark.parametrize(
    "name", ["", "/x", "x/", "a//b", "../x", "a/../b", ".", "./a", "a\nb", "a\x00", ".raydd-tmp-1"]
)
def test_unsafe_names_are_refused(folder: Folder, name: str) -> None:
    for operation in (folder.read, folder.size, folder.delete, folder.folder, lambda n: folder.write(n, b"")):
        with pytest.raises(StoreError, match="expected a relative file name"):
            operation(name)


def test_a_folder_is_its_url(folder: Folder) -> None:
    folder.write("a/x", b"1")
    copy = pickle.loads(pickle.dumps(folder))
    assert copy == folder
    assert hash(copy) == hash(folder)
    assert copy.read("a/x") == b"1"
    below = folder.folder("a")
    assert below.url == f"{folder.url}/a"
    assert (below.name, below.parent) == ("a", folder)
    assert Folder(folder.url + "/") == folder
    assert folder.is_local == (not folder.url.startswith(("s3", "memory")))
