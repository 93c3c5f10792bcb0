"""Hundreds of runs are listed from a few small files each, filtered, sorted, and laid out on one page."""

from __future__ import annotations

import base64
import io
import json
import re
import secrets
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydd.data.names import PARTS
from raydd.listing import Wanted, runs
from raydd.report.gallery import _edge, write_gallery
from raydd.store import Folder
from raydd.store.local import LocalBackend
from tests.cli.program import command
from tests.runs import IPCS, files_of, make_runs, preview_of
from tests.s3 import Proxy
from tests.sets import make_set

COUNT = 240
KINDS = ("read", "size", "names", "folders", "read_ranges", "write")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("many") / "runs"
    make_runs(store, COUNT)
    (store / "transforms").mkdir()
    (store / "transforms" / "x.safetensors").write_bytes(b"x")
    return store


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every operation on the disk, as `kind path`."""
    seen: list[str] = []
    for kind in KINDS:
        do = getattr(LocalBackend, kind)

        def counted(self: LocalBackend, path: str, *more: object, do=do, kind=kind) -> object:
            seen.append(f"{kind} {path}")
            return do(self, path, *more)

        monkeypatch.setattr(LocalBackend, kind, counted)
    return seen


def test_four_small_files_a_run(many: Path, operations: list[str]) -> None:
    listed = runs(str(many))
    assert [facts["name"] for facts in listed] == [f"run-{i:03d}" for i in range(COUNT)]
    assert len(operations) <= 4 * COUNT + 4
    assert not [line for line in operations if "safetensors" in line or "preview" in line]
    assert listed[7] == {
        **{
            "name": "run-007",
            "url": f"{many}/run-007",
            "kind": "run",
            "state": "finished",
            "method": "frepo",
            "dataset": "mnist",
        },
        **{"ipc": 10, "bytes": 993, "accuracy": {"random": 33.25, "distilled": 68.5}, "std": 1.25, "repeats": 5},
        **{"protocol": "dsa", "net": "convnet", "round": 100, "rounds": 100, "seconds": 67.0, "workers": 2},
    }


def test_of_runs_that_are_not_wanted_the_recipe_is_all(many: Path, operations: list[str]) -> None:
    listed = runs(str(many), Wanted(method="dm", ipc=10, dataset="cifar10"), "accuracy")
    assert len(listed) == COUNT // 12
    assert {(facts["method"], facts["ipc"], facts["dataset"]) for facts in listed} == {("dm", 10, "cifar10")}
    accuracies = [facts["accuracy"]["distilled"] for facts in listed]
    assert accuracies == sorted(accuracies, reverse=True)
    assert len(operations) <= 2 * COUNT + 2 * len(listed) + 4


def test_orders(tmp_path: Path) -> None:
    make_runs(tmp_path, 8)
    (tmp_path / "new").mkdir()
    (tmp_path / "new/config.yaml").write_text("name: new\ndata: {train: 'mnist:root'}\nmethod: {name: dm}\n")
    assert [facts["name"][-1] for facts in runs(str(tmp_path), sort="bytes")] == [*"76543210", "w"]
    assert [facts["name"][-1] for facts in runs(str(tmp_path), sort="ipc")] == [*"01234567", "w"]
    assert runs(str(tmp_path), sort="accuracy")[-1]["state"] == "starting"
    (new,) = runs(str(tmp_path), Wanted(dataset="mnist", method="dm"), "seconds")[-1:]
    assert (new["name"], new["dataset"], new.get("bytes")) == ("new", "mnist", None)
    (tmp_path / "new/config.yaml").write_text(
        f"name: new\ndata: {{train: 'imagenet:root', classes: {list(PARTS['imagewoof'])}}}\nmethod: {{name: dm}}\n"
    )
    assert [facts["name"] for facts in runs(str(tmp_path), Wanted(dataset="imagewoof"))] == ["new"]
    altered = tmp_path / "run-003/distilled/recipe.json"
    altered.write_bytes(altered.read_bytes() + b" ")
    damaged = next(facts for facts in runs(str(tmp_path)) if facts["name"] == "run-003")
    assert damaged["state"] == "damaged"
    assert str(altered) in damaged["problem"]
    assert "run-003" not in {facts["name"] for facts in runs(str(tmp_path), Wanted(method="dm"))}


@pytest.mark.s3
def test_a_store_in_s3_is_asked_as_little(proxy: Proxy, s3_url: str) -> None:
    store, like = Folder(f"{s3_url}/{secrets.token_hex(4)}"), make_set()
    for i in range(12):
        for name, body in files_of(i, like, b"-"):
            store.write(f"run-{i:03d}/{name}", body)
    proxy.seen.clear()
    listed = runs(store.url, sort="accuracy")
    assert len(listed) == 12
    assert len(proxy.seen) <= 4 * 12 + 3
    assert {line.split()[0] for line in proxy.seen} == {"GET"}
    assert listed == sorted(listed, key=lambda facts: -facts["accuracy"]["distilled"])


def test_the_verb(many: Path) -> None:
    words = ["ls", many, "--method", "dm", "--ipc", 1, "--dataset", "mnist", "--sort", "accuracy"]
    outcome = command(many, *words, "--json")
    assert len(outcome.facts["runs"]) == COUNT // 12
    assert "config" not in outcome.facts["runs"][0]
    lines = command(many, *words).out.splitlines()
    assert len(lines) == COUNT // 12
    assert "dm mnist ipc 1" in lines[0]
    assert command(many, "ls", many, "--ipc", 7).err == f"no such runs in {many}\n"
    assert command(many, "ls", many, "--sort", "luck").code == 2
    assert command(many, "ls", many, "--to", "x.html").mistake.startswith(
        "raydd: --to says where a page goes, got no --h"
    )


def images(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_a_page_of_hundreds_is_bounded_and_stands_alone(many: Path, tmp_path: Path) -> None:
    url = write_gallery(runs(str(many), recipes=True), str(many), str(tmp_path / "page.html"))
    assert url == str(tmp_path / "page.html")
    page = Path(url).read_text()
    assert len(page) < 15_000_000
    assert page.count("<article") == COUNT
    assert not re.search(r"<script|<link|<iframe|(src|href)=\"(?!data:image/png|#|file:)", page)
    assert f'href="file://{many}/run-000/report.html"' in page
    assert f"raydd pull {many}/run-000 run-000" in page
    assert page.index('id="data-1"') < page.index("<h2>cifar10") < page.index("<h2>mnist")


def test_a_page_in_the_store_shows_ten_classes_and_links_to_reports(tmp_path: Path) -> None:
    make_runs(tmp_path, 12)
    outcome = command(tmp_path, "ls", ".", "--html", "--json")
    assert outcome.facts == {"gallery": f"{tmp_path}/gallery.html", "runs": 12}
    page = (tmp_path / "gallery.html").read_text()
    assert 'href="run-004/report.html"' in page
    for picture in images(page):
        assert picture.shape == (57, 144, 3)
        # One image of each class, in order, and as they were before they were enlarged.
        tiles = [picture[top : top + 28, left : left + 28] for top in (0, 29) for left in range(0, 144, 29)]
        assert [tile.min() // 20 for tile in tiles] == list(range(1, 11))
    assert len(images(page)) == 12
    assert {preview_of(ipc, 28) for ipc in IPCS} == {
        (tmp_path / f"run-00{i}/distilled/preview.png").read_bytes() for i in (0, 6)
    }


def test_what_is_no_picture_or_a_hostile_name_does_no_harm(tmp_path: Path) -> None:
    make_runs(tmp_path, 3)
    for i, data in enumerate([b"GIF89a", preview_of(1, 28)[:200]]):
        files = dict(files_of(i, make_set(), data))
        for name, body in files.items():
            (tmp_path / f"run-00{i}" / name).write_bytes(body)
    hostile = '<script>alert("x")</script>'
    (tmp_path / hostile.replace("/", "")).mkdir()
    (tmp_path / hostile.replace("/", "") / "config.yaml").write_text(json.dumps({"data": {"train": hostile}}))
    write_gallery(runs(str(tmp_path), recipes=True), str(tmp_path))
    page = (tmp_path / "gallery.html").read_text()
    assert "<script" not in page
    assert len(images(page)) == 1
    assert page.count("<article") == 4


def test_large_images_become_small(tmp_path: Path) -> None:
    make_runs(tmp_path, 1, size=100)
    write_gallery(runs(str(tmp_path), recipes=True), str(tmp_path))
    assert [picture.shape for picture in images((tmp_path / "gallery.html").read_text())] == [(129, 324, 3)]
    assert [_edge(count) for count in (1, 100, 1000)] == [64, 50, 15]


def test_an_empty_store_has_a_page_too(tmp_path: Path) -> None:
    write_gallery([], str(tmp_path))
    assert "There are no such runs here." in (tmp_path / "gallery.html").read_text()
