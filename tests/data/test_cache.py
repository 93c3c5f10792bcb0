"""The decoded images on disk: decoded once a node, never wrongly believed, and a full disk is one clear line."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from raydd.data import cache as cache_module
from raydd.data import fetch as fetch_module
from raydd.data import pack as pack_module
from raydd.data import reader as reader_module
from raydd.data.cache import PAGE, DiskCache, Hits, MemoryCache
from raydd.data.index import Shard, read_shard
from raydd.data.pack import pack
from raydd.data.reader import RealData, Where
from raydd.errors import IntegrityError, StoreError
from raydd.store import Folder, cache_folder
from tests.data.makers import small_mnist

ALL = torch.arange(40)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MNIST with 4 images of each of 10 classes in shards of 2 classes each, and a cache folder of its own."""
    monkeypatch.setattr(pack_module, "_MEMBER_BYTES", 2**20 // 5 - 64)
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    small_mnist(tmp_path / "mnist")
    pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"), shard_mb=2)
    return str(tmp_path / "out")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were read, in order."""
    names: list[str] = []

    def read(folder: Folder, shard: Shard) -> bytes:
        names.append(shard.name)
        return read_shard(folder, shard)

    monkeypatch.setattr(fetch_module, "read_shard", read)
    return names


def on_disk(url: str, **options: object) -> RealData:
    return RealData(url, cache="disk", **options)  # pyrefly: ignore


def cache_of(data: RealData) -> DiskCache:
    assert isinstance(data._cache, DiskCache)
    return data._cache


def whole(url: str) -> torch.Tensor:
    return RealData(url, cache="memory").images(ALL)


def test_pixels_and_whose_memory_they_are(packed: str) -> None:
    data = on_disk(packed)
    ids = torch.tensor([39, 0, 39, 17])
    got = data.images(ids)
    assert torch.equal(got, whole(packed)[ids])
    got.zero_()
    assert torch.equal(data.images(ids), whole(packed)[ids])
    assert torch.equal(torch.cat([x for x, _ in data.stream(7)]), whole(packed))


def test_what_was_decoded_once_outlives_the_run_and_serves_every_part(packed: str, reads: list[str]) -> None:
    on_disk(packed).images(torch.arange(8))
    assert reads == ["shard-000000.tar"]
    on_disk(packed).images(torch.arange(16))
    assert reads == ["shard-000000.tar", "shard-000001.tar"]
    options = {"classes": [3, 0], "part": "val", "val_fraction": 0.5}
    other = on_disk(packed, **options)
    assert torch.equal(other.images(torch.arange(4)), RealData(packed, **options).images(torch.arange(4)))  # pyrefly: ignore
    assert len(reads) == 2 + 2, "the latter two by the one in memory"
    assert len(list(cache_folder().iterdir())) == 1


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_images_that_were_there_are_counted(packed: str, cache: Where) -> None:
    data = RealData(packed, cache=cache)
    # Shards hold two classes of 4 each.
    data.images(torch.arange(6))
    assert data.hits == Hits(found=0, missed=6)
    data.images(torch.tensor([0, 7, 7, 8]))
    assert data.hits == Hits(found=3, missed=7)


def test_two_openings_decode_every_shard_once(packed: str, reads: list[str]) -> None:
    one, other = on_disk(packed), on_disk(packed)
    got: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda data, n: got.update({n: data.images(ALL)}), args=(data, n))
        for n, data in enumerate((one, other, one, other))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(reads) == [f"shard-{i:06d}.tar" for i in range(5)]
    assert all(torch.equal(images, whole(packed)) for images in got.values())
    assert len(got) == 4


OTHER = """
import os, signal, sys
import numpy as np
from raydd.data.cache import DiskCache
from raydd.data.fetch import Fetcher
from raydd.data.index import load_index
from raydd.store import Folder, cache_folder

folder = Folder(sys.argv[1])
cache = DiskCache(Fetcher(folder, load_index(folder)), np.arange(40), cache_folder())
if sys.argv[2] == "dies":
    os.fdatasync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
sys.stdout.buffer.write(cache.images(np.arange(40), None).tobytes())
"""


def other_process(url: str, how: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", OTHER, url, how], capture_output=True, timeout=120, check=False)


def test_two_processes_share_the_file(packed: str, tmp_path: Path) -> None:
    """The other one has nothing to read: the shards are gone."""
    expected = on_disk(packed).images(ALL)
    for path in (tmp_path / "out").glob("*.tar"):
        path.unlink()
    told = other_process(packed, "lives")
    assert told.stderr == b""
    assert told.stdout == expected.numpy().tobytes()


def test_a_process_killed_in_the_middle_leaves_neither_marks_nor_locks(packed: str, reads: list[str]) -> None:
    assert other_process(packed, "dies").returncode == -signal.SIGKILL
    data = on_disk(packed)
    assert not cache_of(data)._marks.any()
    assert torch.equal(data.images(ALL), whole(packed))
    assert reads[:5] == [f"shard-{i:06d}.tar" for i in range(5)], "in order: no lock was in the way"


def test_another_process_that_never_ends_is_not_waited_for(
    packed: str, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, stopped = on_disk(packed), on_disk(packed)
    assert cache_module._lock(cache_of(stopped)._file, 2)
    monkeypatch.setattr(cache_module, "WAIT_S", 0.2)
    assert torch.equal(data.images(ALL), whole(packed))
    assert reads[:5] == [f"shard-{i:06d}.tar" for i in (0, 1, 3, 4, 2)]


def test_a_mark_follows_what_it_marks(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, done, write, sync = on_disk(packed), [], os.pwrite, os.fdatasync
    start = cache_of(data)._start
    monkeypatch.setattr(os, "fdatasync", lambda file: (sync(file), done.append("disk"))[0])

    def note(file: int, content: memoryview, offset: int) -> int:
        done.append("image" if offset >= start else f"mark {offset - PAGE}")
        return write(file, content, offset)

    monkeypatch.setattr(os, "pwrite", note)
    data.images(torch.arange(8))
    assert done == ["image", "disk", "mark 0"]


def test_a_crash_leaves_nothing_that_is_believed(
    packed: str, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:

        def die(file: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(os, "fdatasync", die)
        data = on_disk(packed)
        with pytest.raises(StoreError, match=r"cannot keep decoded images in .*: Input/output error; set RAYDD_CACHE"):
            data.images(torch.arange(8))
    assert reads == ["shard-000000.tar"]
    assert torch.equal(on_disk(packed).images(torch.arange(8)), whole(packed)[:8]), "nor is its lock left"
    assert torch.equal(data.images(torch.arange(8)), whole(packed)[:8])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told(packed: str, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    data = on_disk(packed)
    with monkeypatch.context() as patch:

        def full(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        patch.setattr(os, "pwrite", full)
        told = (
            r"expected room for up to .* GiB of decoded images, got a full disk: free some, set RAYDD_CACHE to another"
        )
        with pytest.raises(StoreError, match=told):
            data.images(ALL)
    assert torch.equal(data.images(ALL), whole(packed))


def test_a_folder_that_cannot_be_written_is_told(packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StoreError, match=r"cannot keep decoded images in .*: Not a directory; set RAYDD_CACHE"):
        on_disk(packed)


@pytest.mark.parametrize("damage", ["cut", "grown", "header", "empty"])
def test_a_damaged_file_is_made_anew(packed: str, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    on_disk(packed).images(ALL)
    (path,) = cache_folder().iterdir()
    content = path.read_bytes()
    damaged = {"cut": content[:-1], "grown": content + b"x", "header": b"x" + content[1:], "empty": b""}[damage]
    path.unlink()  # whoever has the old one open keeps it
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, "raydd"):
        assert torch.equal(on_disk(packed).images(ALL), whole(packed))
    assert "is damaged: decoded images are made anew" in caplog.text
    assert path.read_bytes() == content


def test_another_decoder_has_a_file_of_its_own(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = cache_of(on_disk(packed)).path
    monkeypatch.setattr("PIL.__version__", "0.0")
    assert cache_of(on_disk(packed)).path != one


def test_a_damaged_shard_is_named_and_the_others_are_kept(packed: str, tmp_path: Path, reads: list[str]) -> None:
    path = tmp_path / "out" / "shard-000003.tar"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + b"\x01")
    data = on_disk(packed)
    with pytest.raises(IntegrityError, match=r"shard-000003\.tar: expected sha256"):
        data.images(ALL)
    path.write_bytes(intact)
    reads.clear()
    assert torch.equal(data.images(ALL), whole(packed))
    assert reads[:2] == ["shard-000003.tar", "shard-000004.tar"]


def test_auto_takes_the_disk_where_memory_would_be_large(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(RealData(packed)._cache, MemoryCache)
    monkeypatch.setattr(reader_module, "AUTO_BYTES", 40 * 64 - 1)
    assert isinstance(RealData(packed)._cache, DiskCache)
    assert isinstance(RealData(packed, classes=[1])._cache, MemoryCache)


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYDD_CACHE", raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/a/.cache/raydd")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/raydd")
    monkeypatch.setenv("RAYDD_CACHE", "/mine")
    assert cache_folder() == Path("/mine")
