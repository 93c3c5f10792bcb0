from __future__ import annotations

import dataclasses
import gc
import io
import os
import secrets
import select
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from raydd.data import pack as pack_module
from raydd.data import shardwork
from raydd.data.arrays import ArraySource
from raydd.data.index import load_index, verify_shards
from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.data.shardwork import Task
from raydd.errors import ConfigError, DataError, RaydError
from raydd.store import Folder
from tests.data.makers import encoded, pixels, small_mnist, tar, tree, write_folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a nominal MiB hold five 8x8 images, so that tiny sets have several shards."""
    monkeypatch.setattr(pack_module, "_MEMBER_BYTES", 2**20 // 5 - 64)


def test_pack_says_what_is_there(tmp_path: Path) -> None:
    images, labels = small_mnist(tmp_path / "mnist")
    index = pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"))
    assert (index.name, index.split, index.channels, index.size) == ("mnist", "train", 1, 8)
    assert index.counts.tolist() == [4] * 10
    assert sorted(tree(tmp_path / "out")) == ["index.json", "index.safetensors", "shard-000000.tar"]
    for label in range(10):
        values = images[labels == label].astype(int)
        assert index.channel_sum[label].tolist() == [values.sum()]
        assert index.channel_sq[label].tolist() == [(values**2).sum()]
    data = (tmp_path / "out" / "shard-000000.tar").read_bytes()
    for row in range(40):
        payload = data[index.offset[row] :][: index.length[row]]
        wanted = images[labels == index.label[row]][row % 4]
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(payload))), wanted)
    assert verify_shards(Folder(str(tmp_path / "out")), index) == []


def test_members_carry_nothing_of_the_machine(tmp_path: Path) -> None:
    small_mnist(tmp_path / "mnist", num=10)
    pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        infos = archive.getmembers()
    assert [i.name for i in infos[:4]] == ["00000000.png", "00000000.cls", "00000001.png", "00000001.cls"]
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # the library's own
@pytest.mark.usefixtures("small_shards")
def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    images, labels = small_mnist(tmp_path / "mnist")
    index = pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"), shard_mb=2)
    urls = [str(tmp_path / "out" / shard.name) for shard in index.shards]
    assert len(urls) > 2
    samples = list(wds.WebDataset(urls, shardshuffle=False))
    gc.collect()
    assert [int(s["cls"]) for s in samples] == sorted(labels.tolist())
    wanted = images[np.argsort(labels, kind="stable")]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(io.BytesIO(s["png"]))) for s in samples]), wanted)


def test_cuts_keep_small_classes_whole() -> None:
    def cuts(counts: list[int], per_shard: int) -> list[tuple[int, int]]:
        return list(pack_module._cuts(counts, per_shard))

    assert cuts([3, 3, 3], 6) == [(0, 6), (6, 9)]
    assert cuts([4, 4, 4], 6) == [(0, 4), (4, 8), (8, 12)]
    assert cuts([2, 13, 2], 6) == [(0, 2), (2, 6), (6, 10), (10, 15), (15, 17)]
    assert cuts([6], 6) == [(0, 6)]
    assert cuts([1, 1], 1) == [(0, 1), (1, 2)]


class Stop(Exception):
    """Stands for Ctrl-C or kill -9 between two shards."""


@pytest.mark.usefixtures("small_shards")
def test_same_bytes_interrupted_or_in_another_order(tmp_path: Path) -> None:
    small_mnist(tmp_path / "mnist")
    source = f"mnist:{tmp_path / 'mnist'}"
    seen: list[tuple[int, int]] = []
    pack(source, str(tmp_path / "a"), shard_mb=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8, 40), (16, 40), (24, 40), (32, 40), (40, 40)]

    def stop(done: int, _total: int) -> None:
        if done >= 24:
            raise Stop

    with pytest.raises(Stop):
        pack(source, str(tmp_path / "b"), shard_mb=2, progress=stop)
    with pytest.raises(DataError, match="expected packed shards with index"):
        load_index(Folder(str(tmp_path / "b")))
    shard = tmp_path / "b" / "shard-000000.tar"
    kept = shard.stat().st_mtime_ns
    (tmp_path / "b" / "shard-000001.tar").write_bytes(b"cut short")
    (tmp_path / "b" / "parts" / "000002.json").write_bytes(b"{")
    assert len(pack(source, str(tmp_path / "b"), shard_mb=2)) == 40
    assert shard.stat().st_mtime_ns == kept

    def backwards(function: Callable[[Task], Any], tasks: Sequence[Task]) -> Iterator[Any]:
        return (function(task) for task in reversed(tasks))

    pack(source, str(tmp_path / "c"), shard_mb=2, map=backwards)
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(tmp_path / "c")


def test_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {name: [pixels(i, 500, 500, 3) for i in range(2)] for name in "ab"})
    source = f"folder:{tmp_path / 'set'}"
    index = pack(source, str(tmp_path / "one"), shard_mb=1)
    assert len(index.shards) == 4
    # In a process of its own, as a user's script would be: workers are spawned, not forked.
    script = "import sys\nfrom raydd.data.pack import pack\nif __name__ == '__main__':\n"
    script += "    pack(sys.argv[1], sys.argv[2], shard_mb=1, workers=2)\n"
    (tmp_path / "script.py").write_text(script)
    subprocess.run([sys.executable, tmp_path / "script.py", source, str(tmp_path / "two")], check=True, timeout=60)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_error_in_a_worker_comes_back_whole(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {name: [pixels(i, 500, 500, 3) for i in range(2)] for name in "ab"})
    bad = tmp_path / "set" / "b" / "001.png"
    bad.write_bytes(bad.read_bytes()[:-5000])
    with pytest.raises(DataError, match=r"b/001\.png: expected an image, got one that does not decode"):
        pack(f"folder:{tmp_path / 'set'}", str(tmp_path / "out"), shard_mb=1, workers=2)
    assert not (tmp_path / "out" / "index.json").exists()


def test_tasks_and_parts_are_plain_data(tmp_path: Path) -> None:
    small_mnist(tmp_path / "mnist", num=10)
    tasks: list[Task] = []

    def take(function: Callable[[Task], dict[str, Any]], items: Sequence[Task]) -> Iterator[dict[str, Any]]:
        tasks.extend(items)
        return (function(task) for task in items)

    pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"), map=take)
    assert {type(v) for t in tasks for v in dataclasses.astuple(t)} <= {str, int, bool, tuple}
    assert {type(v) for t in tasks for v in (*t.labels, *t.refs)} == {int}


def test_finished_pack_is_returned_without_its_source(tmp_path: Path) -> None:
    small_mnist(tmp_path / "mnist")
    source, dest = f"mnist:{tmp_path / 'mnist'}", tmp_path / "out"
    index = pack(source, str(dest))
    (tmp_path / "mnist" / "train-images-idx3-ubyte").unlink()
    before = tree(dest)
    assert pack(source, str(dest)).hash == index.hash
    assert tree(dest) == before


def test_dest_of_something_else_is_refused_and_untouched(tmp_path: Path) -> None:
    small_mnist(tmp_path / "mnist")
    small_mnist(tmp_path / "other")
    source, dest = f"mnist:{tmp_path / 'mnist'}", tmp_path / "out"
    pack(source, str(dest))
    before = tree(dest)
    for other, options, text in (
        (f"mnist:{tmp_path / 'other'}", {}, "expected a new folder or a pack with source mnist:.*/other, got one with"),
        (source, {"size": 16}, "with size 16, got one with None"),
        (source, {"shard_mb": 1}, "with shard_mb 1, got one with 64"),
    ):
        with pytest.raises(DataError, match=text) as caught:
            pack(other, str(dest), **options)
        assert caught.value.exit_code == 2
    assert tree(dest) == before


def test_unfinished_pack_of_a_source_that_changed_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a": [pixels(0, 4, 4, 3)]})
    source, dest = f"folder:{tmp_path / 'set'}", tmp_path / "out"

    def stop(_done: int, _total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        pack(source, str(dest), progress=stop)
    write_folder(tmp_path / "set", {"a": [pixels(0, 4, 4, 3), pixels(1, 4, 4, 3)]})
    before = tree(dest)
    with pytest.raises(DataError, match="pack with plan"):
        pack(source, str(dest))
    assert tree(dest) == before


# images of folders


def test_files_keep_their_bytes_and_get_their_true_extension(tmp_path: Path) -> None:
    jpeg, png = encoded(pixels(0, 8, 8, 3), "JPEG"), encoded(pixels(1, 8, 8, 3), "PNG")
    (tmp_path / "set" / "a").mkdir(parents=True)
    for name, data in (("0.JPEG", jpeg), ("1.JPEG", png), ("2.bmp", encoded(pixels(2, 8, 8, 3), "BMP"))):
        (tmp_path / "set" / "a" / name).write_bytes(data)
    pack(f"folder:{tmp_path / 'set'}", str(tmp_path / "out"))
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as archive:
        content = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}  # pyrefly: ignore
    assert (content["00000000.jpg"], content["00000001.png"]) == (jpeg, png)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content["00000002.png"]))), pixels(2, 8, 8, 3))


def test_ragged_images_need_a_size(tmp_path: Path) -> None:
    write_folder(tmp_path / "set", {"a": [pixels(0, 8, 8, 3)], "b": [pixels(1, 8, 12, 3)]})
    source = f"folder:{tmp_path / 'set'}"
    with pytest.raises(DataError, match=r"b/000\.png: expected 8x8 pixels like the first image, got 12x8: give --size"):
        pack(source, str(tmp_path / "out"))
    pack(source, str(tmp_path / "sized"), size=4)
    data = RealData(str(tmp_path / "sized"))
    middle = pixels(1, 8, 12, 3)[:, 2:10].reshape(4, 2, 4, 2, 3).astype(float).mean(axis=(1, 3))
    got = data.images(torch.tensor([1]))[0].permute(1, 2, 0).numpy().astype(float)
    assert np.abs(got - middle).max() <= 1  # PIL rounds once an axis
    write_folder(tmp_path / "wide", {"a": [pixels(0, 8, 12, 3)]})
    with pytest.raises(DataError, match=r"a/000\.png: expected square images, got 12x8: give --size"):
        pack(f"folder:{tmp_path / 'wide'}", str(tmp_path / "out2"))
    assert not (tmp_path / "out2").exists()


def test_folder_is_grey_only_where_every_class_begins_grey(tmp_path: Path) -> None:
    grey, colour = pixels(0, 4, 4, 1), pixels(1, 4, 4, 3)
    write_folder(tmp_path / "mixed", {"a": [grey], "b": [colour]})
    assert pack(f"folder:{tmp_path / 'mixed'}", str(tmp_path / "1")).channels == 3
    images = RealData(str(tmp_path / "1")).images(torch.arange(2))
    np.testing.assert_array_equal(images[0].numpy(), np.stack([grey] * 3))
    write_folder(tmp_path / "grey", {"a": [grey], "b": [grey]})
    assert pack(f"folder:{tmp_path / 'grey'}", str(tmp_path / "2")).channels == 1
    write_folder(tmp_path / "late", {"a": [grey, colour], "b": [grey]})
    with pytest.raises(DataError, match=r"a/001\.png: expected a grey image like the set's first ones, got mode RGB"):
        pack(f"folder:{tmp_path / 'late'}", str(tmp_path / "3"))


def test_size_applies_to_arrays_and_single_jpegs_alike(tmp_path: Path) -> None:
    images, _ = small_mnist(tmp_path / "mnist", num=10)
    index = pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"), size=4)
    assert index.size == 4
    means = images.reshape(10, 4, 2, 4, 2).astype(float).mean(axis=(2, 4))
    got = RealData(str(tmp_path / "out")).images(torch.arange(10))[:, 0].numpy().astype(float)
    assert np.abs(got - means).max() <= 1


def test_pack_between_stores(tmp_path: Path) -> None:
    bucket = Folder(f"memory://{secrets.token_hex(6)}")
    for name in ("a", "b"):
        bucket.write(f"set/train/{name}/0.png", encoded(pixels(ord(name), 4, 4, 3)))
        bucket.write(f"set/test/{name}/0.png", encoded(pixels(0, 4, 4, 3)))
    index = pack(f"folder:{bucket.url}/set", f"{bucket.url}/out", split="test")
    assert (index.split, len(index)) == ("test", 2)
    pack(f"folder:{bucket.url}/set", f"{bucket.url}/train")
    images = RealData(f"{bucket.url}/train").images(torch.tensor([1, 0]))
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), pixels(ord("b"), 4, 4, 3))


@pytest.mark.parametrize("options", [{"size": 0}, {"shard_mb": 0}, {"workers": 0}])
def test_options_out_of_range(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        pack("digits", str(tmp_path), **options)


def test_dest_without_permission_is_one_line(tmp_path: Path) -> None:
    small_mnist(tmp_path / "mnist", num=10)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RaydError) as caught:
        pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "file" / "out"))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


# existing shards


def foreign(folder: Path, edge: int = 4) -> list[np.ndarray]:
    """Two shards by somebody else: keys of their own, classes mixed; returns the images in file order."""
    arrays = [pixels(i, edge, edge, 3) for i in range(5)]
    labels = [1, 0, 1, 0, 0]
    folder.mkdir(parents=True)
    for name, rows in (("a", range(3)), ("b", range(3, 5))):
        members = [
            (f"x/{i}.{ext}", d) for i in rows for ext, d in (("png", encoded(arrays[i])), ("cls", b"%d" % labels[i]))
        ]
        (folder / f"{name}.tar").write_bytes(tar(members))
    return arrays


def test_existing_shards_are_indexed_in_place(tmp_path: Path) -> None:
    arrays = foreign(tmp_path / "theirs")
    before = tree(tmp_path / "theirs")
    index = pack(f"webdataset:{tmp_path / 'theirs'}", str(tmp_path / "out"))
    assert tree(tmp_path / "theirs") == before
    assert sorted(tree(tmp_path / "out")) == ["index.json", "index.safetensors"]
    assert index.label.tolist() == [1, 0, 1, 0, 0]
    assert [s.name for s in index.shards] == ["a.tar", "b.tar"]
    data = RealData(str(tmp_path / "out"))
    got = data.images(torch.arange(5)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(got, np.stack([arrays[i] for i in (1, 3, 4, 0, 2)]))
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    values = np.stack([arrays[0], arrays[2]]).astype(int)
    assert index.channel_sum[1].tolist() == values.sum(axis=(0, 1, 2)).tolist()


def test_index_in_the_shards_own_folder_may_be_moved(tmp_path: Path) -> None:
    foreign(tmp_path / "theirs")
    index = pack(f"webdataset:{tmp_path / 'theirs'}", str(tmp_path / "theirs"))
    (tmp_path / "theirs").rename(tmp_path / "moved")
    assert load_index(Folder(str(tmp_path / "moved"))).hash == index.hash
    assert len(RealData(str(tmp_path / "moved")).images(torch.arange(5))) == 5


def test_existing_shards_with_a_size_are_packed_anew(tmp_path: Path) -> None:
    foreign(tmp_path / "theirs", edge=8)
    index = pack(f"webdataset:{tmp_path / 'theirs'}", str(tmp_path / "out"), size=4)
    assert (index.size, index.label.tolist(), index.base) == (4, [0, 0, 0, 1, 1], "")
    assert [s.name for s in index.shards] == ["shard-000000.tar"]


def test_existing_shard_with_a_bad_image_names_it(tmp_path: Path) -> None:
    good = encoded(pixels(0, 4, 4, 3))
    (tmp_path / "theirs").mkdir()
    members = [("a.png", good), ("a.cls", b"0"), ("b.png", good[:-30]), ("b.cls", b"0")]
    (tmp_path / "theirs" / "x.tar").write_bytes(tar(members))
    with pytest.raises(DataError, match=r"x\.tar at byte 2560: expected an image, got one that does not decode"):
        pack(f"webdataset:{tmp_path / 'theirs'}", str(tmp_path / "out"))


def test_worker_leaves_ctrl_c_to_its_parent_and_ends_with_it(tmp_path: Path) -> None:
    script = """
import concurrent.futures, multiprocessing, os, signal
from raydd.data.pack import _begin_worker
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(1, context, _begin_worker)
    assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    print(pool.submit(os.getpid).result(), flush=True)
    input()
"""
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended, _, _ = select.select([worker], [], [], 30)
        os.close(worker)
    assert ended


def test_source_is_read_once_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_mnist(tmp_path / "mnist", num=10)
    calls: list[str] = []
    read = ArraySource._read
    monkeypatch.setattr(ArraySource, "_read", lambda self, split: calls.append(split) or read(self, split))
    pack(f"mnist:{tmp_path / 'mnist'}", str(tmp_path / "out"))
    assert calls == ["train"]
    assert shardwork.opened.cache_info().currsize == 0
