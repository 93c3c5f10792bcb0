from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from raydd.evaluate import Keeping, sequential
from raydd.evaluate.items import Item, Placed, Shared
from raydd.evaluate.resume import identity, key
from raydd.store import Folder
from tests.evaluate.scoring import evaluate

ITEMS = [Item(of="distilled", net={"name": "mlp"}, net_text="mlp", repeats=(i, i + 1)) for i in range(0, 8, 2)]
PLACED = [Placed(which=0, item=item) for item in ITEMS]
calls: list[tuple[int, ...]] = []


class Stopped(BaseException):
    """Somebody pressed a key."""


def tenths(shared: Sequence[Shared], placed: Placed) -> list[float]:
    calls.append(placed.item.repeats)
    return [repeat / 10 for repeat in placed.item.repeats]


def stops(shared: Sequence[Shared], placed: Placed) -> list[float]:
    if placed.item.repeats[0] == 4:
        raise Stopped
    return tenths(shared, placed)


@pytest.fixture
def shared(shards) -> Shared:
    calls.clear()
    return Shared(
        seed=0,
        protocol="dsa",
        images=np.zeros((3, 1, 12, 12), np.float32),
        labels=np.arange(3),
        classes=("bottom", "middle", "top"),
        transform={},
        transform_tensors={"mean": np.zeros(1, np.float32)},
        data="toy",
        handwritten=False,
        train=None,
        test=shards["test"],
        val_fraction=0.0,
        split_seed=0,
        whole_epochs=1,
        draws={"random": (1, 1, 1)},
        device="cpu",
    )


@pytest.fixture
def keeping(tmp_path) -> Keeping:
    return Keeping(map=sequential, folder=Folder(tmp_path / "kept"))


EXPECTED = [[0.0, 0.1], [0.2, 0.3], [0.4, 0.5], [0.6, 0.7]]


def test_an_interrupted_evaluation_goes_on_where_it_stopped(keeping, shared):
    told = []
    with pytest.raises(Stopped):
        keeping(stops, PLACED, [shared])
    assert calls == [(0, 1), (2, 3)]
    assert keeping(tenths, PLACED, [shared], lambda done, total: told.append((done, total))) == EXPECTED
    assert calls == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert told == [(2, 4), (3, 4), (4, 4)]
    told.clear()
    assert keeping(tenths, PLACED, [shared], lambda done, total: told.append((done, total))) == EXPECTED
    assert (len(calls), told) == (4, [(4, 4)])
    keeping.folder.delete(*keeping.folder.list())
    assert keeping.folder.list() == []
    assert keeping(tenths, PLACED, [shared]) == EXPECTED
    assert len(calls) == 8


def test_items_are_kept_by_whoever_does_them(keeping, shared):
    def elsewhere(function, items, shared, on_result=None):
        return [
            pickle.loads(pickle.dumps(function))(*pickle.loads(pickle.dumps((shared, item))))
            for item in reversed(items)
        ][::-1]

    assert replace(keeping, map=elsewhere)(tenths, PLACED, [shared]) == EXPECTED
    assert keeping(stops, PLACED, [shared]) == EXPECTED


def altered(body: dict) -> bytes:
    body["accuracies"][0] = 99.0
    return json.dumps(body).encode()


def of_another_item(body: dict) -> bytes:
    body["item"]["repeats"] = [0, 9]
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    "damage",
    [
        altered,
        of_another_item,
        lambda body: b"",
        lambda body: json.dumps(body).encode()[:-20],
        lambda body: b"[1, 2]",
        lambda body: b"{}",
        lambda body: b"\xff\xfe",
        lambda body: json.dumps({**body, "accuracies": [1.0]}).encode(),
        lambda body: json.dumps({**body, "accuracies": ["<b>", None]}).encode(),
        lambda body: json.dumps({**body, "accuracies": [float("nan")] * 2}).encode(),
        lambda body: json.dumps({**body, "more": 1}).encode(),
        lambda body: json.dumps({k: v for k, v in body.items() if k != "sha256"}).encode(),
    ],
)
def test_what_is_damaged_is_done_again(keeping, shared, damage):
    keeping(tenths, PLACED, [shared])
    name = f"{key(identity(shared), ITEMS[2])}.json"
    keeping.folder.write(name, damage(keeping.folder.record(name)))
    calls.clear()
    assert keeping(tenths, PLACED, [shared]) == EXPECTED
    assert calls == [(4, 5)]
    assert keeping(stops, PLACED, [shared]) == EXPECTED


def test_a_file_under_another_items_name_is_not_believed(keeping, shared):
    keeping(tenths, PLACED, [shared])
    first, second = (f"{key(identity(shared), item)}.json" for item in ITEMS[:2])
    keeping.folder.write(first, keeping.folder.read(second))
    assert keeping(tenths, PLACED, [shared]) == EXPECTED
    assert len(calls) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"protocol": "dc"},
        {"images": np.full((3, 1, 12, 12), 1e-7, np.float32)},
        {"images": np.zeros((3, 1, 12, 12), np.float64)},
        {"images": np.zeros((3, 1, 6, 24), np.float32)},
        {"labels": np.array([0, 2, 1])},
        {"transform_tensors": {"mean": np.ones(1, np.float32)}},
        {"device": "cuda"},
        {"draws": {"random": (1, 1, 2)}},
        {"learned": {"lr_inner": np.ones((1, 1), np.float32)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_evaluation_finds_nothing(keeping, shared, change):
    keeping(tenths, PLACED, [shared])
    calls.clear()
    keeping(tenths, PLACED, [replace(shared, **change)])
    assert len(calls) == 4


def test_images_are_known_by_what_they_are_not_where(keeping, shared, shards, tmp_path):
    keeping(tenths, PLACED, [shared])
    moved = tmp_path / "moved"
    for name in (source := Folder(shards["test"])).list():
        Folder(moved).write(name, source.read(name))
    assert keeping(stops, PLACED, [replace(shared, test=str(moved))]) == EXPECTED
    calls.clear()
    # The same place, other images.
    assert keeping(tenths, PLACED, [replace(shared, test=shards["train"])]) == EXPECTED
    assert len(calls) == 4


@pytest.mark.parametrize(
    "change", [{"repeats": (0,)}, {"lr": 0.1}, {"augment": False}, {"part": "val"}, {"of": "random"}]
)
def test_keys_tell_items_apart(shared, change):
    base = identity(shared)
    assert key(base, ITEMS[0]) != key(base, replace(ITEMS[0], **change))
    assert key(base, ITEMS[0]) == key(identity(shared), pickle.loads(pickle.dumps(ITEMS[0])))


def test_an_evaluation_through_it_has_the_same_numbers(keeping, shards, make_set, short):
    options = {"test": shards["test"], "train": shards["train"], "repeats": 3, "baselines": ["random"], "group": 2}
    nets = ["convnet:width=4,depth=1"]
    plain = evaluate(make_set(), nets=nets, **options)
    assert evaluate(make_set(), nets=nets, map=keeping, **options) == plain
    assert len(keeping.folder.list()) == 4

    def nobody(function, items, shared, on_result=None):
        raise AssertionError("everything was kept")

    assert evaluate(make_set(), nets=nets, map=replace(keeping, map=nobody), **options) == plain
