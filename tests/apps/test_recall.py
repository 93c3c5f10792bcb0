from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import raydd.apps.recall as app
from raydd.apps import run_application
from raydd.apps.draws import Desk, classes_of, episode
from raydd.config import APPS, validate
from raydd.errors import ConfigError
from raydd.store import Folder
from raydd.watchers import Silent
from tests.apps.interrupted import Stopped, counted


def test_classes_are_cut_into_tasks() -> None:
    assert app.cut(7, 3) == ((0, 1), (2, 3), (4, 5, 6))
    with pytest.raises(ConfigError, match=r"^app.tasks must be <= the number of classes \(3\), got 5$"):
        app.cut(3, 5)


def test_a_draw_has_a_class_of_each_of_several_tasks() -> None:
    tasks = ((0, 1), (2, 3), (4, 5, 6))
    draws = [classes_of(0, tasks, 2, k) for k in range(200)]
    task_of = {c: t for t, task in enumerate(tasks) for c in task}
    assert all(len({task_of[c] for c in draw}) == 2 for draw in draws)
    assert {c for draw in draws for c in draw} == set(range(7))
    assert draws[:5] == [classes_of(0, tasks, 2, k) for k in range(5)]
    assert draws != [classes_of(1, tasks, 2, k) for k in range(200)]


def test_an_episode_is_not_scored_on_its_shots() -> None:
    by_class = torch.arange(40).split(10)
    chosen, shots, rest = episode(0, by_class, 3, 2, 7)
    assert len(set(chosen)) == 3
    for c, given, others in zip(chosen, shots, rest, strict=True):
        assert sorted(torch.cat([given, others]).tolist()) == by_class[c].tolist()
        assert len(given) == 2
    # More shots of the same episode: the same classes, and the shots there were.
    again, more, _ = episode(0, by_class, 3, 5, 7)
    assert again == chosen
    assert all(torch.equal(m[:2], g) for m, g in zip(more, shots, strict=True))


def test_the_nearest_shot_by_hand() -> None:
    """Class 0 at 0, 1, 2, 9 and class 1 at 10, 11, 12, 4 of a line; a shot of each at 0 and 10: 9 and 4 go astray."""
    space = torch.tensor([0.0, 1, 2, 9, 10, 11, 12, 4])[:, None]
    desk = SimpleNamespace(
        lessons=SimpleNamespace(test_images=9),
        episode=lambda shots, number: (
            [0, 1],
            [torch.tensor([0]), torch.tensor([4])],
            [torch.tensor([1, 2, 3]), torch.tensor([5, 6, 7])],
        ),
    )
    assert Desk.nearest(desk, space, 1, 0) == pytest.approx(100 * 4 / 6)  # type: ignore[arg-type]


def config(tmp_path: Path, **changes: Any) -> Any:
    raw = {
        "name": "r",
        "data": {"train": "digits", "classes": [0, 1, 2, 3]},
        "net": {"width": 4, "depth": 1},
        "methods": [{"name": "random", "ipc": 5}],
        "engine": {"workers": 0},
        "store": str(tmp_path),
        "evaluate": {"protocol": "rtp", "nets": ["mlp"], "repeats": 1, "baselines": ["random@bytes", "whole"]},
        **changes,
    }
    raw["app"] = {
        "tasks": 2,
        "ways": [2],
        "draws": 15,
        "whole_draws": 3,
        "test_images": 20,
        "updates": 40,
        "episodes": 4,
        "episode_ways": 3,
        "shots": [1, 5],
    } | changes.get("app", {})
    return validate(APPS["recall"], raw, where="test")


def test_an_application_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        counted(patch, app, "drawn", stop_after=3)
        with pytest.raises(Stopped):
            run_application("recall", config(tmp_path / "a"), "auto", Silent())
    with monkeypatch.context() as patch:
        rest = counted(patch, app, "drawn")
        counted(patch, app, "recalled")
        done = run_application("recall", config(tmp_path / "a"), "auto", Silent())
        # Two blocks of the memory and one of the random images were done.
        assert [(item.of, item.first, item.count) for item in rest()] == [("random@bytes", 10, 5), ("whole", 0, 3)]
    assert run_application("recall", config(tmp_path / "b"), "auto", Silent()).findings == done.findings
    composed, shown = done.findings["values"]["composed"], done.findings["values"]["shown"]
    assert list(composed) == ["random, ipc 5", "random, as many bytes, beside random, ipc 5", "whole data"]
    # The bytes of four classes of five digits, at a byte a pixel.
    assert [row[1] for row in done.findings["grids"][0]["rows"]][:2] == [20 * (64 + 8)] * 2
    assert all(mean > 75 for row in composed.values() for mean, _ in row.values())
    assert set(shown) == {f"{how}, random, ipc 5" for how in ("nearest shot by features", "nearest shot by pixels")} | {
        "classify, then recall, random, ipc 5"
    }
    assert all(row["5 shots"][0] > 60 for row in shown.values())
    assert "Classes that were never seen together" in Path(done.report).read_text()


def test_a_memory_that_is_asked_by_images(tmp_path: Path) -> None:
    memory = {"name": "rtp", "ipc": 2, "num_bases": 4, "rounds": 2, "inner_steps": 2, "inner_batch": 2, "real_batch": 4}
    changed = {
        "methods": [memory | {"address": "image", "task_classes": 3}],
        "app": {"draws": 1, "whole_draws": 1, "updates": 2, "episodes": 3},
    }
    done = run_application("recall", config(tmp_path, **changed), "auto", Silent())
    shown = done.findings["values"]["shown"]
    ways = ("nearest shot by features", "nearest shot by pixels", "classify, then recall", "asked by image")
    assert list(shown) == [f"{way}, rtp, ipc 2" for way in ways]
    assert all(list(row) == ["1 shot", "5 shots"] for row in shown.values())
    assert "grids" in done.findings
    assert len(done.findings["grids"]) == 1
    assert all(row[1] > 0 for row in done.findings["grids"][0]["rows"])
    assert done.findings["lead"].startswith("Classifiers are trained on what memories hold for classes that are shown")
    # A page with nothing composed shows the other table alone.
    assert "Classes that were never seen together" not in Path(done.report).read_text()


def test_soft_labels_lose_the_other_classes(tmp_path: Path) -> None:
    """FRePo's rows are cut down to the columns of a draw's classes."""
    changed = {
        "methods": [{"name": "frepo", "ipc": 1, "rounds": 2, "real_batch": 16}],
        "evaluate": {"protocol": "frepo", "nets": ["mlp"], "repeats": 1, "baselines": []},
        "app": {"draws": 2, "whole_draws": 1, "updates": 3, "episodes": 0},
    }
    done = run_application("recall", config(tmp_path, **changed), "auto", Silent())
    assert list(done.findings["values"]["composed"]) == ["frepo, ipc 1"]
    assert len(done.findings["grids"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": 2, "ways": [3]}, "app.ways must be <= app.tasks (2), one class of each, got 3"),
        ({"draws": 2, "whole_draws": 3}, "app.whole_draws must be <= app.draws (2), got 3"),
        ({"ways": [1]}, "app.ways.0"),
        ({"episodes": 0}, "app.episodes must be > 0 with a memory that is asked by images, got 0"),
    ],
)
def test_wrong_configs_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, app=change, methods=[{"name": "dm"}, {"name": "rtp", "address": "image"}])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"nets": ["mlp", "convnet"]}, "evaluate.nets must be auto or one network here, got 2"),
        (
            {"protocol": "dd"},
            "evaluate.protocol must train networks by other steps than those learned with a set, got dd",
        ),
        ({"protocol": "fair"}, "evaluate.protocol must say one rate and one augmentation here, got fair"),
    ],
)
def test_wrong_trainings_are_refused(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, evaluate=said)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shots": [50]}, r"^app.shots must be < the test images of the smallest class \(3\d\), got 50"),
        ({"episode_ways": 6}, r"^app.episode_ways must be <= the number of classes \(4\), got 6$"),
    ],
)
def test_impossible_episodes(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    said = config(tmp_path, app=change)
    with pytest.raises(ConfigError, match=message):
        run_application("recall", said, "auto", Silent())
    # It was told before anything was done, and the corrected command begins anew.
    assert Folder(said.store).folder(said.name).list() == []
