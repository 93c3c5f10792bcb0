"""Who answers beside the trained network, and what stands beside the set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raydd import nets
from raydd.config import NETS
from raydd.data.reader import RealData
from raydd.data.transforms import Transform
from raydd.errors import ConfigError, DataError
from raydd.evaluate import Accuracy, Request, evaluate_all
from raydd.evaluate.krr import krr_accuracy
from raydd.seeding import generator
from tests.evaluate.scoring import evaluate

NET = ["convnet:width=4,depth=1"]


def invent(function, items, shared, on_result=None):
    """Do nothing, and return the place of every number."""
    return [[float(i) for i in range(len(placed.item.repeats) * len(placed.item.predictors))] for placed in items]


def test_krr_is_a_regression_on_features(make_set, shards):
    ds = make_set(soft=True)
    module = nets.build(NETS["convnet"](width=4, depth=1), (1, 12, 12), 3)
    state = nets.initialise(module, generator(0, "net"))
    test = RealData(shards["test"], classes=list(ds.classes))
    x = ds.preprocessing(test.images(torch.arange(len(test))))
    f_syn, f_test = (
        nets.apply(module, state.params, state.buffers, images, features=True).detach().double()
        for images in (ds.images, x)
    )
    gram = f_syn @ f_syn.T
    ridge = 1e-6 * gram.trace() / 3 * torch.eye(3)
    expected = f_test @ f_syn.T @ torch.linalg.inv(gram + ridge) @ ds.labels.double()
    percent = 100 * (expected.argmax(1) == test.labels).double().mean()
    options = {"num_classes": 3}
    found = krr_accuracy(module, state, ds.images, ds.labels, test.stream(5), ds.preprocessing, **options)
    assert found == pytest.approx(float(percent))
    # Hard labels are one-hot minus a third, as this set's soft ones are.
    hard = krr_accuracy(module, state, ds.images, ds.targets, test.stream(5), ds.preprocessing, **options)
    assert hard == found
    with pytest.raises(DataError, match="expected test images to score kernel ridge regression on, got none"):
        krr_accuracy(module, state, ds.images, ds.labels, [], ds.preprocessing, **options)


def test_all_predictors_of_a_good_set(shards, make_set, short):
    results = evaluate(
        make_set(soft=True),
        test=shards["test"],
        train=shards["train"],
        nets=NET,
        repeats=2,
        baselines=["random", "whole"],
        predictors=["knn", "krr", "train"],
        whole_epochs=1,
    )
    assert [(r.of, r.predictor, r.repeats) for r in results] == [
        ("distilled", "train", 2),
        ("distilled", "krr", 2),
        ("random", "train", 2),
        ("random", "krr", 2),
        ("whole", "train", 2),
        ("distilled", "knn", 1),
        ("random", "knn", 2),
    ]
    for result in results:
        assert result.mean > 80, result
    # The regression is on the network that was trained, so it costs none more and the network's own score stays.
    (alone,) = evaluate(make_set(soft=True), test=shards["test"], nets=NET, repeats=2)
    assert results[0].each == alone.each
    assert [r.labels for r in results] == ["hard", "soft", "hard", "hard", "hard", "hard", "hard"]
    assert [(r.net == "", r.lr, r.augment) for r in results[5:]] == [(True, None, None)] * 2


def test_numbers_of_a_group_go_to_their_predictors(shards, make_set):
    options = {"test": shards["test"], "nets": NET, "repeats": 3, "group": 2, "map": invent}
    trained, regressed = evaluate(make_set(), **options, predictors=["train", "krr"])
    # Groups of two and one: networks 0 1 | 2 3, then 0 | 1.
    assert (trained.each, regressed.each) == ([0.0, 1.0, 0.0], [2.0, 3.0, 1.0])


def test_random_images_at_the_same_bytes(shards, make_set):
    ds = make_set()
    options = {"test": shards["test"], "train": shards["train"], "nets": NET, "repeats": 1, "map": invent}
    options["baselines"] = ["random@bytes", "random"]
    _, random, at_bytes = evaluate(ds, **options)
    # Three float32 images with labels are 1752 bytes: eleven of 152, four of the first two classes and three of the last.
    assert (random.images, at_bytes.images, at_bytes.storage_bytes) == (3, 11, 11 * 152)
    assert (random.images_per_class, at_bytes.images_per_class) == (1, pytest.approx(11 / 3))
    assert random.stored_images_per_class == pytest.approx(152 / 584)
    few = replace(ds, labels=ds.labels.repeat(20), images=ds.images.repeat(20, 1, 1, 1))
    # A class has twelve.
    assert [r.images for r in evaluate(few, **options)] == [60, 36, 36]


def test_both_readings_of_images_per_class_of_a_memory(shards, make_set):
    ds = make_set(config={"method": {"name": "rtp", "ipc": 1}})
    tables = {"bases": torch.zeros(2, 1, 6, 6), "addresses": torch.zeros(3, 5, 2)}
    images, labels = ds.images.repeat_interleave(5, 0), ds.labels.repeat_interleave(5)
    (memory,) = evaluate(
        replace(ds, images=images, labels=labels, extras=tables), test=shards["test"], nets=NET, repeats=1, map=invent
    )
    assert memory.images_per_class == 5
    assert memory.stored_images_per_class == pytest.approx(4 * (2 * 36 + 30) / (4 * 144 + 8) / 3)
    (plain,) = evaluate(ds, test=shards["test"], nets=NET, repeats=1, map=invent)
    assert (plain.images_per_class, plain.stored_images_per_class) == (1, 1)


def test_a_coreset_is_scored_in_the_normalisation_of_the_set(shards, make_set):
    ds, seen = make_set(), []

    def look(function, items, shared, on_result=None):
        seen.extend(shared)
        return invent(function, items, shared)

    other = Transform(torch.tensor([0.9]), torch.tensor([0.1]))
    pixels = torch.rand(3, 1, 12, 12, generator=generator(0, "x"))
    core = replace(ds, images=other(pixels), preprocessing=other)
    request = Request(ds=ds, nets=NET, baselines=["herding", "average"], coresets={"herding": core, "average": core})
    results = evaluate_all([request], test=shards["test"], train=shards["train"], repeats=1, map=look)
    assert [r.of for r in results] == ["distilled", "herding", "average"]
    # Real images are bytes, means are not.
    assert [r.storage_bytes for r in results] == [3 * 584, 3 * 152, 3 * 584]
    images, labels = seen[0].others["herding"]
    torch.testing.assert_close(torch.from_numpy(images), ds.preprocessing(pixels))
    assert labels.tolist() == [0, 1, 2]


def test_a_grid_keeps_the_norms_that_protocols_replace(shards, make_set):
    request = Request(ds=make_set(), nets=NET, grid={"norm": ["batch", "instance"], "depth": ["1", "2"]})
    results = evaluate_all([request], test=shards["test"], repeats=1, map=invent)
    assert [r.net.split("width=4,")[1] for r in results] == [
        f"depth={depth},norm={norm}" for norm in ("batch", "instance") for depth in (1, 2)
    ]
    # Without a grid both are the same network, which is trained once.
    asked = ["convnet:width=4,depth=1,norm=batch", *NET]
    assert len(evaluate(make_set(), test=shards["test"], nets=asked, repeats=1, map=invent)) == 1


def test_a_value_that_an_option_cannot_have(shards, make_set):
    request = Request(ds=make_set(), nets=NET, grid={"norm": ["none", "bach"]})
    with pytest.raises(ConfigError, match=r"net.norm: Input should be .*, got 'bach'"):
        evaluate_all([request], test=shards["test"], repeats=1)


def test_records_of_an_older_evaluation_are_read():
    old = {"of": "random", "protocol": "dsa", "net": "convnet:width=8", "mean": 50.0, "std": 0.0, "repeats": 1}
    read = Accuracy.from_json({**old, "each": [50.0], "images": 3, "storage_bytes": 9})
    assert (read.predictor, read.augment, read.lr, read.note, read.set, read.images_per_class) == (
        "train",
        *[None] * 5,
    )
    assert Accuracy.from_json(read.to_json()) == read
