"""Several runs on one page."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from raydd.cli import app
from raydd.errors import DataError, UserError
from raydd.evaluate import Accuracy, Evaluation, record
from raydd.report import write_comparison, write_report
from raydd.report.compare import context
from raydd.report.gather import gather
from raydd.report.page import render
from raydd.store import Folder
from tests.report.conftest import HOSTILE, accuracy, make_real, make_set
from tests.report.test_page import Page, pixels_of


def runs_of(make_run, *configs):
    """Runs that differ in their recipes and are named by them."""
    found = []
    for config in configs:
        ds = make_set(config={"name": config["name"], "seed": 0, **config})
        found.append(make_run(ds, name=config["name"]))
    return found


def page_of(runs: list[Folder]) -> Page:
    assert write_comparison(runs) == f"{runs[0].url}/compare.html"
    return Page(runs[0].read("compare.html").decode())


def test_images_stand_side_by_side(make_run):
    runs = runs_of(make_run, {"name": "a"}, {"name": "b"})
    write_report(runs[1], make_real(make_set(), [0, 1, 2]))
    page = page_of(runs)
    assert page.references == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    tiles = [image for image in page.images if "Class " in image["alt"]]
    real = [image for image in page.images if image["alt"].startswith("Real")]
    assert (len(tiles), len(real)) == (6, 3)
    assert set(pixels_of(real[2]["src"]).tobytes()) == {102}
    assert list(pixels_of(tiles[0]["src"]).tobytes()) == make_set().pixels()[0].flatten().tolist()
    assert HOSTILE in page.words
    assert "The first image of each class" in page.words


def test_accuracies_stand_in_one_row_where_they_compare(make_run):
    runs = runs_of(make_run, {"name": "a"}, {"name": "b"})
    more = [accuracy("distilled", 70.0), accuracy("distilled", 33.0, predictor="knn"), accuracy("herding", 44.0)]
    runs[1].write_json("evaluation.json", {"results": more})
    page = page_of(runs)
    assert "Distilled set, protocol frepo 83.2 \N{PLUS-MINUS SIGN} 1.2 70.0 \N{PLUS-MINUS SIGN} 1.2" in page.words
    assert "Distilled set, protocol frepo, nearest neighbours 33.0" in page.words
    _, _, single = page.words.partition("3 that only one run has")
    assert all(text in single for text in ("Herding", "44.0", "Random real images", "55.5", "97.0"))


def test_later_evaluations_count(make_run):
    names = ("a", "b")
    runs = [make_run(make_set(config={"name": name, "seed": 0}), name=name, bare=True) for name in names]
    results = [
        accuracy(of, mean + k, set=f"runs/{name}")
        for k, name in enumerate(names)
        for of, mean in (("distilled", 70.0), ("random", 50.0))
    ]
    for run in runs:
        record(run, {}, Evaluation(test="x", results=[Accuracy.from_json(one) for one in results], robust=[]))
    words = page_of(runs).words
    assert "not scored" not in words
    assert "Distilled set 70.0 \N{PLUS-MINUS SIGN} 1.2 71.0 \N{PLUS-MINUS SIGN} 1.2" in words
    assert "Random real images 50.0 \N{PLUS-MINUS SIGN} 1.2 51.0 \N{PLUS-MINUS SIGN} 1.2" in words


def test_a_chosen_set_says_its_round(make_run):
    config = {"name": "a", "method": {"rounds": 100}, "evaluate": {"select": "val"}}
    words = page_of([make_run(make_set(rounds=60, config=config), name="a"), make_run(name="b")]).words
    assert "frepo, round 60 of 100, best on validation images; 3 images" in words
    assert "frepo, 100 rounds; 3 images" in words
    assert "Rounds 60 of 100 100" in words


def test_only_what_differs_of_the_recipes(make_run):
    first, second = {"lr": 1.0, "rounds": 5}, {"lr": 2.0, "rounds": 5, "extra": None}
    words = page_of(runs_of(make_run, {"name": "a", "method": first}, {"name": "b", "method": second})).words
    _, _, differences = words.partition("Where the recipes differ")
    assert "method.lr 1.0 2.0" in differences
    assert "method.extra" in differences
    assert "method.rounds" not in differences
    assert "seed" not in differences


def test_equal_recipes_are_said_to_be_equal(make_run):
    words = page_of(runs_of(make_run, {"name": "a"}, {"name": "b"})).words
    assert "Nowhere but in their names." in words
    assert "The objective in every round." in words
    assert words.count("1 h 2 min") == 2


def test_runs_of_other_classes_and_shapes(make_run):
    small = make_run(make_set(classes=2), name="small", bare=True)
    large = make_run(make_set(classes=4, shape=(3, 200, 200), soft=False, method="dm"), name="large", bare=True)
    page = page_of([large, small])
    tiles = [image for image in page.images if "Class " in image["alt"]]
    assert len(tiles) == 4 + 2
    assert {pixels_of(image["src"]).size for image in tiles} == {(67, 67), (8, 8)}
    assert "not scored" in page.words


def test_curves_of_all_runs_are_drawn(make_run):
    runs = runs_of(make_run, {"name": "a"}, {"name": "b"})
    runs[1].delete("metrics.jsonl")
    charts = [image["alt"] for image in page_of(runs).images if "over rounds" in image["alt"]]
    assert charts == ["Loss over rounds, a curve for each run", "Accuracy over rounds, a curve for each run"]


def test_runs_of_one_name_go_by_their_urls(make_run):
    ds = make_set()
    runs = [make_run(ds, name=name, bare=True) for name in ("one", "two")]
    words = page_of(runs).words
    assert words.count(runs[1].url) > 1


def test_large_images_of_many_runs_stay_small(make_run):
    gen = torch.Generator().manual_seed(1)
    ds = make_set(classes=30, shape=(3, 95, 95), soft=False)
    ds.images.copy_(torch.randn(ds.images.shape, generator=gen) * 2)
    record = gather(make_run(ds, bare=True))
    assert len(render("compare.html", context([record] * 12))) < 15_000_000


def test_what_cannot_be_compared(make_run, tmp_path):
    run = make_run(bare=True)
    with pytest.raises(UserError, match=r"expected 2 to 12 different runs to compare, got 1; name them"):
        write_comparison([run, run])
    with pytest.raises(DataError, match=r"expected a distilled set at"):
        write_comparison([run, Folder(str(tmp_path / "nothing"))])
    assert not run.exists("compare.html")


@pytest.mark.parametrize("order", [["--compare", "a", "b"], ["a", "--compare", "b"]])
def test_the_verb(make_run, order):
    runs = {name: make_run(name=name, bare=True) for name in ("a", "b")}
    for run in runs.values():
        run.write("config.yaml", b"")
    words = [runs[word].url if word in runs else word for word in order]
    done = CliRunner().invoke(app, ["report", *words, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"report": f"{runs['a'].url}/compare.html"}
    assert runs["a"].exists("compare.html")
    assert not runs["a"].exists("report.html")


def test_the_verb_writes_several_reports(make_run):
    runs = [make_run(make_set(method="random", rounds=0, soft=False), name=name, bare=True) for name in ("a", "b")]
    for run in runs:
        run.write("config.yaml", b"")
    done = CliRunner().invoke(app, ["report", *(run.url for run in runs), "--json"])
    assert json.loads(done.stdout) == {"reports": [f"{run.url}/report.html" for run in runs]}
    assert all(run.exists("report.html") for run in runs)
