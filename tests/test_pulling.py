"""A pull brings all of a set or nothing, and goes on where it was interrupted."""

from __future__ import annotations

import re
import secrets
import subprocess
import threading
from pathlib import Path

import pytest
import torch

import raydd
from raydd import distilled
from raydd.catalogue import problems, show
from raydd.distilled import DistilledSet, read_transform
from raydd.errors import DataError, IntegrityError, StoreError
from raydd.export import export
from raydd.pulling import pull
from raydd.store import Folder
from raydd.store.content import RANGE_BYTES
from tests.data.makers import tree
from tests.s3 import Fault, Proxy
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
    heard: list[tuple[int, int]] = []
    copy = pull(store.folder("a").url, str(tmp_path / "here/copy"), lambda done, total: heard.append((done, total)))
    assert copy == str(tmp_path / "here/copy")
    whole = sum(len(data) for name, data in tree(tmp_path / "here/copy").items() if name != "manifest.json")
    assert heard == sorted(heard)
    assert heard[-1] == (whole, whole)
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


def test_a_damaged_set_takes_the_place_of_none(tmp_path: Path) -> None:
    make_set().save(Folder(str(tmp_path / "copy")))
    before = tree(tmp_path / "copy")
    make_run(Folder(str(tmp_path / "runs/a")))
    (tmp_path / "runs/a/distilled/README.md").write_text("other")
    with pytest.raises(IntegrityError, match=r"README\.md"):
        pull(str(tmp_path / "runs/a"), str(tmp_path / "copy"))
    assert tree(tmp_path / "copy") == before


def test_an_interrupted_pull_goes_on(store: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(store.folder("a"))
    write, written = Folder.write, []

    def fails(self: Folder, name: str, data: bytes) -> None:
        if len(written) == 2:
            raise StoreError("made to fail")
        written.append(name)
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", fails)
        with pytest.raises(StoreError, match="made to fail"):
            pull(store.folder("a").url, str(tmp_path / "copy"))
    assert sorted(tree(tmp_path / "copy")) == sorted(written)
    pull(store.folder("a").url, str(tmp_path / "copy"))
    assert problems(str(tmp_path / "copy")) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / written[0]).write_text("mine")
    with pytest.raises(DataError, match="got other files"):
        pull(store.folder("a").url, str(tmp_path / "other"))
    assert tree(tmp_path / "other") == {written[0]: b"mine"}


def test_a_set_takes_the_place_of_another(store: Folder, tmp_path: Path) -> None:
    make_set(name="old").save(store.folder("old"))
    make_set(name="new", ipc=3).save(store.folder("new"))
    for name, images in (("old", 8), ("new", 12), ("new", 12)):
        pull(store.folder(name).url, str(tmp_path / "copy"))
        ds = DistilledSet.load(str(tmp_path / "copy"))
        assert (ds.recipe.name, len(ds)) == (name, images)
        assert problems(str(tmp_path / "copy")) == []
    (tmp_path / "copy" / "data.safetensors").write_bytes(b"damaged")
    pull(store.folder("new").url, str(tmp_path / "copy"))
    assert problems(str(tmp_path / "copy")) == []


def test_a_lossy_export_is_the_same_mistake_everywhere(tmp_path: Path) -> None:
    url = export(make_set(), str(tmp_path / "made"), "folder").url
    told = re.escape(
        f"expected a distilled set at {url}, got a lossy export of one (--format folder); take the set itself"
    )
    for verb in (raydd.load, DistilledSet.load, show, lambda url: pull(url, str(tmp_path / "copy"))):
        with pytest.raises(DataError, match=told):
            verb(url)
    (problem,) = problems(url)
    assert re.match(told, problem)


def test_a_transform_of_an_odd_name_or_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transforms = Folder(str(tmp_path))
    with pytest.raises(IntegrityError, match=r"expected a transform named by its sha256 in .*, got '\.\./x'"):
        read_transform(transforms, "../x")
    monkeypatch.setattr(distilled, "LARGEST_TRANSFORM", 10)
    transforms.write(f"{'a' * 64}.safetensors", b"x" * 11)
    with pytest.raises(IntegrityError, match="expected at most 10 bytes, got 11"):
        read_transform(transforms, "a" * 64)


@pytest.mark.s3
def test_loaded_once_more_only_the_manifest_is_read(
    proxy: Proxy, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    base = Folder(f"{s3_url}/{secrets.token_hex(4)}")
    ds = make_set(size=16, zca=large_zca())
    ds.save(base.folder("runs", "a", "distilled"), transforms=base.folder("runs", "transforms"))
    ds.save(base.folder("b"))
    proxy.sent.clear()
    first = raydd.load(base.folder("runs", "a").url)
    files = {path.rpartition("/")[2].split("?")[0] for path, _ in proxy.sent}
    transform = f"{first.recipe.transform_file}.safetensors"
    assert files == {"manifest.json", "recipe.json", "data.safetensors", transform}
    proxy.sent.clear()
    for url in (base.folder("runs", "a").url, base.folder("b").url):
        again = raydd.load(url)
        assert torch.equal(again.pixels(), first.pixels())
        assert torch.equal(again.images, ds.images)
    assert {path.rpartition("/")[2].split("?")[0] for path, _ in proxy.sent} == {"manifest.json"}


@pytest.mark.s3
def test_killed_in_the_midst_of_a_file(
    proxy: Proxy, s3_url: str, tmp_path: Path, raydd_command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of seven ranges four are asked for at once, and those that have come are not asked for again."""
    learned = torch.rand(6 << 20, generator=torch.Generator().manual_seed(1))
    source = Folder(f"{s3_url}/{secrets.token_hex(4)}")
    make_set(extras={"learned": learned}).save(source)
    size, dest = source.size("data.safetensors"), tmp_path / "copy"
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    ranges: list[str] = []
    killed = threading.Event()

    def kills(method: str, path: str) -> Fault:
        if method == "GET" and "data.safetensors" in path:
            ranges.append(path)
            if len(ranges) == 6:
                program.kill()
                killed.set()
            if len(ranges) > 4:
                killed.wait(60)
                return "drop"
        return None

    proxy.fault = kills
    program = subprocess.Popen([*raydd_command, "pull", source.url, str(dest)], stderr=subprocess.PIPE)
    assert re.fullmatch(rb"pulling: \d/25177 kB\n", program.communicate(timeout=200)[1])
    assert program.returncode == -9
    assert not dest.exists()
    proxy.fault = lambda method, path: None
    proxy.sent.clear()
    assert pull(source.url, str(dest)) == str(dest)
    assert sum(sent for path, sent in proxy.sent if "data.safetensors" in path) == size - 4 * RANGE_BYTES
    assert torch.equal(DistilledSet.load(str(dest)).extras["learned"], learned)
    assert problems(str(dest)) == []
