"""Data sets that are fetched; a server on loopback stands in for their publishers."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from raydd.data import download as fetching
from raydd.data.download import DOWNLOADS, TINY, Part, download
from raydd.data.sources import SOURCES, parse
from raydd.errors import StoreFault, UserError
from tests.data.makers import encoded, pixels, write_mnist


class Publisher:
    """A folder that is served, and what was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, asked = folder, []
        self.asked: list[str] = asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                asked.append(self.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def part(self, name: str, *mirrors: str) -> Part:
        md5 = hashlib.md5((self.folder / name).read_bytes()).hexdigest()
        return Part((*(f"{mirror}/{name}" for mirror in mirrors), f"{self.url}/{name}"), md5)


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    (tmp_path / "served").mkdir()
    publisher = Publisher(tmp_path / "served")
    yield publisher
    publisher.server.shutdown()
    publisher.server.server_close()


def offer(publisher: Publisher, monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> np.ndarray:
    """Offer MNIST's training files; return their images."""
    images = np.stack([pixels(i, 8, 8, 1) for i in range(20)])
    write_mnist(publisher.folder, images, np.arange(20) % 10, packed=True)
    names = sorted(path.name for path in publisher.folder.iterdir())
    monkeypatch.setitem(DOWNLOADS, "mnist", lambda: [publisher.part(name, *mirrors) for name in names])
    return images


def test_files_are_fetched_once(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = offer(publisher, monkeypatch)
    source = f"mnist:{tmp_path}/new/mnist"
    download(source, "train")
    found = parse(source)
    samples = found.open("train")
    assert np.array_equal(np.stack([found.load("train", ref) for ref in sorted(samples.refs)]), images)
    publisher.asked.clear()
    download(source, "train")
    assert publisher.asked == []


def test_what_was_left_half_is_fetched_anew(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(publisher, monkeypatch)
    (tmp_path / "train-images-idx3-ubyte.gz.part").write_bytes(b"half")
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    download(f"mnist:{tmp_path}", "train")
    parse(f"mnist:{tmp_path}").open("train")
    assert not list(tmp_path.glob("*.part"))


def test_another_address_is_tried(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(publisher, monkeypatch, f"{publisher.url}/nowhere")
    download(f"mnist:{tmp_path}/mnist", "train")
    assert len(parse(f"mnist:{tmp_path}/mnist").open("train").labels) == 20
    assert "/nowhere/train-images-idx3-ubyte.gz" in publisher.asked
    assert list((tmp_path / "mnist").glob("*.part")) == []


def test_an_archive_is_unpacked_where_its_folder_belongs(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(publisher.folder / f"{TINY}.zip", "w") as archive:
        archive.writestr(f"{TINY}/wnids.txt", "n01\nn02\n")
        for wnid in ("n01", "n02"):
            archive.writestr(f"{TINY}/train/{wnid}/images/{wnid}_0.JPEG", encoded(pixels(0, 64, 64, 3), "JPEG"))
    monkeypatch.setitem(DOWNLOADS, "tiny-imagenet", lambda: [publisher.part(f"{TINY}.zip")])
    download(f"tiny-imagenet:{tmp_path}/{TINY}", "train")
    assert parse(f"tiny-imagenet:{tmp_path}/{TINY}").open("train").classes == ("n01", "n02")
    with pytest.raises(UserError, match=f"expected a ROOT that ends in {TINY}, .* got '/.*/elsewhere'"):
        download(f"tiny-imagenet:{tmp_path}/elsewhere", "train")


def test_what_cannot_be_had_is_one_line(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(publisher, monkeypatch)
    for name in [path.name for path in publisher.folder.iterdir()]:
        (publisher.folder / name).write_bytes(b"something else")
    (publisher.folder / "none").write_bytes(b"")
    right = Part((f"{publisher.url}/train-images-idx3-ubyte.gz",), "0" * 32)
    monkeypatch.setitem(DOWNLOADS, "mnist", lambda: [right])
    with pytest.raises(
        StoreFault, match=r"expected to fetch train-images-idx3-ubyte.gz, got http.*corrupted.*; try again"
    ):
        download(f"mnist:{tmp_path}/mnist", "train")
    assert list((tmp_path / "mnist").iterdir()) == []
    monkeypatch.setitem(DOWNLOADS, "mnist", lambda: [Part((f"{publisher.url}/gone.gz",), "0" * 32)])
    with pytest.raises(StoreFault, match=r"got http.*gone.gz: HTTP Error 404.*; try again, or get its files yourself"):
        download(f"mnist:{tmp_path}/mnist", "train")
    monkeypatch.setattr(fetching, "PATIENCE_S", 1.0)
    for source in ("imagenet:somewhere", "digits", "folder:somewhere"):
        with pytest.raises(UserError, match=r"--download fetches mnist, .*; get its files yourself"):
            download(source, "train")


def test_every_kind_says_where_its_files_are() -> None:
    assert set(DOWNLOADS) < set(SOURCES)
    for parts in DOWNLOADS.values():
        for part in parts():
            assert all(url.startswith("http") and not url.endswith("/") for url in part.urls)
            assert len(bytes.fromhex(part.md5)) == 16
