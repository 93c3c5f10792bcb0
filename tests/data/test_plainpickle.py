from __future__ import annotations

import collections
import os
import pickle

import numpy as np
import pytest

from raydd.data import plainpickle
from raydd.errors import DataError


class Runs:
    """An object whose pickle runs a command when it is read."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_and_text_come_back(protocol: int, order: str) -> None:
    array = np.asarray(np.arange(24, dtype="<u2").reshape(4, 6), order=order)
    content = {b"data": array, "labels": [3, 1], b"name": b"x", "n": 2.5}
    got = plainpickle.load(pickle.dumps(content, protocol=protocol), "f")
    np.testing.assert_array_equal(got["data"], array)
    assert got["data"].dtype == array.dtype
    assert (got["labels"], got["name"], got["n"]) == ([3, 1], b"x", 2.5)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_is_refused_by_name_and_not_run(tmp_path, protocol: int) -> None:
    mark = tmp_path / "ran"
    data = pickle.dumps({"data": np.zeros(3, np.uint8), "x": Runs(str(mark))}, protocol=protocol)
    with pytest.raises(
        DataError, match=r"^f: expected a pickle of arrays and text, .* holds code: it names .*\.system"
    ):
        plainpickle.load(data, "f")
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()], dtype=object),
        np.zeros(2, dtype=[("a", "i4")]),
        collections.OrderedDict(a=1),
        np.ma.zeros(3),
        {1, 2}.__len__,
    ],
)
def test_all_but_plain_arrays_is_refused(value: object) -> None:
    with pytest.raises(DataError):
        plainpickle.load(pickle.dumps({"data": value}, protocol=2), "f")


def test_array_that_claims_more_than_it_holds_is_refused() -> None:
    data = pickle.dumps({"data": np.zeros((2, 3), np.uint8)}, protocol=2)
    shape = b"K\x02K\x03\x86"
    assert data.count(shape) == 1
    with pytest.raises(DataError, match=r"shape \(255, 255\) with 6 bytes"):
        plainpickle.load(data.replace(shape, b"K\xffK\xff\x86"), "f")


def test_file_cannot_alter_the_reader_for_later_files() -> None:
    # GLOBAL numpy dtype, then BUILD with (None, {"function": None}): an attempt to set an attribute of what it named.
    attack = b"\x80\x02cnumpy\ndtype\nN}X\x08\x00\x00\x00functionNs\x86b."
    with pytest.raises(DataError):
        plainpickle.load(attack, "f")
    array = np.arange(3, dtype=np.uint8)
    got = plainpickle.load(pickle.dumps({"data": array}, protocol=2), "f")
    np.testing.assert_array_equal(got["data"], array)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x80\x02}q\x00", pickle.dumps([1], 2), b"\x80\x05cos\nsystem\n."])
def test_damaged_or_no_dict(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^f: expected a pickle"):
        plainpickle.load(data, "f")


def test_every_truncation_is_refused() -> None:
    data = pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]}, protocol=2)
    for end in range(len(data)):
        with pytest.raises(DataError):
            plainpickle.load(data[:end], "f")
