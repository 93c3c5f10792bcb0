"""Numbers behind heat maps, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from raydd.evaluate import Accuracy
from raydd.report.heat import Heat, cross_architecture, published_map, similarities, similarity
from raydd.report.papers import Cross
from raydd.report.scores import accuracy_table, headline, notes, scores
from tests.report.conftest import accuracy, make_memory, make_set


def made(*raw):
    return scores([Accuracy.from_json(one) for one in raw])


def test_similarity_is_the_cosine_of_all_coefficients():
    addresses = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [4.0, 0.0]], [[-2.0, 0.0], [0.0, 0.0]]])
    expected = [[1, 0.6, -1], [0.6, 1, -0.6], [-1, -0.6, 1]]
    assert similarities(addresses).tolist() == [pytest.approx(row) for row in expected]


def test_a_class_without_coefficients_is_like_none():
    assert similarities(torch.zeros(2, 1, 2)).tolist() == [[0, 0], [0, 0]]


def test_cells_of_similarity():
    ds = make_memory(classes=3, each=1, num_bases=2)
    ds.extras["addresses"].copy_(torch.tensor([[[1.0, 0.0]], [[0.6, 0.8]], [[-0.0001, -1.0]]]))
    found = similarity(ds)
    assert found is not None
    assert found.map is not None
    assert found.map.rows[0][1] == (Heat("1.00", 100), Heat(".60", 60), Heat(".00", 0, True))
    assert found.map.rows[1][1][2] == Heat("-.80", 80, True)
    assert found.pairs[0] == (ds.classes[0], ds.classes[1], pytest.approx(0.6))
    assert len(found.pairs) == 3


def test_only_a_memory_of_classes_has_similarities():
    assert similarity(make_set()) is None
    assert similarity(make_memory(classes=1)) is None


def test_one_network_is_no_matrix():
    assert cross_architecture(made(accuracy("distilled", 80.0), accuracy("random", 50.0))) is None


def test_sets_by_networks():
    found = made(
        accuracy("distilled", 80.0, set="a"), accuracy("distilled", 60.0, set="b"), accuracy("random", 40.0, set="a")
    )
    heat = cross_architecture(found)
    assert heat is not None
    assert (heat.corner, heat.columns) == ("Trained on", ("convnet",))
    assert heat.rows == (
        ("a", (Heat("80.0", 100),)),
        ("b", (Heat("60.0", 50),)),
        ("Random real images", (Heat("40.0", 0),)),
    )


def test_baselines_of_several_sets_are_told_apart_where_they_differ():
    of_sets = [("runs/a", 80.0, 40.0), ("s3://bucket/runs/b", 60.0, 70.0)]
    found = made(
        *(accuracy("distilled", own, set=name) for name, own, _ in of_sets),
        *(accuracy("random", random, set=name) for name, _, random in of_sets),
        *(accuracy("whole", 90.0, set=name) for name, _, _ in of_sets),
    )
    heat = cross_architecture(found)
    assert heat is not None
    assert [(name, cells[0] and cells[0].text) for name, cells in heat.rows] == [
        ("a", "80.0"),
        ("b", "60.0"),
        ("a, Random real images", "40.0"),
        ("b, Random real images", "70.0"),
        ("Whole training set", "90.0"),
    ]


def test_sets_of_one_name_go_by_more_of_their_urls():
    found = made(*(accuracy("distilled", 50.0, set=name) for name in ("one/runs/a", "two/runs/a/", "b")))
    heat = cross_architecture(found)
    assert heat is not None
    assert [name for name, _ in heat.rows] == ["one/runs/a", "two/runs/a", "b"]


def test_networks_of_several_sets_are_told():
    found = made(accuracy("distilled", 80.0, sets=5, repeats=100, note="more"), accuracy("random", 50.0, repeats=20))
    table = accuracy_table(found, memory=False)
    column = [column.name for column in table.columns].index("Networks")
    assert [row.cells[column] for row in table.rows] == [("5 x 20", ""), ("20", "")]
    assert notes(found) == [
        ("Distilled set", "5 x 20 is 20 networks on each of 5 sets, distilled alike with a seed each"),
        ("Distilled set", "more"),
    ]


def test_ways_of_scoring_are_columns_and_labels_rows():
    found = made(
        accuracy("distilled", 80.0, labels="soft", augment="dsa:flip_crop", net="lenet"),
        accuracy("distilled", 70.0, labels="hard", augment="dsa:flip_crop", net="lenet"),
        accuracy("distilled", 60.0, labels="soft", net="mlp"),
        accuracy("random", 50.0, labels="hard", net="mlp"),
    )
    heat = cross_architecture(found)
    assert heat is not None
    assert heat.columns == ("lenet, protocol frepo, augmentation dsa: flip, crop", "mlp, protocol frepo")
    assert [(name, [cell and cell.text for cell in cells]) for name, cells in heat.rows] == [
        ("Distilled set, soft labels", ["80.0", "60.0"]),
        ("Distilled set, hard labels", ["70.0", None]),
        ("Random real images", [None, "50.0"]),
    ]


def test_equal_accuracies_have_no_heat():
    heat = published_map(Cross("x", ("A", "B"), (("r", (50.0, 50.0)),)))
    assert heat.rows == (("r", (Heat("50.0", 0), Heat("50.0", 0))),)


def test_the_headline_is_one_way_of_scoring():
    found = made(
        accuracy("distilled", 80.0, labels="soft"),
        accuracy("distilled", 79.0, labels="hard"),
        accuracy("distilled", 78.0, predictor="krr"),
        accuracy("distilled", 77.0, net="lenet"),
        accuracy("random", 50.0),
        accuracy("random", 49.0, augment="dsa:flip"),
    )
    assert [(score.result.of, score.result.mean) for score in headline(found)] == [
        ("distilled", 80.0),
        ("random", 50.0),
    ]
    assert headline([]) == []


def test_columns_that_tell_nothing_are_left_out():
    old = accuracy_table(made(accuracy("distilled", 80.0), accuracy("random", 50.0)), memory=False)
    assert [column.name for column in old.columns] == ["Accuracy", "Images", "Storage"]
    assert dict(old.common) == {
        "Networks": "2",
        "Protocol": "frepo",
        "Predictor": "trained network",
        "Network": "convnet: width=8, depth=1, norm=none",
    }
    rows = made(
        accuracy("distilled", 80.0, lr=0.01, images_per_class=115.0, stored_images_per_class=1.0),
        accuracy("random", 50.0, lr=0.1, images_per_class=1.0, stored_images_per_class=0.2504),
    )
    table = accuracy_table(rows, memory=True)
    names = [column.name for column in table.columns]
    assert names == ["Accuracy", "Learning rate", "Images", "A class, by count", "A class, by storage", "Storage"]
    assert table.rows[1].cells[1:5] == (("0.1", ""), ("1,234", ""), ("1", ""), ("0.2504", ""))
    assert not {name for name in names if name.startswith("A class")} & {
        column.name for column in accuracy_table(rows, memory=False).columns
    }


def test_a_single_network_has_no_deviation():
    table = accuracy_table(made(accuracy("distilled", 80.0, repeats=1, std=0.0)), memory=False)
    assert table.rows[0].cells[0] == ("80.0", "")
    assert math.isclose(made(accuracy("distilled", 80.0))[0].result.std, 1.25)
