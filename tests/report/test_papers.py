from __future__ import annotations

import pytest

from raydd.report.papers import SHAPES, TABLE, WHOLE, published


def test_the_method_comes_first_then_random_then_the_whole_set():
    cells = published("cifar10", (10, 3, 32), "dm", 10)
    assert [(cell.method, cell.mean, cell.std) for cell in cells] == [
        ("dm", 48.9, 0.6),
        ("dm", 49.2, None),
        ("random", 26.0, 1.2),
        ("whole", 84.8, None),
    ]
    assert all(cell.protocol for cell in cells)


@pytest.mark.parametrize(
    ("data", "shape", "method", "ipc", "mean"),
    [
        ("mnist", (10, 1, 28), "frepo", 1, 93.0),
        ("mnist", (10, 1, 28), "dm", 50, 98.6),
        ("fashion-mnist", (10, 1, 28), "frepo", 10, 86.2),
        ("cifar100", (100, 3, 32), "frepo", 10, 42.5),
        ("cifar100", (100, 3, 32), "dm", 1, 11.4),
        ("tiny-imagenet", (200, 3, 64), "frepo", 1, 15.4),
    ],
)
def test_cells(data, shape, method, ipc, mean):
    first = published(data, shape, method, ipc)[0]
    assert (first.method, first.mean) == (method, mean)


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


def test_a_cell_that_is_empty_is_left_out():
    assert published("tiny-imagenet", (200, 3, 64), "dm", 50) == []


def test_the_table_is_whole():
    assert set(TABLE) == set(SHAPES)
    assert set(WHOLE) <= set(TABLE)
    for rows in TABLE.values():
        for _, _, cells in rows:
            assert all(cell is None or 0 < cell[0] < 100 for cell in cells)
