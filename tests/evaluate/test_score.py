from __future__ import annotations

import pickle
import shutil
import sys
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

import raydd.evaluate
from raydd.config import NETS, NetConfig
from raydd.data.reader import RealData
from raydd.errors import ConfigError, DataError
from raydd.evaluate import Accuracy, items, net_text, pooled, sequential
from raydd.evaluate.items import class_counts
from tests.evaluate.scoring import evaluate

BOTH = pytest.mark.parametrize("protocol", ["dsa", "frepo"])


def backwards(function, items, shared, on_result=None):
    """Map in reversed order over copies that have crossed a process boundary, with read-only arrays as Ray gives."""
    results = []
    for item in reversed(items):
        there = pickle.loads(pickle.dumps((function, shared, item)))
        for array in (there[1][0].images, there[1][0].labels):
            array.flags.writeable = False
        results.append(there[0](there[1], there[2]))
    return results[::-1]


@BOTH
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_a_good_set_teaches_and_a_mislabelled_one_does_not(shards, make_set, short, protocol, soft):
    (good,) = evaluate(make_set(soft=soft), test=shards["test"], protocol=protocol, repeats=1)
    (bad,) = evaluate(make_set(soft=soft, roll=1), test=shards["test"], protocol=protocol, repeats=1)
    assert good.mean > 90
    assert bad.mean < 40


@BOTH
def test_numbers_do_not_depend_on_how_they_were_spread(shards, make_set, short, protocol):
    def run(spread):
        return evaluate(
            make_set(soft=True),
            test=shards["test"],
            train=shards["train"],
            protocol=protocol,
            nets=["convnet:width=4,depth=1", "convnet:width=4,depth=2"],
            repeats=2,
            baselines=["random", "whole"],
            whole_epochs=1,
            map=spread,
        )

    results = run(sequential)
    assert results == run(backwards)
    assert [result.of for result in results] == ["distilled", "random", "whole"] * 2
    assert [result.net for result in results[::3]] == [
        f"convnet:width=4,depth={depth},norm={'none' if protocol == 'frepo' else 'instance'}" for depth in (1, 2)
    ]


def test_what_the_numbers_are(shards, make_set, short):
    told = []
    results = evaluate(
        make_set(),
        test=shards["test"],
        train=shards["train"],
        repeats=3,
        baselines=["whole", "random"],
        whole_epochs=1,
        on_result=lambda done, total: told.append((done, total)),
    )
    distilled, random, whole = results
    assert [r.of for r in results] == ["distilled", "random", "whole"]
    assert [r.protocol for r in results] == ["dsa"] * 3
    # The whole set is trained on twice at most.
    assert [r.repeats for r in results] == [len(r.each) for r in results] == [3, 3, 2]
    assert told == [(i + 1, 8) for i in range(8)]
    assert [r.images for r in results] == [3, 3, 36]
    # float32 images and int64 labels; uint8 images and int64 labels.
    assert distilled.storage_bytes == 3 * (144 * 4 + 8)
    assert (random.storage_bytes, whole.storage_bytes) == (3 * (144 + 8), 36 * (144 + 8))
    for result in results:
        assert result.mean == pytest.approx(np.mean(result.each))
        assert result.std == pytest.approx(np.std(result.each, ddof=1))
        # Of 18 test images each is right or wrong.
        assert all(abs(percent * 18 / 100 - round(percent * 18 / 100)) < 1e-9 for percent in result.each)
    assert whole.mean > 90


def test_repeats_and_seeds_are_different_networks_and_draws(shards, make_set, monkeypatch):
    starts: dict[tuple[int, str, int], torch.Tensor] = {}

    def remember(module, state, x, y, recipe, *, seed, augment):
        starts[len(starts)] = torch.cat([x.flatten(), state.params["classifier.weight"].flatten()])
        return state

    monkeypatch.setattr(items, "train", remember)
    for seed in (0, 1):
        evaluate(make_set(), test=shards["test"], train=shards["train"], repeats=2, baselines=["random"], seed=seed)
    pixels = 3 * 144
    # In order: two random and two distilled of seed 0, then of seed 1.
    networks = {tuple(start[pixels:].tolist()) for start in starts.values()}
    draws = {tuple(start[:pixels].tolist()) for i, start in starts.items() if i % 4 < 2}
    sets = {tuple(start[:pixels].tolist()) for i, start in starts.items() if i % 4 >= 2}
    assert (len(networks), len(draws), len(sets)) == (8, 4, 1)


def test_the_test_split_is_read_for_scoring_only(shards, make_set, short, monkeypatch):
    events: list[str] = []

    def spied(name, function):
        def call(*args, **options):
            events.append(f"{name} starts")
            result = function(*args, **options)
            events.append(f"{name} ends")
            return result

        return call

    read = RealData.images

    def images(self, ids):
        events.append(f"reads {self.index.split}")
        return read(self, ids)

    monkeypatch.setattr(RealData, "images", images)
    for name in ("train", "train_on", "score"):
        monkeypatch.setattr(items, name, spied(name, getattr(items, name)))
    evaluate(
        make_set(), test=shards["test"], train=shards["train"], repeats=1, baselines=["random", "whole"], whole_epochs=1
    )
    whole = ["train_on starts", *["reads train"] * 40, "train_on ends"]
    score = ["score starts", "reads test", "score ends"]
    assert events == [
        *whole,
        *score,
        "reads train",
        "train starts",
        "train ends",
        *score,
        "train starts",
        "train ends",
        *score,
    ]


@pytest.mark.parametrize("classes", [("top", "middle", "bottom"), ("middle", "bottom", "top"), ("top", "bottom")])
def test_classes_are_matched_by_name(shards, make_set, short, classes):
    results = evaluate(
        make_set(classes), test=shards["test"], train=shards["train"], repeats=1, baselines=["whole"], whole_epochs=1
    )
    assert [result.mean > 90 for result in results] == [True, True]
    assert results[1].images == 12 * len(classes)


def test_baselines_leave_out_what_was_kept_for_selection(shards, make_set, short):
    ds = make_set(config={"data": {"val_fraction": 0.25}, "seed": 3})
    (_, whole) = evaluate(
        ds, test=shards["test"], train=shards["train"], repeats=1, baselines=["whole"], whole_epochs=1
    )
    assert whole.images == 27


def test_what_travels_holds_no_torch_tensor(shards, make_set):
    seen = []

    def look(function, items, shared, on_result=None):
        seen.extend([*shared, *(placed.item for placed in items)])
        return [[50.0]] * len(items)

    evaluate(make_set(soft=True), test=shards["test"], repeats=1, map=look)
    for record in seen:
        values = [getattr(record, field.name) for field in fields(record)]
        assert not any(isinstance(value, torch.Tensor) for value in values)
        assert not any(
            isinstance(v, torch.Tensor) for value in values if isinstance(value, dict) for v in value.values()
        )


def test_nothing_is_kept_in_this_process(shards, make_set, short):
    evaluate(make_set(), test=shards["test"], repeats=1)
    assert items.real_data.cache_info().currsize == 0


def test_no_repeats_is_no_evaluation(make_set):
    assert evaluate(make_set(), test="/nowhere", repeats=0) == []


def test_another_shape_is_refused(shards, make_set):
    expected = r"expected test images of 1x8x8 \(channels x height x width\) as in the set, got 1x12x12 in .*--size 8"
    with pytest.raises(DataError, match=expected):
        evaluate(make_set(edge=8), test=shards["test"])


def test_missing_classes_are_refused(shards, make_set):
    ds = make_set(("top", "left", "right"))
    with pytest.raises(DataError, match=r"the set's 3 classes in .*, got none of 2 \('left', 'right'\); pack a split"):
        evaluate(ds, test=shards["test"])


def test_training_images_are_not_the_test_images(shards, make_set, tmp_path):
    shutil.copytree(shards["test"], tmp_path / "copied")
    with pytest.raises(ConfigError, match=r"must be two splits, got the same images in .*copied and .*test"):
        evaluate(make_set(), test=shards["test"], train=str(tmp_path / "copied"), baselines=["random"])


def test_another_kind_of_network_than_the_protocols_is_told(shards, make_set, short):
    ds = make_set()
    told = [
        evaluate(replace(ds, recipe=replace(ds.recipe, protocol=own)), test=shards["test"], repeats=1, **asked)[0].note
        for own, asked in (
            ("frepo", {"protocol": "frepo"}),
            ("dsa", {"protocol": "frepo", "nets": ["convnet:width=8,depth=1"]}),
            ("dsa", {"protocol": "frepo"}),
        )
    ]
    assert told[:2] == [None, None]
    assert told[2] == "the network is the set's own; the protocol frepo was published with frepo_convnet"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "dc2"}, r"the protocol must be one of dc, .*, got 'dc2'"),
        (
            {"baselines": ["best"], "train": "x"},
            r"baselines must be out of random, random@bytes, .*, whole, got 'best'",
        ),
        ({"baselines": ["herding"], "train": "x"}, r"the baseline herding is a set of its own, got none"),
        ({"predictors": ["svm"]}, r"predictors must be out of train, krr, knn, got 'svm'"),
        (
            {"protocol": "fair"},
            r"the protocol fair chooses learning rates on the training split, got no training shards",
        ),
        ({"baselines": ["random"]}, r"baselines \(random\) need the training shards, got none"),
        ({"nets": ["resnet"]}, r"net: net.name must be one of convnet, frepo_convnet, mlp, .*, got 'resnet'"),
        ({"nets": ["convnet:depht=3"]}, r"depht"),
        ({"nets": ["convnet:depth=9,width=4"]}, r"net.depth must be"),
        ({"nets": ["vgg11"]}, r"vgg11"),
        ({"predictors": []}, r"predictors must be some of train, krr, knn, got none"),
    ],
)
def test_a_wrong_request_is_refused(shards, make_set, options, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(make_set(), test=shards["test"], **options)


def test_test_shards_that_are_none_are_refused(make_set, tmp_path):
    with pytest.raises(DataError, match=r"expected packed shards"):
        evaluate(make_set(), test=str(tmp_path))


def test_a_network_as_text_is_read_back():
    for net in (
        NETS["convnet"](width=32, depth=3, norm="none"),
        NETS["frepo_convnet"](width=8, depth=2, act="swish", pool="max"),
    ):
        assert TypeAdapter(NetConfig).validate_python(net_text(net)) == net
    assert net_text(NETS["convnet"](width=32, depth=3, norm="none")) == "convnet:width=32,depth=3,norm=none"


def test_class_counts():
    assert class_counts(np.array([2, 2, 0]), 4) == [1, 0, 2, 0]
    assert class_counts(np.array([[0.1, 0.9], [0.6, 0.4]], dtype=np.float32), 2) == [1, 1]


def test_an_accuracy_survives_json():
    accuracy = Accuracy(
        of="random",
        protocol="dsa",
        net="convnet:width=8",
        mean=50.0,
        std=0.0,
        repeats=1,
        each=[50.0],
        images=3,
        storage_bytes=9,
    )
    assert Accuracy.from_json(accuracy.to_json()) == accuracy
    for hostile in ({**accuracy.to_json(), "mean": "<b>"}, {"of": "random"}, [], None):
        with pytest.raises(DataError, match=r"expected an accuracy, got .*; evaluate again"):
            Accuracy.from_json(hostile)


def test_the_package_may_be_called_like_the_public_function(monkeypatch):
    api = SimpleNamespace(evaluate=lambda ds, *, test: (ds, test))
    monkeypatch.setitem(sys.modules, "raydd.api", api)
    assert raydd.evaluate("set", test="shards") == ("set", "shards")


def test_rates_that_differ_between_sets_are_all_told():
    one = Accuracy(
        of="distilled",
        protocol="fair",
        net="mlp",
        mean=1.0,
        std=0.0,
        repeats=1,
        each=[1.0],
        images=1,
        storage_bytes=1,
        lr=0.1,
    )
    (joined,) = pooled([one, replace(one, each=[3.0], lr=0.02), replace(one, each=[2.0])])
    assert (joined.mean, joined.sets, joined.lr) == (2.0, 3, None)
    assert joined.note == "the learning rate was chosen for each set: 0.02, 0.1"
    (alike,) = pooled([one, replace(one, each=[3.0])])
    assert (alike.lr, alike.note) == (0.1, None)
