"""Domain adaptation: arithmetic, what every way of adapting does, going on, mistakes, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raydd.apps.adapt import fitted, in_channels, normal_in_channels
from raydd.apps.arms import titles
from raydd.apps.bench import PACKED
from raydd.apps.titles import sized
from raydd.config import config_from, parse_yaml, read_net
from raydd.data.pack import pack
from raydd.data.reader import RealData
from raydd.data.transforms import Transform
from raydd.data.views import View
from raydd.errors import ConfigError, DataError, RunError
from raydd.functional.recipe import TrainRecipe
from raydd.nets import apply, build
from raydd.nets.stored import Networks, read_network
from raydd.store import Folder
from tests.apps.small import check_page, config_of, counted, findings, halves
from tests.report.test_browser import CHROMIUM

DD = {"name": "dd", "ipc": 1, "rounds": 3, "real_batch": 32}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A config of an adaptation to digits from turned ones."""
    place = tmp_path_factory.mktemp("adapt")
    train, test = halves(place)
    return {
        "name": "a",
        "data": {"train": train, "test": test},
        "net": {"name": "convnet", "width": 4, "depth": 1},
        "methods": [
            {"name": "dm", "ipc": 1, "rounds": 3, "real_batch": 8},
            {**DD, "net_init": "fixed"},
            {**DD, "net_init": "random"},
        ],
        "engine": {"workers": 0},
        "store": str(place / "runs"),
        "evaluate": {"repeats": 2, "baselines": ["random", "random@bytes"], "whole_epochs": 8},
        "app": {"source": train, "rotate": 40, "source_epochs": 8, "updates": 12, "drop": 8, "networks": 2},
    }


@pytest.fixture(scope="module")
def whole(raw: dict[str, Any]) -> dict[str, Any]:
    return findings("adapt", config_of("adapt", raw))


def test_the_rate_drops_after_so_many_updates_whatever_the_size() -> None:
    recipe = TrainRecipe(optimiser="sgd", lr=0.01, updates=500, batch=256, schedule="drop", drop_epoch=300, final=0.1)
    for n, batch in ((10, 10), (100, 100), (500, 256), (600, 256)):
        fit = fitted(recipe, n)
        assert (fit.batch, fit.num_updates(n), fit.drop_step(n)) == (batch, 500, 300)
        assert (fit.lr_at(299, n), fit.lr_at(300, n)) == (0.01, pytest.approx(0.001))


def test_images_and_normalisations_in_other_channels() -> None:
    red, green = torch.zeros(2, 3, 1, 1, dtype=torch.uint8).unbind()
    red[0], green[1] = 255, 100
    # 0.299 * 255 = 76.2 and 0.587 * 100 = 58.7.
    assert in_channels(torch.stack([red, green]), 1).flatten().tolist() == [76, 59]
    grey = torch.full((1, 1, 2, 2), 7, dtype=torch.uint8)
    assert in_channels(grey, 3).shape == (1, 3, 2, 2)
    assert in_channels(grey, 1) is grey
    colours = Transform(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 2.0, 1.0]))
    luma = normal_in_channels(colours, 1)
    assert (float(luma.mean[0]), float(luma.std[0])) == (pytest.approx(0.299), pytest.approx(1.587))
    assert normal_in_channels(luma, 3).mean.tolist() == pytest.approx([0.299] * 3)


def test_every_way_has_a_row(whole: dict[str, Any]) -> None:
    rows = {row[0]: row[1:] for row in whole["grids"][0]["rows"]}
    assert list(rows) == [
        "no adaptation",
        "random, ipc 1",
        "random, ipc 3, the bytes of dm, ipc 1",
        "dm, ipc 1",
        "random, ipc 4, the bytes of dd, ipc 1",
        "dd, ipc 1, known networks",
        "dd, ipc 1, drawn networks",
        "whole target, fine-tuned",
        "whole target, from scratch",
    ]
    # 64 pixels as floats or bytes, and a label of 8 bytes; dd: ten soft labels a row, and three step sizes.
    assert rows["dm, ipc 1"][:2] == [10, 10 * (4 * 64 + 8)]
    assert rows["random, ipc 1"][:2] == [10, 10 * (64 + 8)]
    assert rows["dd, ipc 1, known networks"][:2] == [10, 10 * 4 * (64 + 10) + 3 * 4]
    assert all(len(each) == 2 for each in whole["values"]["accuracy"].values())
    mean = {name: row[2][0] for name, row in rows.items()}
    assert mean["whole target, fine-tuned"] > mean["no adaptation"] + 5
    assert len(set(whole["values"]["accuracy"]["random, ipc 1"])) == 2


def test_no_two_methods_have_one_name(raw: dict[str, Any]) -> None:
    made = config_of("adapt", raw, methods=[{"name": "dm"}, DD, {"name": "dm", "lr_syn": 2.0}]).methods
    assert titles(made) == ["dm, ipc 1 (1)", "dd, ipc 1, drawn networks", "dm, ipc 1 (2)"]
    assert sized(made) == ["dm, ipc 1 (1)", "dd, ipc 1", "dm, ipc 1 (2)"]


def test_no_adaptation_is_the_network_as_it_was(raw: dict[str, Any], whole: dict[str, Any]) -> None:
    folder = Folder(raw["store"]).folder("a")
    work = folder.folder("work")
    kept = [work.record(name)["result"] for name in work.list() if name != PACKED]
    net = read_net({"name": "convnet", "width": 4, "depth": 1})
    module = build(net, (1, 8, 8), 10)
    test = RealData(raw["data"]["test"])
    names = [name for name in kept if isinstance(name, str)]
    assert len(names) == 4  # two adapted, two that dd distilled for
    normal = Transform.from_parts({}, folder.folder("runs", "0-dm", "distilled").record("recipe.json")["transform"])
    found = []
    for name in names:
        state = read_network(folder.folder("networks"), name)
        images = normal(test.images(torch.arange(len(test))))
        logits = apply(module, state.params, state.buffers, images)
        found.append(100 * float((logits.argmax(1) == test.labels).double().mean()))
    for accuracy in whole["values"]["accuracy"]["no adaptation"]:
        assert any(accuracy == pytest.approx(each, abs=1e-9) for each in found)


def test_dd_is_distilled_for_each_known_network_or_for_others(raw: dict[str, Any], whole: dict[str, Any]) -> None:
    runs = Folder(raw["store"]).folder("a", "runs")
    lists = {}
    for name in ("1-dd-0", "1-dd-1", "2-dd"):
        text = runs.folder(name).read("config.yaml").decode()
        lists[name] = Networks(config_from(parse_yaml(text, name)).method.init_from).names
    assert [len(names) for names in lists.values()] == [1, 1, 2]
    assert len({name for names in lists.values() for name in names}) == 4


def test_it_goes_on_with_the_same_result(
    raw: dict[str, Any], whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("adapt", raw, name="b")
    nothing, before = counted(monkeypatch, "adapt", config, stop_after=9)
    assert nothing is None
    again, after = counted(monkeypatch, "adapt", config)
    expected = {**whole, "title": whole["title"].replace("a:", "b:", 1)}
    assert again == expected
    both = before + after
    assert (both["pretrain"], both["adapted"]) == (4, 18)
    assert before["adapted"] > 0


@pytest.mark.ray
def test_one_worker_finds_the_same(ray_address: str, raw: dict[str, Any], whole: dict[str, Any]) -> None:
    found = findings("adapt", config_of("adapt", raw, name="c", engine={"workers": 1}))
    assert found["values"] == whole["values"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"app": {"source": None}}, "app.source must be a valid string, got None"),
        ({"app": {"lr": 0}}, "app.lr must be"),
        (
            {"evaluate": {"nets": ["mlp"]}},
            "evaluate.nets must be auto, since the network of the section net is adapted",
        ),
        (
            {"evaluate": {"baselines": ["herding"]}},
            "evaluate.baselines must be out of random, random@bytes here, got",
        ),
    ],
)
def test_mistakes_are_told_before_anything_starts(raw: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("adapt", raw, **changes)


def test_shards_that_changed_since_are_another_application(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    pack(View(of=raw["data"]["train"]).source, str(source))
    few = {"methods": [{"name": "random", "ipc": 1}], "name": "moved"}
    config = config_of("adapt", raw, **few, app={"source": str(source), "rotate": 0, "source_epochs": 1, "updates": 2})
    findings("adapt", config)
    folder = Folder(raw["store"]).folder("moved")
    shutil.rmtree(source)
    pack(View(of=raw["data"]["test"]).source, str(source))
    with pytest.raises(RunError, match="is of another config or kind; choose another name, or delete it"):
        findings("adapt", config)
    # With its parts deleted it is done anew, not read back.
    for part in ("data", "runs", "work"):
        shutil.rmtree(f"{folder.url}/{part}", ignore_errors=True)
    nothing, counts = counted(monkeypatch, "adapt", config, stop_after=2)
    assert nothing is None
    assert counts["pretrain"] == 2


def test_a_source_that_holds_other_files_since_is_not_gone_on_with(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = tmp_path / "files"
    pack(View(of=raw["data"]["train"]).source, str(files))
    app = {"source": View(of=str(files), part=(0, 2)).source, "rotate": 0, "source_epochs": 1, "updates": 2}
    few = {"methods": [{"name": "random", "ipc": 1}], "name": "filled", "evaluate": {"repeats": 1}}
    config = config_of("adapt", raw, **few, app=app)
    counted(monkeypatch, "adapt", config, stop_after=2)
    packed = Path(raw["store"]) / "filled" / "data"
    shutil.move(packed, tmp_path / "before")
    shutil.move(files, tmp_path / "old")
    pack(View(of=raw["data"]["test"]).source, str(files))
    with pytest.raises(
        RunError, match=r"^expected .*/data/source to hold what it did when .*/filled was begun, got other"
    ):
        findings("adapt", config)
    # Packed anew from what was there before, it is the same.
    shutil.rmtree(packed)
    shutil.rmtree(files)
    shutil.move(tmp_path / "old", files)
    _, counts = counted(monkeypatch, "adapt", config)
    assert (counts["pretrain"], counts["adapted"]) == (0, 3)


def test_mistakes_that_the_data_tell(raw: dict[str, Any], tmp_path: Path) -> None:
    other = str(tmp_path / "few")
    pack(View(of=raw["data"]["train"], classes=["1", "2"]).source, other)
    wide = str(tmp_path / "wide")
    pack("digits", wide, split="test", size=16)
    for name, source, message in (
        ("few", other, "app.source must have the target's classes, got none called '0'"),
        ("wide", wide, "app.source must hold images of 8 pixels, as the target does, got 16"),
    ):
        with pytest.raises(DataError, match=message):
            findings("adapt", config_of("adapt", raw, name=name, app={"source": source}))
    nets = {"net": {"name": None}, "methods": [{"name": "frepo", "rounds": 1}, DD], "name": "nets"}
    mixed = {key: value for key, value in raw.items() if key != "net"}
    with pytest.raises(ConfigError, match=r"net\.name must be given, since the sets of dd are for the network adapted"):
        findings("adapt", config_of("adapt", mixed, **{k: v for k, v in nets.items() if k != "net"}))
    with pytest.raises(ConfigError, match=r"evaluate\.repeats must be >= 1"):
        findings("adapt", config_of("adapt", raw, name="none", evaluate={"repeats": 0}))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_the_page(raw: dict[str, Any], whole: dict[str, Any], tmp_path: Path) -> None:
    check_page(Path(raw["store"]) / "a" / "report.html", tmp_path)
    assert json.dumps(whole)
