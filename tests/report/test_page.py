from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import safetensors.torch
import torch
from PIL import Image

from raydd.errors import DataError
from raydd.report import write_report
from raydd.report.gather import gather
from raydd.report.page import duration, size
from raydd.store import Folder
from tests.report.conftest import HOSTILE, make_set


class Page(HTMLParser):
    """What a test asks of a page: images, all attributes, tags, text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.uris: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.references: list[str] = []
        self.style = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        if tag == "img":
            self.images.append(given)
        self.uris += [given[key] for key in ("src", "srcset") if key in given]
        self.references += [given[key] for key in ("href", "action", "data") if key in given]
        assert not any(key.startswith("on") for key in given)

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(run: Folder) -> Page:
    assert write_report(run) == f"{run.url}/report.html"
    return Page(run.read("report.html").decode())


def pixels_of(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    image.load()
    return image


def test_every_image_is_inside_and_whole(make_run):
    page = page_of(make_run())
    assert page.references == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    # Three images, eight frames of each, and the loss for light and for dark.
    pictures = [uri for uri in page.uris if uri.startswith("data:image/png")]
    drawings = [uri for uri in page.uris if not uri.startswith("data:image/png")]
    assert len(pictures) == 3 + 3 * 8
    assert {pixels_of(uri).size for uri in pictures} == {(8, 8)}
    assert len(drawings) == 2
    for uri in drawings:
        head, _, data = uri.partition(",")
        assert head == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag == "{http://www.w3.org/2000/svg}svg"
    assert all(image["alt"] for image in page.images)


def test_pictures_show_the_pixels(make_run):
    ds = make_set(shape=(3, 8, 8))
    page = page_of(make_run(ds, bare=True))
    shown = pixels_of(page.images[1]["src"])
    assert shown.mode == "RGB"
    assert list(shown.tobytes()) == ds.pixels()[1].permute(1, 2, 0).flatten().tolist()


def test_the_numbers_are_there(make_run):
    words = page_of(make_run()).words
    assert "3 synthetic images of 3 classes, distilled from a whole training set by frepo in 100 rounds." in words
    assert "recognise 83.2 % of the test set" in words
    for text in ("Distilled set", "Random real images", "Whole training set", "55.5", "97.0", "1.2", "1,234", "2.6 kB"):
        assert text in words
    assert "convnet: width=8, depth=1, norm=none" in words
    assert "1 h 2 min" in words
    assert "1 min 15 s" in words
    # The strongest class of the first label: 1 - 1/3.
    assert "0.67" in words


def test_the_command_repeats_the_run(make_run):
    run = make_run()
    assert f"raydd distill {run.url}/config.yaml --set name=toy-again" in page_of(run).words


def test_class_names_are_text(make_run):
    run = make_run()
    page = page_of(run)
    html = run.read("report.html").decode()
    assert "<script" not in html
    assert HOSTILE in page.words
    assert page.images[0]["alt"] == f"Image 1 of class {HOSTILE}"


def test_a_run_of_which_nothing_but_the_set_is_left(make_run):
    page = page_of(make_run(bare=True))
    assert page.words.count("Nothing was recorded.") == 4
    assert len(page.images) == 3


def test_damaged_records_are_named(make_run):
    run = make_run()
    run.write("metrics.jsonl", b'{"round": 1, "loss"')
    run.write("status.json", b"[]")
    run.write("evaluation.json", b'{"results": [{"of": "distilled"}]}')
    run.write("history/00000000.safetensors", b"no tensors")
    page = page_of(run)
    assert page.words.count("The record could not be read") == 4
    assert "expected a JSON object, got list" in page.words
    assert "expected safetensors in" in page.words
    assert len(page.images) == 3


def test_history_of_another_shape_is_not_shown(make_run):
    run = make_run(bare=True)
    data = safetensors.torch.save({"images": torch.zeros(3, 1, 4, 4)})
    run.write("history/00000000.safetensors", data)
    assert "expected images (3, 1, 8, 8)" in page_of(run).words


def test_history_goes_from_the_first_round_to_the_last(make_run):
    record = gather(make_run())
    rounds = [round for round, _ in record.history]
    assert (len(rounds), rounds[0], rounds[-1]) == (8, 0, 100)
    assert rounds == sorted(set(rounds))
    assert torch.equal(record.history[-1][1], record.ds.images)


def test_hard_labels_and_many_images_a_class(make_run):
    page = page_of(make_run(make_set(classes=4, ipc=6, soft=False), bare=True))
    assert len(page.images) == 24
    assert "All 24 images." in page.words
    assert "strongest classes" not in page.words
    assert page.tags.count("h3") == 4


def test_a_thousand_classes_stay_small(make_run):
    run = make_run(make_set(classes=1000, shape=(3, 64, 64), soft=False), bare=True)
    page = page_of(run)
    assert "200 of 1,000 images, 200 of 1,000 classes." in page.words
    assert len(run.read("report.html")) < 15_000_000


def test_large_images_stay_small(make_run):
    run = make_run(make_set(classes=60, shape=(3, 224, 224), soft=False), bare=True)
    page = page_of(run)
    assert "34 of 60 images" in page.words
    assert len(run.read("report.html")) < 15_000_000


def test_a_coreset_has_no_rounds_to_show(make_run):
    words = page_of(make_run(make_set(soft=False, method="random", rounds=0), bare=True)).words
    assert "3 real images of 3 classes, chosen from a whole training set by random." in words
    assert "How the images changed" not in words


def test_the_picture_beside_the_page(make_run):
    run = make_run(bare=True)
    write_report(run)
    image = Image.open(io.BytesIO(run.read("images.png")))
    # Three images of 8 pixels, enlarged to 48, with gaps of 2.
    assert image.size == (3 * 50 + 2, 52)


def test_the_same_run_gives_the_same_page(make_run):
    run = make_run()
    pages = []
    for _ in range(2):
        write_report(run)
        pages.append(run.read("report.html"))
    assert pages[0] == pages[1]


def test_published_numbers_stand_beside(make_run):
    config = {"name": "toy", "data": {"train": "mnist:/data/mnist"}}
    words = page_of(make_run(make_set(classes=10, shape=(1, 28, 28), config=config))).words
    assert "Published, for the same number of images a class" in words
    assert "93.0 \N{PLUS-MINUS SIGN} 0.4" in words
    assert "89.7" not in words


def test_no_set_no_page(tmp_path):
    with pytest.raises(DataError, match=r"expected a distilled set at"):
        write_report(Folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_units_for_people():
    assert [duration(s) for s in (0.25, 9.96, 59.4, 185, 25_920)] == [
        "0.2 s",
        "10.0 s",
        "59 s",
        "3 min 5 s",
        "7 h 12 min",
    ]
    assert [size(b) for b in (720, 2640, 999_000, 92_000_000, 3e12)] == [
        "720 bytes",
        "2.6 kB",
        "999 kB",
        "92.0 MB",
        "3.0 TB",
    ]
