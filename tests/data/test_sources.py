from __future__ import annotations

import bz2
import gzip
import io
import pickle
import secrets
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from raydd.data import sources
from raydd.data.samples import Source
from raydd.errors import DataError
from raydd.store import Folder
from tests.data.makers import cifar_pickle, encoded, idx, pixels, small_mnist, tar, write_folder, write_mnist
from tests.data.test_plainpickle import Runs


def all_pixels(source: Source, split: str) -> np.ndarray:
    samples = source.open(split)
    return np.stack([np.asarray(source.load(split, ref)) for ref in samples.refs])


def in_class_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.concatenate([images[labels == label] for label in range(int(labels.max()) + 1)])


# digits


def test_digits_test_split_is_a_fixed_stratified_fifth() -> None:
    source = sources.parse("digits")
    train, test = source.open("train"), source.open("test")
    counts_train, counts_test = np.bincount(train.labels), np.bincount(test.labels)
    # The counts of scikit-learn's classes, from its description.
    whole = np.array([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    np.testing.assert_array_equal(counts_train + counts_test, whole)
    np.testing.assert_array_equal(counts_test, whole // 5)
    rows = {image.tobytes() for image in all_pixels(source, "train")}
    assert not rows & {image.tobytes() for image in all_pixels(source, "test")}
    assert train.channels == 1
    assert sorted(set(np.unique(all_pixels(source, "test")).tolist())) == [round(v * 255 / 16) for v in range(17)]
    again = sources.parse("digits")
    np.testing.assert_array_equal(all_pixels(again, "test"), all_pixels(source, "test"))


# MNIST


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_mnist_in_all_its_places(tmp_path: Path, packed: bool, below: str) -> None:
    images, labels = np.stack([pixels(i, 4, 4, 1) for i in range(12)]), np.arange(12) % 3
    write_mnist(tmp_path / below, images, labels, packed=packed)
    source = sources.parse(f"mnist:{tmp_path}")
    samples = source.open("train")
    assert samples.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert samples.classes == tuple("0123456789")
    np.testing.assert_array_equal(all_pixels(source, "train"), in_class_order(images, labels))


def test_fashion_mnist_never_takes_mnists_files(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw", np.zeros((2, 4, 4), np.uint8), np.array([0, 1]))
    with pytest.raises(DataError, match=r"expected a file train-images-idx3-ubyte \(plain, .gz or .bz2\), got none"):
        sources.parse(f"fashion-mnist:{tmp_path}").open("train")
    write_mnist(tmp_path / "FashionMNIST" / "raw", np.ones((2, 4, 4), np.uint8), np.array([9, 1]))
    assert sources.parse(f"fashion-mnist:{tmp_path}").open("train").classes[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "expected an idx file of uint8 with 3 dimensions"),
        (bytes([0, 0, 9, 3]) + bytes(12), "expected an idx file of uint8 with 3 dimensions, got 00000903"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "expected a sane shape"),
        (bytes([0, 0, 8, 3]) + bytes([0, 0, 0, 0] * 3), "expected a sane shape"),
        (idx(np.zeros((3, 4, 4), np.uint8))[:-1], r"expected 48 bytes for shape \(3, 4, 4\), got 47"),
        (idx(np.zeros((3, 4, 4), np.uint8)) + b"x", r"expected 48 bytes for shape \(3, 4, 4\), got more"),
        (bytes([0, 0, 8, 3, 0, 0, 255, 255, 0, 0, 1, 0, 0, 0, 1, 0]) + b"xy", "got 2"),
    ],
)
def test_hostile_idx_headers(tmp_path: Path, data: bytes, text: str) -> None:
    small_mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data)
    with pytest.raises(DataError, match=text):
        sources.parse(f"mnist:{tmp_path}").open("train")


def test_truncated_gzip_and_wrong_counts_and_labels(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4), np.uint8)
    write_mnist(tmp_path, images, np.array([0, 1]), packed=True)
    with pytest.raises(DataError, match="expected a label for each of 3 images, got 2"):
        sources.parse(f"mnist:{tmp_path}").open("train")
    write_mnist(tmp_path, images, np.array([0, 1, 10]), packed=True)
    with pytest.raises(DataError, match="expected labels 0 to 9, got 0 to 10"):
        sources.parse(f"mnist:{tmp_path}").open("train")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(images))[:-9])
    with pytest.raises(DataError, match=r"images-idx3-ubyte\.gz: expected a whole file"):
        sources.parse(f"mnist:{tmp_path}").open("train")


# USPS, SVHN


@pytest.mark.parametrize("packed", [False, True])
def test_usps(tmp_path: Path, packed: bool) -> None:
    text = b"10 1:-1 2:1 256:0.5\n1 3:0\n"
    name = "usps.t.bz2" if packed else "usps.t"
    (tmp_path / name).write_bytes(bz2.compress(text) if packed else text)
    source = sources.parse(f"usps:{tmp_path}")
    assert source.open("test").labels.tolist() == [0, 9]
    first, second = all_pixels(source, "test").reshape(2, 256)
    assert (first[2], first.sum()) == (128, 128)  # round((0 + 1) * 127.5), all others -1
    assert (second[0], second[1], second[255]) == (0, 255, 191)


@pytest.mark.parametrize("line", ["x 1:0", "1 257:0", "1 0:0", "1 1:7", "1 1:nan", "1 1", "1 1:inf"])
def test_usps_line_out_of_form(tmp_path: Path, line: str) -> None:
    (tmp_path / "usps").write_text(f"1 1:0\n{line}\n")
    with pytest.raises(DataError, match=r"usps line 2: expected `label index:value \.\.\.`"):
        sources.parse(f"usps:{tmp_path}").open("train")


def test_svhn_label_ten_is_zero(tmp_path: Path) -> None:
    images = np.stack([pixels(i, 32, 32, 3) for i in range(3)])
    labels = np.array([10, 2, 10])
    savemat(tmp_path / "train_32x32.mat", {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]})
    source = sources.parse(f"svhn:{tmp_path}")
    assert source.open("train").labels.tolist() == [0, 0, 2]
    np.testing.assert_array_equal(all_pixels(source, "train"), images[[0, 2, 1]])
    (tmp_path / "test_32x32.mat").write_bytes((tmp_path / "train_32x32.mat").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"test_32x32\.mat: expected a Matlab 5 file with X and y"):
        source.open("test")


# CIFAR


def test_cifar10_pickled_and_binary_agree(tmp_path: Path) -> None:
    images = np.stack([pixels(i, 32, 32, 3) for i in range(10)])
    labels = [9, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    (tmp_path / "bin").mkdir()
    for i in range(5):
        pair, at = images[2 * i : 2 * i + 2], labels[2 * i : 2 * i + 2]
        cifar_pickle(tmp_path / "py" / "cifar-10-batches-py" / f"data_batch_{i + 1}", pair, {b"labels": at})
        planes = pair.transpose(0, 3, 1, 2).reshape(2, 3072)
        records = np.concatenate([np.array(at, np.uint8)[:, None], planes], axis=1)
        (tmp_path / "bin" / f"data_batch_{i + 1}.bin").write_bytes(records.tobytes())
    expected = images[np.argsort(labels)]
    for folder in ("py", "py/cifar-10-batches-py", "bin"):
        source = sources.parse(f"cifar10:{tmp_path / folder}")
        assert source.open("train").labels.tolist() == list(range(10))
        np.testing.assert_array_equal(all_pixels(source, "train"), expected)


def test_cifar100_takes_fine_labels(tmp_path: Path) -> None:
    images = np.stack([pixels(i, 32, 32, 3) for i in range(2)])
    content = {b"fine_labels": [7, 99], b"coarse_labels": [1, 2]}
    cifar_pickle(tmp_path / "test", images, content)
    cifar_pickle(tmp_path / "meta", images, {b"fine_label_names": [f"c{i}".encode() for i in range(100)]})
    samples = sources.parse(f"cifar100:{tmp_path}").open("test")
    assert samples.labels.tolist() == [7, 99]
    assert samples.classes[99] == "c99"
    binary = tmp_path / "cifar-100-binary"
    binary.mkdir()
    rows = images.transpose(0, 3, 1, 2).reshape(2, 3072)
    both = np.concatenate([np.array([[1, 7], [2, 99]], np.uint8), rows], axis=1)
    (binary / "train.bin").write_bytes(both.tobytes())
    (tmp_path / "meta").unlink()
    (binary / "fine_label_names.txt").write_text("\n".join(f"c{i}" for i in range(100)))
    source = sources.parse(f"cifar100:{tmp_path}")
    assert source.open("train").labels.tolist() == [7, 99]
    np.testing.assert_array_equal(all_pixels(source, "train"), images)


def test_cifar_with_code_in_it(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    cifar_pickle(tmp_path / "test_batch", pixels(0, 32, 32, 3)[None], {b"labels": Runs(str(mark))})
    with pytest.raises(DataError, match=r"test_batch: expected a pickle of arrays and text, got one that holds code"):
        sources.parse(f"cifar10:{tmp_path}").open("test")
    assert not mark.exists()


def test_cifar_binary_truncated(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 * 2 - 1))
    with pytest.raises(DataError, match="expected records of 3073 bytes, got 6145 bytes in all"):
        sources.parse(f"cifar10:{tmp_path}").open("test")


# folders


def test_folder_with_splits(tmp_path: Path) -> None:
    a, b, c = (pixels(i, 4, 4, 3) for i in range(3))
    write_folder(tmp_path / "train", {"dog": [a, b], "cat": [c]})
    write_folder(tmp_path / "test", {"dog": [b], "cat": [a]})
    (tmp_path / "train" / "dog" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "dog" / "._000.png").write_text("no image")
    source = sources.parse(f"folder:{tmp_path}")
    assert (source.splits, source.test_split) == (("train", "test"), "test")
    samples = source.open("train")
    assert (samples.classes, samples.labels.tolist()) == (("cat", "dog"), [0, 1, 1])
    assert [source.load("train", ref) for ref in samples.refs] == [encoded(c), encoded(a), encoded(b)]
    assert [source.load("test", ref) for ref in source.open("test").refs] == [encoded(a), encoded(b)]


def test_folder_without_splits_and_at_a_url(tmp_path: Path) -> None:
    folder = Folder(f"memory://{secrets.token_hex(6)}/images")
    folder.write("one/a.png", encoded(pixels(0, 4, 4, 3)))
    folder.write("two/b.png", encoded(pixels(1, 4, 4, 3)))
    source = sources.parse(f"folder:{folder.url}")
    assert source.open("train").classes == ("one", "two")
    assert source.test_split is None
    with pytest.raises(DataError, match="expected a split of train, got 'test'"):
        sources.resolve_split(source, "test")


def test_folder_errors_name_the_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected class folders with images, got none"):
        sources.parse(f"folder:{tmp_path / 'absent'}").open("train")
    write_folder(tmp_path / "train", {"cat": [pixels(0, 4, 4, 3)], "dog": []})
    with pytest.raises(DataError, match="expected images of every class, got none of dog"):
        sources.parse(f"folder:{tmp_path}").open("train")
    write_folder(tmp_path, {"train/dog": [pixels(0, 4, 4, 3)], "test/emu": [pixels(1, 4, 4, 3)]})
    with pytest.raises(DataError, match="expected the classes of train, got emu in test as well"):
        sources.parse(f"folder:{tmp_path}").open("test")


def test_tiny_imagenet(tmp_path: Path) -> None:
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    for wnid in ("n01", "n02"):
        write_folder(tmp_path / "train" / wnid, {"images": [pixels(int(wnid[1:]), 4, 4, 3)]}, "JPEG")
    for name in ("val_0.JPEG", "val_1.JPEG", "val_2.JPEG"):
        (tmp_path / "val" / "images" / name).write_bytes(name.encode())
    lines = "val_0.JPEG\tn01\t0\t0\t1\t1\nval_2.JPEG\tn02\t0\t0\t1\t1\nval_1.JPEG\tn02\t0\t0\t1\t1\n"
    (tmp_path / "val" / "val_annotations.txt").write_text(lines)
    source = sources.parse(f"tiny-imagenet:{tmp_path}")
    samples = source.open("train")
    assert samples.classes == ("n02", "n01")  # the order of wnids.txt
    assert source.load("train", samples.refs[0]) == encoded(pixels(2, 4, 4, 3), "JPEG")
    assert sources.resolve_split(source, "test") == "val"
    val = source.open("val")
    assert [source.load("val", ref) for ref in val.refs] == [b"val_1.JPEG", b"val_2.JPEG", b"val_0.JPEG"]
    (tmp_path / "val" / "val_annotations.txt").write_text(lines + "../x.JPEG\tn01\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt line 4: expected a file of val/images"):
        source.open("val")


def devkit(synsets: list[tuple[int, str, int]], truth: list[int]) -> bytes:
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    mat = io.BytesIO()
    savemat(mat, {"synsets": np.array(synsets, dtype=fields)})
    folder = "ILSVRC2012_devkit_t12/data"
    text = "".join(f"{n}\n" for n in truth).encode()
    members = [(f"{folder}/meta.mat", mat.getvalue()), (f"{folder}/ILSVRC2012_validation_ground_truth.txt", text)]
    return gzip.compress(tar(members))


def test_imagenet_tars_are_read_in_place(tmp_path: Path) -> None:
    first = tar([("n02_1.JPEG", b"two-b" * 200), ("n02_0.JPEG", b"two-a")])
    second = tar([("n01_0.JPEG", b"one-a")])
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar([("n02.tar", first), ("n01.tar", second)]))
    val = tar([(f"ILSVRC2012_val_0000000{i}.JPEG", b"v%d" % i) for i in (3, 1, 2)])
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(val)
    kit = devkit([(1, "n02", 0), (2, "n01", 0), (3, "n00", 2)], truth=[1, 2, 1])
    (tmp_path / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(kit)
    source = sources.parse(f"imagenet:{tmp_path}")
    assert (source.splits, source.test_split) == (("train", "val"), "val")
    samples = source.open("train")
    assert (samples.classes, samples.labels.tolist()) == (("n01", "n02"), [0, 1, 1])
    assert [source.load("train", ref) for ref in samples.refs] == [b"one-a", b"two-a", b"two-b" * 200]
    samples = source.open("val")
    assert samples.labels.tolist() == [0, 1, 1]
    assert [source.load("val", ref) for ref in samples.refs] == [b"v2", b"v1", b"v3"]


def test_imagenet_tar_truncated(tmp_path: Path) -> None:
    inner = tar([("n01_0.JPEG", bytes(2000)), ("n01_1.JPEG", bytes(2000))])
    path = tmp_path / "ILSVRC2012_img_train.tar"
    path.write_bytes(tar([("n01.tar", inner)])[:3000])
    with pytest.raises(DataError, match=r"img_train\.tar: expected a whole tar"):
        sources.parse(f"imagenet:{tmp_path}").open("train")
    path.write_bytes(tar([("n01.tar", inner[:2560])]))
    with pytest.raises(DataError, match=r"member n01\.tar: expected a whole tar"):
        sources.parse(f"imagenet:{tmp_path}").open("train")


# webdataset


def test_webdataset_labels_and_ignored_members(tmp_path: Path) -> None:
    png = [encoded(pixels(i, 4, 4, 3)) for i in range(3)]
    mark = tmp_path / "ran"
    hostile = pickle.dumps(Runs(str(mark)))
    first = [("a.png", png[0]), ("a.cls", b"1"), ("a.pkl", hostile), ("../b.PNG", png[1]), ("../b.cls", b"0\n")]
    (tmp_path / "x-0.tar").write_bytes(tar(first))
    (tmp_path / "x-1.tar").write_bytes(tar([("c.cls", b"1"), ("c.png", png[2]), ("c.json", b"{}")]))
    for spec in (f"webdataset:{tmp_path}", f"webdataset:{tmp_path}/x-{{0..1}}.tar"):
        source = sources.parse(spec)
        samples = source.open("train")
        assert samples.labels.tolist() == [0, 1, 1]
        assert [source.load("train", ref) for ref in samples.refs] == [png[1], png[0], png[2]]
    assert not mark.exists()


PNG = encoded(pixels(0, 4, 4, 3))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([], "expected samples, got an empty shard"),
        ([("a.png", PNG)], r"sample '/a': expected one image \(jpg, jpeg, png, webp\) and a cls, got \['png'\]"),
        ([("a.cls", b"0")], r"got \['cls'\]"),
        ([("a.png", PNG), ("a.jpg", PNG), ("a.cls", b"0")], "expected one image"),
        ([("a.png", PNG), ("a.cls", b"dog")], "expected a class number in cls, got b'dog'"),
        ([("a.png", PNG), ("a.cls", b"-1")], "expected a class number in cls"),
        ([("a.png", PNG), ("a.cls", b"1")], "expected samples of every class|expected labels 0 to classes - 1"),
        ([("a.png", PNG), ("a.cls", b"999999999")], "expected labels 0 to classes - 1"),
        ([("a.png", PNG), ("a.png", PNG), ("a.cls", b"0")], "expected every member once, got 'a.png' twice"),
        ([("a.png", b""), ("a.cls", b"0")], "expected an image, got no bytes"),
    ],
)
def test_webdataset_refuses(tmp_path: Path, members: list[tuple[str, bytes]], text: str) -> None:
    (tmp_path / "x.tar").write_bytes(tar(members))
    with pytest.raises(DataError, match=text):
        sources.parse(f"webdataset:{tmp_path}").open("train")


def test_webdataset_truncated_anywhere(tmp_path: Path) -> None:
    members = [(f"{i}.{ext}", data) for i in range(3) for ext, data in (("png", PNG), ("cls", b"0"))]
    whole = tar(members)
    (tmp_path / "x.tar").write_bytes(whole)
    source = sources.parse(f"webdataset:{tmp_path}")
    assert len(source.open("train").refs) == 3
    content = 3 * 4 * 512  # two members of one block each a sample, with their headers
    for end in range(0, content + 1, 256):
        (tmp_path / "x.tar").write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"x\.tar: expected a whole tar"):
            source.open("train")


def test_webdataset_sparse_member(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"expected plain files, got the sparse 'a\.png'"):
        sources.parse(f"webdataset:{tmp_path}").open("train")


# SOURCE strings


def test_is_source_tells_sources_from_urls() -> None:
    assert sources.is_source("digits")
    assert sources.is_source("webdataset:s3://b/x")
    assert not sources.is_source("s3://b/mnist")
    assert not sources.is_source("mnist")
    assert not sources.is_source("./digits")


@pytest.mark.parametrize("text", ["mnist", "mnist:", "digits:/x", "imagenet21k:/x", "s3://b/x", ""])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(DataError, match="expected"):
        sources.parse(text)


def test_spec_is_absolute_and_parses_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in sources.SOURCES.keys() - {"view"}:
        text = name if name == "digits" else f"{name}:data"
        spec = sources.parse(text).spec
        assert spec == ("digits" if name == "digits" else f"{name}:{tmp_path / 'data'}")
        assert sources.parse(spec).spec == spec
    assert (
        sources.parse('view:{"of": "data", "rotate": 30}').spec
        == sources.parse(f'view:{{"rotate": 30.0, "of": "{tmp_path / "data"}"}}').spec
    )
