"""Views: parts of packed shards, rotated or permuted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.data.sources import parse
from raydd.data.views import View
from raydd.errors import DataError


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("views") / "digits")
    pack("digits", url, split="test")
    return url


def _packed(view: View, dest: Path) -> RealData:
    pack(view.source, str(dest))
    return RealData(str(dest))


def test_parts_are_disjoint_and_complete(digits: str, tmp_path: Path) -> None:
    whole = RealData(digits)
    parts = [_packed(View(of=digits, part=(i, 3)), tmp_path / str(i)) for i in range(3)]
    assert [sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)] == list(whole.counts)
    assert max(len(part) for part in parts) - min(len(part) for part in parts) <= whole.num_classes
    seen = torch.cat([part.images(torch.arange(len(part))) for part in parts]).flatten(1)
    everything = whole.images(torch.arange(len(whole))).flatten(1)
    assert sorted(seen.tolist()) == sorted(everything.tolist())
    assert parts[0].index.name == "digits"


def test_classes_are_those_asked_for(digits: str, tmp_path: Path) -> None:
    view = _packed(View(of=digits, classes=["7", 2]), tmp_path / "v")
    whole = RealData(digits)
    assert view.class_names == ("7", "2")
    assert torch.equal(view.images(view.by_class[0]), whole.images(whole.by_class[7]))


def test_images_are_rotated(digits: str, tmp_path: Path) -> None:
    whole = RealData(digits)
    view = _packed(View(of=digits, rotate=90), tmp_path / "v")
    ids = torch.arange(len(whole))
    assert torch.equal(view.images(ids), whole.images(ids).rot90(1, (2, 3)))


def test_pixels_are_permuted_alike_in_all_images(digits: str, tmp_path: Path) -> None:
    whole = RealData(digits)
    ids = torch.arange(len(whole))
    plain, other = (
        whole.images(ids).flatten(1),
        _packed(View(of=digits, permute=2), tmp_path / "v").images(ids).flatten(1),
    )
    assert not torch.equal(plain, other)
    assert torch.equal(plain.sort(1).values, other.sort(1).values)
    # A pixel's values over all images move together.
    assert sorted(plain.T.tolist()) == sorted(other.T.tolist())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("view:{}", "view: of: Field required"),
        ('view:{"of": "x", "turn": 3}', "view: turn: Extra inputs are not permitted"),
        ('view:{"of": "x", "part": [2, 2]}', r"view: part must be \[i, n\] with i < n, got \[2, 2\]"),
        ("view:nonsense", "view: JSON: Invalid JSON"),
    ],
)
def test_a_view_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(text)
