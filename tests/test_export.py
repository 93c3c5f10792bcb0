"""Exports open where people open them, keep every bit where they say so, and are there whole or not at all."""

from __future__ import annotations

import gc
import io
import json
import secrets
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
import webdataset
import yaml
from PIL import Image

import raydd
from raydd.catalogue import problems
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError, DataError, StoreError
from raydd.export import export, folder_names
from raydd.store import Folder
from tests.data.makers import tree
from tests.sets import NAMES, large_zca, make_set


def same(one: DistilledSet, other: DistilledSet) -> bool:
    tensors = [(one.images, other.images), (one.labels, other.labels)]
    tensors += [(value, other.extras[key]) for key, value in one.extras.items()]
    tensors += [(v, other.preprocessing.to_tensors()[k]) for k, v in one.preprocessing.to_tensors().items()]
    # The name of a large transform's file is set when a set is saved.
    recipes = one.recipe, replace(other.recipe, transform_file=None)
    return all(torch.equal(a, b) for a, b in tensors) and recipes[0] == recipes[1]


SETS = {
    "soft": make_set(),
    "hard": make_set(soft=False, channels=1),
    "whitened": make_set(size=16, zca=large_zca()),
    "extras": make_set(soft=False, extras={"lr_inner": torch.rand(2, 3, generator=torch.Generator().manual_seed(1))}),
}


@pytest.mark.parametrize("format", ["webdataset", "hf"])
@pytest.mark.parametrize("ds", SETS.values(), ids=SETS)
def test_lossless_ones_are_read_back_to_the_last_bit(ds: DistilledSet, format: str, tmp_path: Path) -> None:
    done = export(ds, str(tmp_path / "made"), format)
    assert (done.images, done.lossy) == (8, "")
    assert same(ds, raydd.load(done.url))
    assert problems(done.url) == []
    files = {name for name in tree(tmp_path / "made") if name != "manifest.json"}
    assert done.files == len(files)
    assert done.bytes == sum((tmp_path / "made" / name).stat().st_size for name in files)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("soft", [True, False])
def test_webdataset_reads_the_tars(soft: bool, tmp_path: Path) -> None:
    ds = make_set(soft=soft, ipc=3)
    # A sample of this size takes some 4 KB of tar, so three fit below the limit and the fourth makes it.
    export(ds, str(tmp_path / "made"), "webdataset", shard_bytes=12_000)
    shards = sorted(path.name for path in (tmp_path / "made").glob("*.tar"))
    assert shards == [f"train-{i:06d}.tar" for i in range(len(shards))]
    assert len(shards) > 1
    assert f"train-{{000000..{len(shards) - 1:06d}}}.tar" in (tmp_path / "made" / "README.md").read_text()
    pattern = f"{tmp_path}/made/train-{{000000..{len(shards) - 1:06d}}}.tar"
    samples = list(webdataset.WebDataset(pattern, shardshuffle=False).decode())
    gc.collect()  # it leaves its files open, and would be found at the end of all tests
    assert [sample["cls"] for sample in samples] == ds.targets.tolist()
    assert [sample["json"]["class"] for sample in samples] == [NAMES[c] for c in ds.targets.tolist()]
    images = np.stack([sample["npy"] for sample in samples])
    assert images.dtype == np.float32
    assert torch.equal(torch.from_numpy(images), ds.images)
    if soft:
        assert torch.equal(torch.from_numpy(np.stack([sample["label.npy"] for sample in samples])), ds.labels)
    else:
        assert "label.npy" not in samples[0]


def test_datasets_reads_both(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the package `datasets`")
    ds, made, cache = make_set(), tmp_path / "made", str(tmp_path / "cache")
    for format in ("webdataset", "hf"):
        export(ds, str(made / format), format)
    read = {"split": "train", "cache_dir": cache}
    tars = datasets.load_dataset("webdataset", data_files={"train": f"{made}/webdataset/train-*.tar"}, **read)
    assert torch.equal(torch.from_numpy(np.array(tars.with_format("numpy")["npy"], dtype=np.float32)), ds.images)
    assert tars["cls"] == ds.targets.tolist()
    rows = datasets.load_dataset(f"{made}/hf", **read)
    assert rows.features["label"].names == list(NAMES)
    numbers = rows.with_format("numpy")
    assert torch.equal(torch.from_numpy(np.stack(numbers["pixel_values"])), ds.images)
    assert torch.equal(torch.from_numpy(np.stack(numbers["soft_label"])), ds.labels)
    assert rows[0]["image"].size == (8, 8)


@pytest.mark.parametrize("soft", [True, False])
def test_hugging_face_layout(soft: bool, tmp_path: Path) -> None:
    """What `datasets` goes by: the card's front matter names the file, the file's schema names the types."""
    ds = make_set(soft=soft)
    export(ds, str(tmp_path / "made"), "hf")
    card = (tmp_path / "made" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["task_categories"] == ["image-classification"]
    assert head["size_categories"] == ["n<1K"]
    ((split,),) = [config["data_files"] for config in head["configs"]]
    recipe = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert recipe == json.loads(json.dumps(ds.recipe.to_json()))
    table = pyarrow.parquet.read_table(tmp_path / "made" / split["path"])
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names
    assert features["label"] == {"names": list(NAMES), "_type": "ClassLabel"}
    rows = table.to_pylist()
    assert torch.equal(torch.tensor([row["pixel_values"] for row in rows]), ds.images)
    assert [row["label"] for row in rows] == ds.targets.tolist()
    assert ("soft_label" in features) == soft
    if soft:
        assert torch.equal(torch.tensor([row["soft_label"] for row in rows]), ds.labels)
    with Image.open(io.BytesIO(rows[3]["image"]["bytes"])) as picture:
        assert np.array_equal(np.asarray(picture), ds.pixels()[3].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_imagefolder_reads_the_folder_which_says_that_it_is_lossy(channels: int, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    ds = make_set(channels=channels)
    done = export(ds, str(tmp_path / "made"), "folder")
    read = ImageFolder(done.url)
    assert read.classes == list(NAMES)
    assert read.targets == ds.targets.tolist()
    shown = ds.pixels().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(np.asarray(image), shown[i]) for i, (image, _) in enumerate(read))
    assert done.lossy == "learned pixels are clamped and rounded to 8 bits; soft labels become their strongest class"
    assert done.lossy in (tmp_path / "made" / "README.md").read_text()
    assert json.loads((tmp_path / "made" / "recipe.json").read_text())["method"] == "frepo"
    with pytest.raises(DataError, match=r"expected a distilled set at .*made, got a lossy export of one"):
        raydd.load(done.url)
    extras = export(SETS["extras"], str(tmp_path / "more"), "folder")
    assert extras.lossy.endswith("what else was learned is left out (lr_inner)")


@pytest.mark.parametrize(
    "bad",
    [
        "../up",
        "a/b",
        "",
        ".",
        "..",
        ".hidden",
        "two\nlines",
        "back\\slash",
        "README.md",
        "manifest.json",
        "x" * 300,
        "dog",
    ],
)
def test_classes_that_cannot_be_folders_become_numbers(bad: str, tmp_path: Path) -> None:
    ds = make_set(classes=3, ipc=1)
    ds = replace(ds, recipe=replace(ds.recipe, classes=("cat", "dog", bad)))
    done = export(ds, str(tmp_path / "in" / "made"), "folder")
    assert {name.split("/")[0] for name in tree(Path(done.url)) if "/" in name} == {"0000", "0001", "0002"}
    assert f"| 2 | 0002 | {json.dumps(bad)} |" in (Path(done.url) / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_numbered_classes_keep_their_order() -> None:
    names = folder_names(tuple(f"class/{i}" for i in range(20_000)))
    assert names == sorted(names)
    assert names[7] == "00007"


def test_same_bytes_every_time(tmp_path: Path) -> None:
    for format in ("webdataset", "hf", "folder"):
        export(make_set(), str(tmp_path / "a" / format), format)
        export(make_set(), str(tmp_path / "b" / format), format)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_mistakes_are_told_and_change_nothing(tmp_path: Path) -> None:
    ds, taken = make_set(), tmp_path / "taken"
    with pytest.raises(ConfigError, match="expected a format out of webdataset, folder, hf, got 'zip'"):
        export(ds, str(tmp_path / "new"), "zip")
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"expected a new or empty folder at .*/taken, got files; choose another"):
        export(ds, str(taken), "hf")
    with pytest.raises(DataError, match="got files"):
        export(ds, str(taken / "mine.txt"), "hf")
    with pytest.raises(StoreError, match="cannot make the folder"):
        export(ds, str(taken / "mine.txt" / "below"), "hf")
    with pytest.raises(DataError, match="expected a distilled set with images, got made without any"):
        export(replace(ds, images=ds.images[:0], labels=ds.labels[:0]), str(tmp_path / "new"), "hf")
    assert tree(tmp_path) == {"taken/mine.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    assert export(ds, str(tmp_path / "empty"), "hf").images == 8


@pytest.mark.parametrize("format", ["webdataset", "hf", "folder"])
def test_an_interrupted_export_leaves_nothing(format: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(make_set(), str(tmp_path / "made"), format, progress=interrupt)
    assert seen == [(i, 8) for i in range(1, 6)]
    assert list(tmp_path.iterdir()) == []


def test_what_was_altered_is_named(tmp_path: Path) -> None:
    done = export(make_set(), str(tmp_path / "made"), "webdataset")
    shard = tmp_path / "made" / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(bytes(data))
    (problem,) = problems(done.url)
    assert "train-000000.tar: altered" in problem


@pytest.mark.s3
def test_to_s3_with_the_manifest_last(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ds, base = make_set(), f"{s3_url}/{secrets.token_hex(4)}"
    done = export(ds, f"{base}/made", "webdataset")
    assert same(ds, raydd.load(done.url))
    with tarfile.open(fileobj=io.BytesIO(Folder(done.url).read("train-000000.tar"))) as tar:
        assert tar.getnames()[:4] == ["00000.npy", "00000.cls", "00000.json", "00000.label.npy"]
    with pytest.raises(DataError, match="expected a new or empty folder"):
        export(ds, f"{base}/made", "hf")
    upload, names = Folder.upload, []

    def fails(self: Folder, name: str, path: Path) -> None:
        names.append(name)
        if len(names) == 4:
            raise StoreError("made to fail")
        upload(self, name, path)

    monkeypatch.setattr(Folder, "upload", fails)
    with pytest.raises(StoreError, match="made to fail"):
        export(ds, f"{base}/other", "webdataset")
    assert "manifest.json" not in names
    assert Folder(f"{base}/other").list() == []
