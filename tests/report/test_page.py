from __future__ import annotations

import base64
import io
import math
import time
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import safetensors.torch
import torch
from PIL import Image

from raydd.config import flat
from raydd.data.names import PARTS
from raydd.distilled import DistilledSet
from raydd.errors import DataError
from raydd.evaluate import Accuracy, Evaluation, Robustness, record, recorded
from raydd.evaluate.record import command
from raydd.report import RealImages, write_report
from raydd.report.gather import Choice, RunRecord, gather
from raydd.report.page import context, render
from raydd.report.pictures import shown_classes, stretch
from raydd.store import Folder, load_manifest
from raydd.text import count_of, duration, size
from tests.report.conftest import HOSTILE, accuracy, make_memory, make_real, make_set


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


def page_of(run: Folder, real: RealImages | None = None) -> Page:
    assert write_report(run, real) == f"{run.url}/report.html"
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
    # Three images, eight frames of each, and the charts of loss and accuracy for light and for dark.
    pictures = [uri for uri in page.uris if uri.startswith("data:image/png")]
    drawings = [uri for uri in page.uris if not uri.startswith("data:image/png")]
    assert len(pictures) == 3 + 3 * 8
    assert {pixels_of(uri).size for uri in pictures} == {(8, 8)}
    assert len(drawings) == 4
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
    # Accuracy, history, loss, time, and real images.
    assert page.words.count("Nothing was recorded.") == 5
    assert len(page.images) == 3


def test_damaged_records_are_named(make_run):
    run = make_run()
    run.write("metrics.jsonl", b'{"round": 1, "loss"')
    run.write("status.json", b"[]")
    run.write("evaluation.json", b'{"results": [{"of": "distilled"}]}')
    run.write("history/00000000.safetensors", b"no tensors")
    run.write("history/real.safetensors", b"none either")
    page = page_of(run)
    assert page.words.count("The record could not be read") == 5
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
    assert [page.text.count(name) for name in make_set(classes=4).classes] == [1, 1, 1, 1]


def big_page(ds: DistilledSet) -> tuple[Page, int]:
    """The page of a run whose images take no less room than noise, and its size in bytes; nothing is written."""
    real = make_real(ds, shown_classes(len(ds.classes), ds.images.shape[1:]))
    noise = torch.randint(0, 256, real.images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    record = RunRecord(
        url="somewhere",
        ds=ds,
        loss=[(0.0, 1.0), (1.0, 0.5)],
        scores=[],
        status={},
        results=[],
        evaluation_seconds=None,
        history=[(r, ds.images[:100]) for r in range(8)],
        real=RealImages(noise, real.labels),
    )
    html = render("page.html", context(record))
    return Page(html), len(html)


def test_a_thousand_classes_stay_small():
    page, length = big_page(make_set(classes=1000, shape=(3, 64, 64), soft=False))
    assert "200 of 1,000 images, 200 of 1,000 classes." in page.words
    # A learned and a real one of each, ten strips of eight, all classes on one picture, and the loss.
    assert len(page.images) == 200 + 200 + 80 + 1 + 1
    sheet = next(image for image in page.images if image["alt"].startswith("One image of every class"))
    assert pixels_of(sheet["src"]).size == (40 * 22, 25 * 22)
    assert length < 15_000_000


def test_large_images_stay_small():
    page, length = big_page(make_set(classes=25, shape=(3, 224, 224), soft=False))
    assert "22 of 25 images, 22 of 25 classes." in page.words
    assert length < 15_000_000


def test_a_coreset_has_no_rounds_to_show(make_run):
    words = page_of(make_run(make_set(soft=False, method="random", rounds=0), bare=True)).words
    assert "3 real images of 3 classes, chosen from a whole training set by random." in words
    assert "How the images changed" not in words
    words = page_of(make_run(make_set(soft=False, method="kmeans", rounds=0), bare=True)).words
    assert "3 synthetic images of 3 classes, computed from a whole training set by kmeans." in words


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
    assert "frepo, kernel ridge regression" in words
    own, _, others = words.partition("published numbers of other methods")
    assert "89.7" not in own
    assert "dm Accuracy" not in own
    assert "89.7 \N{PLUS-MINUS SIGN} 0.6" in others
    assert "Published across networks: DC, images learned with" in others


@pytest.mark.parametrize("noted", ["imagewoof", None])
def test_published_numbers_of_a_part_of_imagenet(make_run, noted):
    config = {"name": "toy", "data": {"train": "imagenet:/data/imagenet", "classes": list(PARTS["imagewoof"])}}
    ds = make_set(classes=10, shape=(3, 128, 128), config=config, dataset=noted)
    ds = replace(ds, recipe=replace(ds.recipe, classes=tuple(PARTS["imagewoof"].values())))
    assert "29.7 \N{PLUS-MINUS SIGN} 0.6" in page_of(make_run(ds)).words


def test_real_images_stand_beside_and_are_kept(make_run):
    run = make_run(bare=True)
    page = page_of(run, make_real(make_set(), [0, 2]))
    named = {image["alt"]: image["src"] for image in page.images}
    long = "class-2-with-a-name-that-is-rather-long"
    assert [alt for alt in named if alt.startswith("Real")] == [
        f"Real image of class {HOSTILE}",
        f"Real image of class {long}",
    ]
    assert set(pixels_of(named[f"Real image of class {long}"]).tobytes()) == {102}
    assert "Beside them a real image of the class" in page.words
    again = page_of(run)
    assert [image["src"] for image in again.images] == [image["src"] for image in page.images]


def test_real_images_of_another_set_are_not_shown(make_run):
    run = make_run(bare=True)
    page_of(run, make_real(make_set(classes=5), [4]))
    words = page_of(run).words
    assert "No real images stand beside them. The record could not be read: expected uint8 images (k, 1, 8, 8)" in words


def test_accuracy_on_the_way(make_run):
    run = make_run()
    assert gather(run).scores == [(20, 55, 2), (60, 65, 2), (100, 75, 2)]
    assert gather(run).choice is None
    page = page_of(run)
    assert "validation part of the training split; 75.0 at the end." in page.words
    assert any(image["alt"] == "Accuracy over rounds, 75.0 % at round 100" for image in page.images)
    run.write("metrics.jsonl", b'{"round": 1, "loss": 2.0}\n')
    assert "Accuracy on the way" not in page_of(run).words


def test_a_set_that_the_validation_part_chose(make_run):
    config = {"name": "toy", "method": {"rounds": 100}, "evaluate": {"select": "val"}}
    run = make_run(make_set(rounds=60, config=config))
    record = gather(run)
    assert record.choice == Choice(round=60, of=100, score=65)
    assert [round for round, _ in record.history] == [0, 1, 2, 5, 20, 40, 50, 60]
    assert torch.equal(record.history[-1][1], record.ds.images)
    page = page_of(run)
    for text in (
        "by frepo. The set is that of round 60 of 100, best on validation images, 65.0 %.",
        "from the start to round 60, which was chosen; below it the round.",
        "part of the training split; 65.0 at round 60, which was chosen and is marked; 75.0 at the end.",
        "Rounds 60 of 100",
    ):
        assert text in page.words, text
    run.delete("metrics.jsonl")
    assert "round 60 of 100, best on validation images. Networks" in page_of(run).words


def test_published_numbers_stand_beside_later_evaluations_too(make_run):
    config = {"name": "toy", "data": {"train": "mnist:/data/mnist"}}
    run = make_run(make_set(classes=10, shape=(1, 28, 28), config=config), bare=True)
    assert "Published" not in page_of(run).words
    other = [accuracy("distilled", 10.0, set="runs/other"), accuracy("random", 11.0, set="runs/other")]
    own = [accuracy("distilled", 40.0, set="runs/toy"), accuracy("random", 30.0, set="runs/toy")]
    found = [Accuracy.from_json(one) for one in (*other, *own)]
    record(run, {}, Evaluation(test="x", results=found, robust=[]))
    words = page_of(run).words
    assert "recognise 40.0 % of the test set" in words
    _, _, after = words.partition("On x, by raydd evaluate --test x .")
    assert "Published, for the same number of images a class" in after
    assert "93.0 \N{PLUS-MINUS SIGN} 0.4" in after


def test_which_results_of_an_evaluation_are_the_runs_own(make_run):
    run = make_run(bare=True)
    ways = [("knn", "frepo", "./runs/toy/distilled/"), ("train", "dc", run.url), ("train", "frepo", "toy")]
    for mean, (predictor, protocol, name) in enumerate(ways):
        given = {"predictor": predictor, "protocol": protocol}
        results = [accuracy("distilled", 50.0, set="toys/y", **given), accuracy("random", mean, set=name, **given)]
        record(
            run, {"way": mean}, Evaluation(test="x", results=[Accuracy.from_json(one) for one in results], robust=[])
        )
    # By the recipe's protocol first, trained networks before anything else.
    assert [[result.mean for result in own] for own in gather(run).later] == [[2], [1], [0]]


def test_history_of_the_first_images_alone(make_run):
    run = make_run(make_set(classes=60, ipc=2, soft=False))
    images = gather(run).history[-1][1]
    assert images.shape == (100, 1, 8, 8)
    page = page_of(run)
    assert "The first image of 10 classes" in page.words
    last = [image["src"] for image in page.images if image["alt"].endswith(" after round 100")]
    first = make_set(classes=60, ipc=2, soft=False).pixels()[0]
    assert list(pixels_of(last[0]).tobytes()) == first.flatten().tolist()


def test_several_networks_are_a_heat_map(make_run):
    run = make_run()
    nets = ("convnet:width=8,depth=1,norm=none", "convnet:width=8,depth=1,norm=batch", "lenet")
    results = [
        accuracy(of, mean + 10 * i, net=net, lr=0.01, note="seen before" if of == "distilled" else None)
        for i, net in enumerate(nets)
        for of, mean in (("distilled", 60.0), ("random", 40.0), ("herding", 50.0))
    ]
    others = {"mlp": 90.0, "alexnet": 30.0, "vgg11": 20.0, "resnet18": 10.0}
    more = [accuracy("distilled", mean, net=net, lr=0.01, note="seen before") for net, mean in others.items()]
    run.write_json("evaluation.json", {"results": [*results, *more], "seconds": 1.0})
    page = page_of(run)
    assert "Network Distilled set Random real images Herding convnet:norm=none 60.0 40.0 50.0" in page.words
    assert (
        "convnet:norm=batch 70.0 50.0 60.0 lenet 80.0 60.0 70.0 mlp 90.0 alexnet 30.0 vgg11 20.0 resnet18 10.0"
        in page.words
    )
    assert "All 13 accuracies in full" in page.words
    # Once, though it holds for seven rows.
    assert page.words.count("Distilled set: seen before.") == 1
    assert "Learning rate 0.01" in page.words


def test_the_newest_evaluation_comes_first_with_its_command(make_run, monkeypatch):
    run, one = make_run(), Accuracy.from_json(accuracy("distilled", 40.0, net="mlp", set="runs/toy"))
    said = {"sets": ["runs/toy"], "nets": ["convnet:width=8,depth=1", "mlp"], "grid": {"norm": ["none", "batch"]}}
    said |= {"predictors": ["train", "knn"], "repeats": 5, "baselines": [], "precision": "bf16", "robust": True}
    # In an order that neither keys nor names give.
    for at, seed in ((2.0, 1), (3.0, 2), (1.0, 3)):
        monkeypatch.setattr(time, "time", lambda at=at: at)
        record(run, {**said, "seed": seed}, Evaluation(test="a test", results=[one], robust=[]))
    found = recorded(run)
    assert [(each.at, each.asked["seed"]) for each in found] == [(3.0, 2), (2.0, 1), (1.0, 3)]
    assert command(found[0]) == (
        "raydd evaluate runs/toy --test 'a test' --nets convnet:width=8,depth=1,mlp --predictors train,knn --baselines '' "
        "--seed 2 --precision bf16 --grid norm=none,batch --robust"
    )


def test_what_was_evaluated_since_stands_below(make_run):
    run = make_run()
    more = [accuracy("distilled", 40.0 + i, net=net, set="runs/toy") for i, net in enumerate(("alexnet", "vgg11"))]
    asked = {"nets": ["alexnet", "vgg11"]}
    found = Evaluation(test="s3://b/test", results=[Accuracy.from_json(one) for one in more], robust=[])
    where = record(run, asked, found)
    assert record(run, asked, found) == where, "the same command writes the same file"
    scores = {"hard_label_loss": 0.125, "gain_over_random": 0.25, "augmented_gain": 0.5, "plain_gain": -0.0625}
    robust = Robustness(set="runs/toy", lrs=0.4321, ars=0.5678, **scores)
    record(run, {"robust": True}, Evaluation(test="s3://b/test", results=found.results, robust=[robust]))
    words = page_of(run).words
    assert words.count("On s3://b/test, by raydd evaluate --test s3://b/test") == 2
    for text in ("alexnet 40.0 vgg11 41.0", "Robust scores", "0.432 0.568 +25.0 +12.5 +50.0 -6.2"):
        assert text in words, text
    assert "83.2" in words, "what distill found stays"
    run.delete("evaluation.json")
    assert "The set was not evaluated" not in page_of(run).words
    name = where.removeprefix(run.url + "/")
    run.write_json(name, {**run.record(name), "set": "another"})
    assert page_of(run).words.count(", by raydd evaluate") == 1
    run.write_json(name, {"set": load_manifest(run.folder("distilled")).files["data.safetensors"].sha256, "results": 3})
    assert f"Later evaluations: The record could not be read: {where} was altered" in page_of(run).words


def test_what_a_memory_is_made_of(make_run):
    page = page_of(make_run(make_memory(), bare=True))
    assert "Every image is a sum of 4 bases of 3 x 4 x 4, each class mixing them in 5 ways of its own." in page.words
    found = [image for image in page.images if image["alt"].startswith("Basis")]
    assert {pixels_of(image["src"]).size for image in found} == {(4, 4)}
    assert len(found) == 4
    assert "Most alike:" in page.words
    assert page.words.count("1.00") == 3
    # 4 x 48 numbers of bases and 3 x 5 x 4 of addresses, beside 192 numbers and a label of an image a class.
    assert "Images a class 5" in page.words
    assert f"Images a class, by storage {4 * (192 + 60) / 3 / (4 * 192 + 8):.4g}" in page.words


def span(image: Image.Image) -> int:
    return max(high - low for low, high in image.getextrema())


def test_a_faint_memory_can_be_seen(make_run):
    """Recalled images that would all be one grey: their contrast is raised, and the page says so."""
    strong = make_memory()
    extras = {**strong.extras, "bases": strong.extras["bases"] / 200}
    faint = replace(strong, images=strong.images / 200, extras=extras)
    run = make_run(faint, bare=True)
    page = page_of(run)
    assert "Their contrast is faint and is shown " in page.words
    for image in (image for image in page.images if image["alt"].startswith("Image ")):
        assert span(pixels_of(image["src"])) > 30
    assert span(Image.open(io.BytesIO(run.read("images.png"))).crop((2, 2, 50, 50))) > 30
    for other in (strong, make_set()):
        assert "contrast is faint" not in page_of(make_run(other, bare=True, name="other")).words
        assert stretch(other) == 1
    even = replace(strong, images=torch.zeros_like(strong.images))
    assert 1 < stretch(even) < 100


def test_similarity_of_many_classes_is_a_picture(make_run):
    page = page_of(make_run(make_memory(classes=30, each=2), bare=True))
    picture = next(image for image in page.images if image["alt"].startswith("Similarity"))
    image = pixels_of(picture["src"])
    assert image.size == (30, 30)
    assert {image.getpixel((i, i)) for i in range(30)} == {(0x1F, 0x6F, 0x8B)}


def test_hostile_status(make_run):
    run = make_run()
    run.write_json(
        "status.json", {"workers": "<b>", "seconds": "1", "faults": [1, 2], "state": "<i>", "device": HOSTILE}
    )
    words = page_of(run).words
    assert "Faults survived 2" in words
    assert "State <i>" in words
    assert f"Device {HOSTILE}" in words
    assert "Workers" not in words


def test_no_set_no_page(tmp_path):
    with pytest.raises(DataError, match=r"expected a distilled set at"):
        write_report(Folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_counts_and_keys():
    assert [count_of(value) for value in (3, 2.0, [1, 2], {"a": 1}, "3", None, True, math.nan)] == [
        3,
        2,
        2,
        1,
        None,
        None,
        None,
        None,
    ]
    assert flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


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
