"""A pull brings all of a set or nothing, and goes on where it was interrupted."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest
import torch

from raydd.catalogue import problems
from raydd.distilled import DistilledSet
from raydd.errors import DataError, IntegrityError
from raydd.pulling import pull
from raydd.store import Folder
from tests.data.makers import tree
from tests.sets import large_zca, make_set, random_pixels


def make_run(run: Folder) -> None:
    """A run with a large whitening, which lies in the store."""
    run.write("config.yaml", b"name: a\n")
    make_set(size=16, zca=large_zca()).save(run.folder("distilled"), transforms=run.parent.folder("transforms"))


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "runs") if request.param == "disk" else f"memory://{secrets.token_hex(6)}/runs")


def test_a_pulled_set_stands_alone(store: Folder, tmp_path: Path) -> None:
    make_run(store.folder("a"))
    copy = pull(store.folder("a").url, str(tmp_path / "here/copy"))
    assert copy == str(tmp_path / "here/copy")
    store.delete(*store.list())
    again = DistilledSet.load(copy)
    assert torch.equal(again.pixels(), random_pixels(8, 3, 16))
    assert problems(copy) == []
    assert pull(copy, str(tmp_path / "again")) == str(tmp_path / "again")
    assert tree(tmp_path / "again") == tree(tmp_path / "here/copy")
    (name,) = [name for name in tree(tmp_path / "again") if name.startswith("transforms/")]
    (tmp_path / "again" / name).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=name):
        pull(str(tmp_path / "again"), str(tmp_path / "third"))
    assert not (tmp_path / "third").exists()


def test_pulling_to_the_top_of_a_bucket(tmp_path: Path) -> None:
    make_run(Folder(str(tmp_path / "runs/a")))
    bucket = f"memory://{secrets.token_hex(6)}"
    assert pull(str(tmp_path / "runs/a"), bucket) == bucket
    assert torch.equal(DistilledSet.load(bucket).pixels(), random_pixels(8, 3, 16))


def test_what_lies_at_the_destination_is_left_alone(tmp_path: Path) -> None:
    make_run(Folder(str(tmp_path / "runs/a")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(
        DataError, match=r"expected an empty folder or a distilled set at .*/mine, got other files; choose"
    ):
        pull(str(tmp_path / "runs/a"), str(tmp_path / "mine"))
    assert tree(tmp_path / "mine") == {"notes.txt": b"x"}


def test_a_damaged_set_is_not_pulled(tmp_path: Path) -> None:
    make_run(Folder(str(tmp_path / "runs/a")))
    file = tmp_path / "runs/a/distilled/README.md"
    file.write_text(file.read_text() + "and more")
    with pytest.raises(IntegrityError, match=str(file)):
        pull(str(tmp_path / "runs/a"), str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
