from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from raydd.data.index import Index, load_index, save_index, verify_shards
from raydd.data.pack import pack
from raydd.errors import DataError, IntegrityError
from raydd.store import Folder
from tests.data.makers import small_mnist


@pytest.fixture
def packed(tmp_path: Path) -> tuple[Folder, Index]:
    small_mnist(tmp_path / "mnist", num=10)
    return Folder(str(tmp_path / "out")), pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"))


def test_round_trip(packed: tuple[Folder, Index]) -> None:
    folder, index = packed
    loaded = load_index(folder)
    assert loaded.hash == index.hash
    assert (loaded.classes, loaded.shards, loaded.source) == (index.classes, index.shards, index.source)
    for name in ("shard", "offset", "length", "label", "channel_sum", "channel_sq", "crc"):
        array = getattr(loaded, name)
        assert array.dtype == getattr(index, name).dtype
        np.testing.assert_array_equal(array, getattr(index, name))


def test_hash_names_the_data_not_the_place(packed: tuple[Folder, Index]) -> None:
    _, index = packed
    assert dataclasses.replace(index, base="s3://b/x", source={"source": "elsewhere"}).hash == index.hash
    label = index.label.copy()
    label[0] = 1
    shard = dataclasses.replace(index.shards[0], sha256="0" * 64)
    for change in ({"name": "x"}, {"classes": tuple("abcdefghij")}, {"label": label}, {"shards": (shard,)}):
        assert dataclasses.replace(index, **change).hash != index.hash


def test_no_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected packed shards with index\.json, got none: run raydd pack first"):
        load_index(Folder(str(tmp_path)))


def test_tensors_missing_truncated_altered(packed: tuple[Folder, Index]) -> None:
    folder, _ = packed
    path = folder.local_path / "index.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(IntegrityError, match=rf"index\.safetensors: expected {len(data)} bytes, got {len(data) - 1}"):
        load_index(folder)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"index\.safetensors: expected sha256"):
        load_index(folder)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"expected index\.safetensors beside index\.json, got none"):
        load_index(folder)


def test_json_altered_in_any_place(packed: tuple[Folder, Index]) -> None:
    folder, _ = packed
    path = folder.local_path / "index.json"
    text = path.read_text()
    for key, value in (("name", "svhn"), ("size", 4), ("classes", ["a"]), ("base", "s3://evil/x"), ("shards", [])):
        path.write_text(json.dumps(json.loads(text) | {key: value}))
        with pytest.raises(IntegrityError, match=r"index\.json: expected sha256"):
            load_index(folder)
    for damaged in ("", "[]", "{}", "3", text[:-20], "\x00"):
        path.write_text(damaged)
        with pytest.raises(IntegrityError, match=r"index\.json: expected a JSON index"):
            load_index(folder)
    path.write_text(json.dumps({"format": "raydd-index-9"}))
    with pytest.raises(DataError, match="expected format raydd-index-1, got raydd-index-9"):
        load_index(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tensors", {}),
        ("tensors", 3),
        ("classes", 3),
        ("classes", [3] * 10),
        ("shards", [{"name": "x"}]),
        ("shards", [{"name": "x", "size": "1", "sha256": "", "samples": 10}]),
        ("size", "8"),
        ("size", None),
        ("base", None),
    ],
)
def test_hostile_json_with_its_own_right_hash(packed: tuple[Folder, Index], key: str, value: object) -> None:
    folder, _ = packed
    body = folder.json("index.json") | {key: value}
    del body["sha256"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    folder.write_json("index.json", body | {"sha256": hashlib.sha256(text.encode()).hexdigest()})
    with pytest.raises(DataError, match=r"not a complete index|contradicts itself"):
        load_index(folder)


def changed(array: np.ndarray, at: int, value: int) -> np.ndarray:
    array = array.copy()
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("label", 10, "a label has no class"),
        ("label", 1, "class 0 has no samples"),
        ("shard", 1, "a sample lies in no shard"),
        ("offset", 2**40, "a sample ends beyond its shard"),
        ("offset", -1, "a sample has a negative place"),
        ("length", 0, "no bytes"),
    ],
)
def test_index_that_contradicts_itself_is_not_saved(
    packed: tuple[Folder, Index], name: str, value: int, text: str
) -> None:
    folder, index = packed
    bad = dataclasses.replace(index, **{name: changed(getattr(index, name), 0, value)})
    with pytest.raises(DataError, match=f"the index contradicts itself: .*{text}"):
        save_index(folder, bad)
    assert load_index(folder).hash == index.hash


def test_verify_shards_names_all_problems(packed: tuple[Folder, Index]) -> None:
    folder, index = packed
    assert verify_shards(folder, index) == []
    path = folder.local_path / "shard-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert "bytes, got" in verify_shards(folder, index)[0]
    path.write_bytes(b"\x01" + data[1:])
    assert "expected sha256" in verify_shards(folder, index)[0]
    path.unlink()
    assert "expected a shard, got nothing" in verify_shards(folder, index)[0]
