"""Windows of real images: the right pixels, in bounded memory, from the byte ranges that they need."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from raydd.data import fetch as fetch_module
from raydd.data import pack as pack_module
from raydd.data.cache import Hits
from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.data.windowed import WindowCache
from raydd.errors import DataError, IntegrityError
from raydd.store import Folder
from tests.data.makers import small_mnist

IMAGE = 64  # bytes


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MNIST with 12 images of each of 10 classes in shards of 2 classes each."""
    monkeypatch.setattr(pack_module, "_MEMBER_BYTES", 2**20 // 12 - 64)
    small_mnist(tmp_path / "mnist", 120)
    pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"), shard_mb=2)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 5
    return str(tmp_path / "out")


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "raydd-window":
            thread.join(30)
            assert not thread.is_alive()


def windowed(url: str, size: int = 4, rounds: int = 2, **options: object) -> RealData:
    return RealData(url, window=size, window_rounds=rounds, **options)  # pyrefly: ignore


def cache_of(data: RealData) -> WindowCache:
    assert isinstance(data._cache, WindowCache)
    return data._cache


def seen(data: RealData, round: int, label: int) -> torch.Tensor:
    assert data.windows is not None
    return data.by_class[label][data.windows.places(data.windows.number(round), label)]


def settle() -> None:
    for thread in threading.enumerate():
        if thread.name == "raydd-window":
            thread.join(30)


def test_pixels_in_any_order_of_rounds(packed: str) -> None:
    whole = RealData(packed).images(torch.arange(120))
    data = windowed(packed)
    for round in (0, 1, 2, 3, 4, 9, 8, 3, 2, 0, 50):
        ids = torch.cat([seen(data, round, label) for label in (7, 1, 3)]).flip(0)
        got = data.images(ids, round)
        assert torch.equal(got, whole[ids])
        got.zero_()
        assert torch.equal(data.images(ids, round), whole[ids])


def test_images_of_no_round_and_outside_the_window_are_read_and_not_kept(packed: str) -> None:
    whole = RealData(packed).images(torch.arange(120))
    data = windowed(packed)
    ids = torch.tensor([119, 0, 0, 63, 5])
    assert torch.equal(data.images(ids), whole[ids])
    assert cache_of(data).held_bytes == 0
    assert torch.equal(data.images(data.by_class[2], 0), whole[data.by_class[2]])
    settle()
    assert cache_of(data).held_bytes == 2 * 4 * IMAGE
    assert torch.equal(torch.cat([x for x, _ in data.stream(50)]), whole)
    assert cache_of(data).held_bytes == 2 * 4 * IMAGE


def test_no_more_than_two_windows_of_the_classes_asked_for_are_held(
    packed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, held, read = windowed(packed), [0], Folder.read_ranges
    rooms = []

    def watch(folder: Folder, requests: list[tuple[str, int, int]]) -> list[bytes]:
        held.append(cache_of(data).held_bytes)
        return read(folder, requests)

    monkeypatch.setattr(Folder, "read_ranges", watch)
    for round in range(0, 12):
        for label in (2, 3, 8):
            data.images(seen(data, round, label), round)
            held.append(cache_of(data).held_bytes)
            rooms.append(len(cache_of(data)._held))
    settle()
    assert max(held) == 2 * 3 * 4 * IMAGE
    assert set(rooms) == {2}


def test_the_next_window_is_there_before_it_is_asked_for(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = windowed(packed)
    data.images(seen(data, 1, 4), 1)
    settle()
    monkeypatch.setattr(Folder, "read_ranges", lambda *_: pytest.fail("read again"))
    cache_of(data)._held[1].load_beside = lambda classes: None  # pyrefly: ignore
    held = cache_of(data)._held[1]
    ids = seen(data, 2, 4)
    images, inside = held.take(ids.numpy(), np.full(len(ids), 4))
    assert inside.all()
    assert np.array_equal(images, RealData(packed).images(ids).numpy())


def test_a_class_reads_its_own_bytes_and_no_others(packed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, requests, read = windowed(packed, rounds=5), [], Folder.read_ranges

    def note(folder: Folder, ranges: list[tuple[str, int, int]]) -> list[bytes]:
        requests.extend(ranges)
        return read(folder, ranges)

    monkeypatch.setattr(Folder, "read_ranges", note)
    monkeypatch.setattr(fetch_module, "_GAP", 1600)  # so that what is between two samples is read, and a sample is not
    monkeypatch.setattr(fetch_module, "read_shard", lambda *_: pytest.fail("a whole shard"))
    for round in range(5):
        data.images(seen(data, round, 4), round)
    settle()
    assert {name for name, _, _ in requests} == {"shard-000002.tar"}
    assert len(requests) <= 4, "two windows, each in one range or two"
    mine = data.index.label == 4
    first, end = data.index.offset[mine].min() - 512, (data.index.offset + data.index.length)[mine].max()
    assert all(first <= a < b <= end for _, a, b in requests)
    assert sum(b - a for _, a, b in requests) <= 2 * 4 / 12 * (end - first)


def test_a_window_that_is_a_whole_shard_is_checked_by_its_sum(packed: str, tmp_path: Path) -> None:
    data = windowed(packed, size=11)
    path = tmp_path / "out" / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    ids = torch.arange(24)
    with pytest.raises(IntegrityError, match=r"shard-000000\.tar: expected sha256"):
        data.images(ids)
    data.images(ids[:5])


def test_images_that_were_there_are_counted(packed: str) -> None:
    data = windowed(packed)
    data.images(seen(data, 0, 2), 0)
    assert data.hits == Hits(found=0, missed=4)
    data.images(seen(data, 1, 2), 1)
    assert data.hits == Hits(found=4, missed=4)
    settle()
    data.images(seen(data, 2, 2), 2)
    assert data.hits == Hits(found=8, missed=4), "the next window was read meanwhile"
    data.images(data.by_class[2])
    assert data.hits == Hits(found=8, missed=16)


def test_windows_that_hold_everything_are_none(packed: str) -> None:
    assert windowed(packed, size=12).windows is None
    assert windowed(packed, size=11).windows is not None


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path, data: path.write_bytes(data[:6000]), r"shard-000001\.tar: expected \d+ bytes, got 6000"),
        (lambda path, data: path.unlink(), r"shard-000001\.tar: expected a shard, got nothing"),
        (lambda path, data: path.write_bytes(data[512:] + bytes(512)), r"shard-000001\.tar sample \d+: expected an im"),
        (
            lambda path, data: path.write_bytes(data.replace(b"IEND", b"IEnd")),
            r"shard-000001\.tar sample \d+: expected an image with CRC-32 [0-9a-f]{8}, got [0-9a-f]{8}: pack or copy",
        ),
    ],
)
def test_damage_is_named_and_mended(packed: str, tmp_path: Path, damage, told: str) -> None:
    path = tmp_path / "out" / "shard-000001.tar"
    intact, whole = path.read_bytes(), RealData(packed).images(torch.arange(120))
    damage(path, intact)
    data = windowed(packed)
    for _ in range(2):
        with pytest.raises(DataError, match=told):
            data.images(seen(data, 0, 2), 0)
    assert torch.equal(data.images(seen(data, 0, 5), 0), whole[seen(data, 0, 5)])
    path.write_bytes(intact)
    assert torch.equal(data.images(seen(data, 0, 2), 0), whole[seen(data, 0, 2)])


def test_damage_in_the_next_window_is_told_when_it_serves(packed: str, tmp_path: Path) -> None:
    path = tmp_path / "out" / "shard-000001.tar"
    intact = path.read_bytes()
    data = windowed(packed)
    cache_of(data).images(seen(data, 0, 5).numpy(), 0)
    first, following = cache_of(data)._held[0], cache_of(data)._held[1]
    first.load(np.array([2]))
    path.unlink()
    following.load_beside(np.array([2]))
    settle()
    data.images(seen(data, 0, 2), 0)
    with pytest.raises(IntegrityError, match=r"shard-000001\.tar"):
        data.images(seen(data, 2, 2), 2)
    path.write_bytes(intact)
    assert torch.equal(data.images(seen(data, 2, 2), 2), RealData(packed).images(seen(data, 2, 2)))


def test_what_nobody_holds_stops_reading(packed: str) -> None:
    data = windowed(packed)
    data.images(seen(data, 0, 5), 0)
    window = cache_of(data)._held[1]
    del data
    gc.collect()
    window.load(np.array([6]))
    assert not window._loaded[6]


def test_parts_and_classes_have_windows_too(packed: str) -> None:
    options = {"classes": [8, 3], "part": "train", "val_fraction": 0.25, "seed": 4}
    plain, data = RealData(packed, **options), windowed(packed, **options)  # pyrefly: ignore
    for round in (0, 2, 4):
        for label in (0, 1):
            ids = seen(data, round, label)
            assert torch.equal(data.images(ids, round), plain.images(ids))


@pytest.mark.s3
def test_windows_of_shards_in_object_storage(s3_url: str, tmp_path: Path) -> None:
    small_mnist(tmp_path / "mnist", 60)
    pack(f"mnist:{tmp_path / 'mnist'}", f"{s3_url}/windows")
    whole, data = RealData(f"{s3_url}/windows").images(torch.arange(60)), windowed(f"{s3_url}/windows")
    for round in (0, 2, 4):
        ids = torch.cat([seen(data, round, label) for label in (7, 1)])
        assert torch.equal(data.images(ids, round), whole[ids])
    Folder(f"{s3_url}/windows").delete("shard-000000.tar")
    with pytest.raises(IntegrityError, match=r"shard-000000\.tar: expected a shard, got nothing"):
        windowed(f"{s3_url}/windows").images(torch.arange(2))
