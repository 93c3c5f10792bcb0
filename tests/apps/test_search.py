"""Architecture search: rank correlation, candidates, one training on the whole set each, going on, mistakes, the page."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raydd.apps.ranking import best, ranks, spearman
from raydd.apps.search import images_of, on_whole
from raydd.config.apps import SearchConfig
from raydd.errors import ConfigError
from tests.apps.small import check_page, config_of, counted, findings, halves
from tests.report.test_browser import CHROMIUM


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = tmp_path_factory.mktemp("search")
    train, test = halves(place)
    return {
        "name": "a",
        "data": {"train": train, "test": test, "val_fraction": 0.3},
        "net": {"name": "convnet", "width": 4, "depth": 1},
        "methods": [{"name": "dm", "ipc": 1, "rounds": 3, "real_batch": 8}, {"name": "random", "ipc": 2}],
        "engine": {"workers": 0},
        "store": str(place / "runs"),
        "evaluate": {"repeats": 2, "baselines": ["random", "random@bytes"], "whole_epochs": 6},
        "app": {
            "grid": {"width": [2, 4, 8], "depth": [1, 4], "norm": ["none", "instance"], "pool": ["none", "avg"]},
            "sample": 6,
            "updates": 8,
            "batch": 25,
        },
    }


@pytest.fixture(scope="module")
def whole(raw: dict[str, Any]) -> dict[str, Any]:
    return findings("search", config_of("search", raw))


def timeless(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was found without the seconds it took."""
    table, *maps = found["grids"]
    rows = [[*row[:3], *row[4:]] for row in table["rows"]]
    values = {key: value for key, value in found["values"].items() if key != "seconds"}
    return {**found, "title": "", "grids": [rows, maps], "values": values}


def test_ranks_by_hand() -> None:
    assert ranks([10, 30, 20]).tolist() == [1, 3, 2]
    assert ranks([5, 5, 1, 7]).tolist() == [2.5, 2.5, 1, 4]


def test_rank_correlation_by_hand() -> None:
    assert spearman([1, 2, 3], [10, 11, 50]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
    assert spearman([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(0.8)
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 2, 2, 4], [1, 3, 2, 4]) == pytest.approx(0.9486833)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1], [1]) is None


def test_the_best_are_at_least_five_and_the_first_of_equals() -> None:
    values = [float(i // 2) for i in range(200)]
    assert best(values, 0.05) == [198, 199, 196, 197, 194, 195, 192, 193, 190, 191]
    assert best(values, 0.001) == [198, 199, 196, 197, 194]
    assert best([1.0, 3.0, 2.0], 0.05) == [1, 2, 0]


def test_the_grid_is_the_papers() -> None:
    grid = SearchConfig.model_fields["app"].default.grid
    count = 1
    for values in grid.values():
        count *= len(values)
    assert count == 720


def test_candidates_are_possible_and_drawn_by_key(raw: dict[str, Any], whole: dict[str, Any]) -> None:
    texts = whole["values"]["candidates"]
    assert len(texts) == len(set(texts)) == 6
    # Depth 4 halves 8 pixels once too often: 6 of 24.
    assert not any("depth=4" in text and "pool=none" not in text for text in texts)
    assert any("6 networks of the grid" in note for note in whole["notes"])


def test_numbers_follow_from_accuracies(whole: dict[str, Any]) -> None:
    values, rows = whole["values"], {row[0]: row for row in whole["grids"][0]["rows"]}
    assert list(values["accuracy"]) == [
        "dm, ipc 1",
        "random, ipc 1",
        "random, the bytes of dm, ipc 1",
        "random, ipc 2",
        "whole set, stopped early",
        "whole set",
    ]
    means = {name: [sum(each) / len(each) for each in lists] for name, lists in values["accuracy"].items()}
    for name, row in rows.items():
        assert values["correlation"][name]["all"] == spearman(means[name], means["whole set"]) == row[4]
        place = values["candidates"].index(values["picked"][name]["net"])
        assert means[name][place] == max(means[name])
    assert rows["whole set"][4] == pytest.approx(1)
    # As floats with a label, and as bytes.
    assert rows["dm, ipc 1"][1:3] == [10, 10 * (4 * 64 + 8)]
    assert rows["random, ipc 2"][1:3] == [20, 20 * (64 + 8)]
    assert rows["random, the bytes of dm, ipc 1"][1:3] == [36, 36 * (64 + 8)]
    assert all(len(each) == 2 for each in values["accuracy"]["dm, ipc 1"])
    assert all(len(each) == 1 for each in values["accuracy"]["whole set"])
    assert means["whole set"] != means["whole set, stopped early"]


def test_learned_images_at_a_byte_a_pixel_stand_beside_as_many_real_ones(raw: dict[str, Any]) -> None:
    app = {**raw["app"], "sample": 2, "updates": 2, "keep": "uint8"}
    evaluate = {"repeats": 1, "baselines": ["random@bytes"], "whole_epochs": 2}
    config = config_of("search", raw, name="kept", app=app, methods=raw["methods"][:1], evaluate=evaluate)
    rows = {row[0]: row for row in findings("search", config)["grids"][0]["rows"]}
    # A byte a pixel, two floats an image, a label; then ten of 72 bytes and as many more as fit.
    assert rows["dm, ipc 1"][1:3] == [10, 10 * (64 + 8 + 8)]
    assert rows["random, the bytes of dm, ipc 1"][1:3] == [11, 11 * (64 + 8)]


def test_it_goes_on_and_trains_each_network_on_the_whole_set_once(
    raw: dict[str, Any], whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of("search", raw, name="b")
    nothing, before = counted(monkeypatch, "search", config, stop_after=27)
    assert nothing is None
    again, after = counted(monkeypatch, "search", config)
    assert timeless(again) == timeless(whole)
    both = before + after
    assert before["on_whole"] == 3
    assert (both["on_proxy"], both["on_whole"]) == (24, 6)
    # The test split is read for picks alone.
    assert both["on_test"] == len({pick["net"] for pick in whole["values"]["picked"].values()})


def test_the_early_stop_is_of_the_same_training(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []

    def note(trials: Any, item: Any) -> dict[str, Any]:
        seen.append((trials, item))
        return on_whole(trials, item)

    monkeypatch.setattr("raydd.apps.search.on_whole", note)
    findings("search", config_of("search", raw, name="early", app={"sample": 2}))
    trials, item = seen[0]
    first = on_whole(trials, item)
    last = on_whole(replace(trials, early=trials.recipe.num_updates(len(trials.shared.real()))), item)
    assert last["network"] == first["network"]
    assert last["early"] == last["accuracy"] == first["accuracy"]


def test_networks_are_compared_on_the_same_random_images(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[torch.Tensor]] = {}

    def note(shared: Any, item: Any, *more: Any) -> Any:
        if item.of == "random":
            seen.setdefault(item.net_text, []).append(images_of(shared, item, *more)[0])
        return images_of(shared, item, *more)

    monkeypatch.setattr("raydd.apps.search.images_of", note)
    changes = {"app": {"sample": 2}, "methods": [{"name": "dm", "ipc": 1, "rounds": 1, "real_batch": 8}]}
    findings("search", config_of("search", raw, name="same", **changes))
    one, other = seen.values()
    assert len(one) == 2
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(*one)


@pytest.mark.ray
def test_one_worker_finds_the_same(ray_address: str, raw: dict[str, Any], whole: dict[str, Any]) -> None:
    found = findings("search", config_of("search", raw, name="c", engine={"workers": 1}))
    assert timeless(found) == timeless(whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"val_fraction": 0}}, "data.val_fraction must be > 0, since networks are compared"),
        (
            {"evaluate": {"sets": 2}},
            "evaluate.sets must be 1 in an application, which takes one set a method as it ends, got",
        ),
        ({"evaluate": {"every": 5}}, "evaluate.every must be 0 in an application"),
        ({"evaluate": {"protocol": "fair"}}, "evaluate.protocol must say one rate and one augmentation here, got fair"),
        ({"evaluate": {"protocol": "dd"}}, "evaluate.protocol must train any network on any set, got dd"),
        (
            {"evaluate": {"baselines": ["herding"]}},
            "evaluate.baselines must be out of random, random@bytes, whole here, got",
        ),
        (
            {"app": {"grid": {"wdth": [1]}}},
            r"app.grid must name options of the network convnet \(act, depth.*\), got 'wdth'",
        ),
        ({"app": {"grid": {"width": [8, 8]}}}, r"app.grid.width must be one or more values, each once, got \[8, 8\]"),
        ({"app": {"grid": {"norm": ["weight"]}}}, "app.grid.norm: .*, got 'weight'"),
        ({"app": {"sample": 1}}, "app.sample must be"),
    ],
)
def test_mistakes_are_told_before_anything_starts(raw: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of("search", raw, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"app": {"sample": 19}},
            r"app.sample must be from 2 to those of app.grid that images of 8 pixels allow \(18\), got 19",
        ),
        (
            {"app": {"updates": 40}},
            r"app.updates must be < the updates of the training on the whole set \(\d\d\), which",
        ),
        ({"evaluate": {"repeats": 0}}, "evaluate.repeats must be >= 1 here, got 0"),
    ],
)
def test_mistakes_that_the_data_tell(raw: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        findings("search", config_of("search", raw, name="wrong", **changes))


def test_the_program_tells_a_mistake_in_one_line(raw: dict[str, Any], raydd_command: list[str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw))
    command = [*raydd_command, "app", "search", "c.yaml", "--set", "app.grid.width=[0]"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raydd: app.grid.width: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
def test_the_page(raw: dict[str, Any], whole: dict[str, Any], tmp_path: Path) -> None:
    check_page(Path(raw["store"]) / "a" / "report.html", tmp_path)
