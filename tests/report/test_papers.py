from __future__ import annotations

import pytest

from raydd.data.names import PARTS
from raydd.report.papers import CROSS, SHAPES, TABLE, WHOLE, published, published_cross


def test_the_method_comes_first_then_random_then_others_then_the_whole_set():
    cells = published("svhn", (10, 3, 32), "dsa", 10)
    assert [(cell.method, cell.mean, cell.std) for cell in cells] == [
        ("dsa", 79.2, 0.5),
        ("random", 35.1, 4.1),
        ("rtp", 89.1, 0.2),
        ("dc", 76.1, 0.6),
        ("kip", 75.0, 0.1),
        ("herding", 50.5, None),
        ("forgetting", 16.8, None),
        ("kcenter", 14.0, None),
        ("whole", 95.4, None),
    ]
    assert all(cell.protocol for cell in cells)


@pytest.mark.parametrize(
    ("data", "shape", "method", "ipc", "means"),
    [
        ("mnist", (10, 1, 28), "frepo", 1, [93.0, 92.6]),
        ("mnist", (10, 1, 28), "dm", 50, [98.6]),
        ("mnist", (10, 1, 28), "dd", 10, [79.5, 96.6]),
        ("fashion-mnist", (10, 1, 28), "frepo", 10, [86.2, 86.8]),
        ("svhn", (10, 3, 32), "rtp", 1, [87.3]),
        ("cifar10", (10, 3, 32), "dm", 10, [48.9, 49.2]),
        ("cifar10", (10, 3, 32), "dm", 1000, [79.8]),
        ("cifar10", (10, 3, 32), "mmd", 50, [50.9]),
        ("cifar10", (10, 3, 32), "dc", 1, [28.3, 24.2]),
        ("cifar100", (100, 3, 32), "frepo", 10, [42.5, 44.9]),
        ("cifar100", (100, 3, 32), "dm", 1, [11.4]),
        ("tiny-imagenet", (200, 3, 64), "frepo", 1, [15.4, 19.1]),
        ("imagenette", (10, 3, 128), "frepo", 10, [66.5]),
        ("imagewoof", (10, 3, 128), "mtt", 1, [28.6]),
        ("imagenet", (1000, 3, 64), "frepo", 2, [9.7]),
        ("cub-200", (200, 3, 32), "frepo", 1, [12.4]),
    ],
)
def test_cells(data, shape, method, ipc, means):
    assert [cell.mean for cell in published(data, shape, method, ipc) if cell.method == method] == means


def test_regression_and_training_are_told_apart():
    trained, regression = published("cifar10", (10, 3, 32), "frepo", 50)[:2]
    assert (trained.mean, regression.mean) == (71.7, 74.4)
    assert "kernel ridge regression" in regression.protocol
    assert "kernel ridge regression" not in trained.protocol


@pytest.mark.parametrize(
    ("data", "shape", "ipc"),
    [
        (None, (10, 1, 28), 1),
        ("digits", (10, 1, 8), 1),
        ("mnist", (5, 1, 28), 1),
        ("mnist", (10, 1, 14), 1),
        ("mnist", (10, 1, 28), 2),
        ("mnist", (10, 1, 28), 1.5),
    ],
)
def test_what_the_papers_do_not_have(data, shape, ipc):
    assert published(data, shape, "frepo", ipc) == []
    assert published_cross(data, shape, ipc) == ()


def test_a_cell_that_is_empty_is_left_out():
    assert [cell.method for cell in published("tiny-imagenet", (200, 3, 64), "dm", 50)] == ["mtt"]


def test_across_networks():
    (cross,) = published_cross("mnist", (10, 1, 28), 1)
    table = dict(cross.rows)
    assert table["ConvNet"][cross.targets.index("ResNet")] == 90.0
    assert table["ResNet"][cross.targets.index("MLP")] == 73.6
    (cross,) = published_cross("cifar10", (10, 3, 32), 10)
    assert dict(cross.rows)["FRePo"] == (65.5, 65.5, 58.1, 57.7, 59.4, 61.9)


def test_the_tables_are_whole():
    assert set(TABLE) == set(SHAPES)
    assert set(WHOLE) <= set(TABLE)
    assert set(PARTS) <= set(TABLE)
    for rows in TABLE.values():
        for method, protocol, cells in rows:
            assert protocol
            assert cells, method
            assert all(0 < mean < 100 and (std is None or 0 <= std < 10) for mean, std in cells.values())
    for (data, _), tables in CROSS.items():
        assert data in TABLE
        for cross in tables:
            assert all(len(values) == len(cross.targets) for _, values in cross.rows)
