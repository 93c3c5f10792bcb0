from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from raydd.data import fetch as fetch_module
from raydd.data import pack as pack_module
from raydd.data.index import Shard, load_index, read_shard, save_index
from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.errors import ConfigError, DataError, IntegrityError
from raydd.store import Folder
from tests.data.makers import pixels, small_mnist, write_folder


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, np.ndarray]:
    """MNIST with 4 images of each of 10 classes in shards of 2 classes each; its images in the order of classes."""
    monkeypatch.setattr(pack_module, "_MEMBER_BYTES", 2**20 // 5 - 64)
    images, labels = small_mnist(tmp_path / "mnist")
    pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"), shard_mb=2)
    return str(tmp_path / "out"), images[np.argsort(labels, kind="stable")]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were read, in order."""
    names: list[str] = []

    def read(folder: Folder, shard: Shard) -> bytes:
        names.append(shard.name)
        return read_shard(folder, shard)

    monkeypatch.setattr(fetch_module, "read_shard", read)
    return names


def test_whole_set(packed: tuple[str, np.ndarray]) -> None:
    url, images = packed
    data = RealData(url)
    assert (len(data), data.num_classes, data.shape, data.counts) == (40, 10, (1, 8, 8), (4,) * 10)
    assert data.labels.tolist() == sorted(list(range(10)) * 4)
    assert [ids.tolist() for ids in data.by_class][:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert data.labels.dtype == data.by_class[0].dtype == torch.int64
    got = data.images(torch.arange(40))
    assert got.dtype == torch.uint8
    np.testing.assert_array_equal(got[:, 0].numpy(), images)


def test_any_order_and_repeats_in_fresh_memory(packed: tuple[str, np.ndarray]) -> None:
    url, images = packed
    data = RealData(url)
    ids = torch.tensor([39, 0, 39, 17])
    got = data.images(ids)
    np.testing.assert_array_equal(got[:, 0].numpy(), images[ids])
    got.zero_()
    np.testing.assert_array_equal(data.images(ids)[:, 0].numpy(), images[ids])
    assert data.images(torch.tensor([], dtype=torch.int64)).shape == (0, 1, 8, 8)


def test_only_needed_shards_are_read_and_each_once(packed: tuple[str, np.ndarray], reads: list[str]) -> None:
    data = RealData(packed[0])
    assert reads == []
    data.images(data.by_class[4])
    assert reads == ["shard-000002.tar"]
    data.images(torch.cat([data.by_class[5], data.by_class[9], data.by_class[0]]))
    assert reads == ["shard-000002.tar", "shard-000000.tar", "shard-000004.tar"]
    assert sum(len(x) for x, _ in data.stream(7)) == 40
    assert sorted(reads) == [f"shard-{i:06d}.tar" for i in range(5)]


def test_stream_is_the_whole_set_in_order(packed: tuple[str, np.ndarray]) -> None:
    data = RealData(packed[0])
    batches = list(data.stream(16))
    assert [len(x) for x, _ in batches] == [16, 16, 8]
    np.testing.assert_array_equal(torch.cat([x for x, _ in batches])[:, 0].numpy(), packed[1])
    assert torch.equal(torch.cat([y for _, y in batches]), data.labels)


def test_many_threads_read_once_and_alike(packed: tuple[str, np.ndarray], reads: list[str]) -> None:
    data = RealData(packed[0])
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: data.images(torch.arange(40)), range(16)))
    assert all(np.array_equal(x[:, 0].numpy(), packed[1]) for x in got)
    assert len(reads) == 5


@pytest.mark.parametrize("classes", [[7, 2], ["7", "2"], [7, "2"]])
def test_classes_are_labelled_in_the_order_given(packed: tuple[str, np.ndarray], classes: list) -> None:
    data = RealData(packed[0], classes=classes)
    assert (data.class_names, data.labels.tolist()) == (("7", "2"), [0] * 4 + [1] * 4)
    expected = np.concatenate([packed[1][28:32], packed[1][8:12]])
    np.testing.assert_array_equal(data.images(torch.arange(8))[:, 0].numpy(), expected)


@pytest.mark.parametrize("classes", [[10], [-1], ["seven"], [], [1, 1], [1, "1"]])
def test_classes_out_of_reach(packed: tuple[str, np.ndarray], classes: list) -> None:
    with pytest.raises(ConfigError, match=r"^data\.classes must"):
        RealData(packed[0], classes=classes)


# the split


def rows(data: RealData) -> set[bytes]:
    return {x.numpy().tobytes() for x in data.images(torch.arange(len(data)))}


def test_parts_are_stratified_disjoint_and_whole(packed: tuple[str, np.ndarray]) -> None:
    train, val = (RealData(packed[0], part=part, val_fraction=0.3, seed=5) for part in ("train", "val"))
    assert (train.counts, val.counts) == ((3,) * 10, (1,) * 10)  # round(0.3 * 4) = 1
    assert not rows(train) & rows(val)
    assert rows(train) | rows(val) == rows(RealData(packed[0]))


def test_split_depends_on_the_seed_alone(packed: tuple[str, np.ndarray]) -> None:
    def val(seed: int, **options: list[int]) -> set[bytes]:
        return rows(RealData(packed[0], part="val", val_fraction=0.25, seed=seed, **options))

    assert val(1) == val(1)
    assert val(1) != val(2)
    assert val(1, classes=[8, 3]) <= val(1)


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, 1), (0.5, 2), (0.6, 2), (0.63, 3), (0.99, 3)])
def test_val_is_at_least_one_and_never_all(packed: tuple[str, np.ndarray], fraction: float, expected: int) -> None:
    assert set(RealData(packed[0], part="val", val_fraction=fraction).counts) == {expected}


def test_split_that_cannot_be(packed: tuple[str, np.ndarray], tmp_path: Path) -> None:
    assert len(RealData(packed[0], part="train")) == 40
    with pytest.raises(ConfigError, match=r"data\.val_fraction must be above 0 and < 1, got 0"):
        RealData(packed[0], part="val")
    with pytest.raises(ConfigError, match=r"data\.val_fraction must be >= 0 and < 1, got 1"):
        RealData(packed[0], val_fraction=1)
    with pytest.raises(ConfigError, match=r"part must be train, val or all"):
        RealData(packed[0], part="test")  # pyrefly: ignore
    write_folder(tmp_path / "set", {"lonely": [pixels(0, 4, 4, 3)]})
    pack(f"folder:{tmp_path / 'set'}", str(tmp_path / "set2"))
    with pytest.raises(DataError, match="class lonely has 1 image"):
        RealData(str(tmp_path / "set2"), part="train", val_fraction=0.5)


# damage


def test_damaged_shards_are_named(packed: tuple[str, np.ndarray]) -> None:
    path = Path(packed[0]) / "shard-000001.tar"
    whole = path.read_bytes()
    ids = torch.arange(8, 12)
    for damaged, text in (
        (whole[:1000], rf"shard-000001\.tar: expected {len(whole)} bytes, got 1000"),
        (whole[:4096], rf"shard-000001\.tar: expected {len(whole)} bytes, got 4096"),
        (b"", r"shard-000001\.tar: expected .* bytes, got 0"),
        (whole[:-1] + b"\x01", r"shard-000001\.tar: expected sha256"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=text):
            RealData(packed[0]).images(ids)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"shard-000001\.tar: expected a shard, got nothing"):
        RealData(packed[0]).images(ids)
    # What lies elsewhere is none the worse, and once it is mended so is this.
    data = RealData(packed[0])
    with pytest.raises(IntegrityError):
        data.images(torch.arange(40))
    np.testing.assert_array_equal(data.images(torch.tensor([0]))[0, 0].numpy(), packed[1][0])
    path.write_bytes(whole)
    np.testing.assert_array_equal(data.images(ids)[:, 0].numpy(), packed[1][8:12])


def test_sample_that_does_not_decode_is_named(packed: tuple[str, np.ndarray]) -> None:
    """An index whose sums fit a shard with a bad image in it: what a faulty packer would leave."""
    folder = Folder(packed[0])
    index = load_index(folder)
    offset = index.offset.copy()
    offset[3] += 1
    save_index(folder, dataclasses.replace(index, offset=offset))
    with pytest.raises(DataError, match=r"shard-000000\.tar sample 3: expected an image, got one that does not decode"):
        RealData(packed[0]).images(torch.tensor([0]))


def test_ids_out_of_range(packed: tuple[str, np.ndarray]) -> None:
    with pytest.raises(IndexError):
        RealData(packed[0]).images(torch.tensor([40]))


def test_cache_that_does_not_exist(packed: tuple[str, np.ndarray]) -> None:
    with pytest.raises(ConfigError, match=r"data\.cache must be auto, memory or disk, got 'tape'"):
        RealData(packed[0], cache="tape")  # pyrefly: ignore
