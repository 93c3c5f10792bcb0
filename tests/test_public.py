"""What Python programs may rely on."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import raydd
from raydd.config import Config
from raydd.data.pack import pack
from raydd.distilled import DistilledSet
from raydd.errors import ConfigError, EngineError, RaydError, RunError, UserError
from raydd.evaluating import EvaluateOptions, own_shards
from raydd.pulling import pull

SCRIPT = """
import sys, raydd
assert not {'torch', 'ray', 'numpy'} & set(sys.modules), 'importing raydd loads nothing heavy'
assert {'Config', 'DistilledSet', 'Run', 'distill', 'evaluate', 'load'} <= set(dir(raydd))
from raydd.evaluate import PROTOCOLS
assert callable(raydd.evaluate) and callable(raydd.evaluate), 'the function, though the package has its name'
raydd.distill
assert callable(raydd.evaluate) and raydd.evaluate.PROTOCOLS is PROTOCOLS
assert 'ray' not in sys.modules
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> raydd.Run:
    """A finished run of a second."""
    root = tmp_path_factory.mktemp("public")
    for split in ("train", "test"):
        pack("digits", str(root / "shards" / split), split=split)
    config = {
        "name": "a",
        "data": {"train": str(root / "shards/train"), "test": str(root / "shards/test")},
        "method": {"name": "dm", "rounds": 4, "real_batch": 8},
        "net": {"width": 2, "depth": 1},
        "engine": {"workers": 0},
        "store": str(root / "runs"),
        "evaluate": {"repeats": 0},
    }
    return raydd.distill(config)


def test_importing_is_cheap_and_names_stay_what_they_are() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True)


def test_all_names_are_there() -> None:
    assert set(raydd.__all__) == {"Config", "DistilledSet", "Run", "distill", "evaluate", "load"}
    for name in raydd.__all__:
        assert getattr(raydd, name) is not None
    assert raydd.Config is Config
    assert raydd.DistilledSet is DistilledSet
    with pytest.raises(AttributeError, match="module 'raydd' has no attribute 'destill'"):
        raydd.destill  # noqa: B018
    assert (Path(raydd.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("function", [raydd.distill, raydd.load, DistilledSet.transform, DistilledSet.load])
def test_what_is_public_tells_what_it_raises(function: object) -> None:
    documented = inspect.getdoc(function) or ""
    assert "Raises:" in documented


def test_errors_are_one_family() -> None:
    assert issubclass(ConfigError, UserError)
    assert issubclass(UserError, ValueError)
    assert issubclass(RunError, RaydError)
    assert (UserError("x").exit_code, EngineError("x").exit_code) == (2, 1)


def test_a_run(run: raydd.Run) -> None:
    assert run.url.endswith("/runs/a")
    assert run.accuracies == ()
    assert run.distilled().images.shape == (10, 1, 8, 8)
    assert [line["round"] for line in run.metrics()] == [0, 1, 2, 3]
    assert all(line["loss"] > 0 and line["seconds"] >= 0 for line in run.metrics())
    assert run.status()["state"] == "finished"
    assert Path(run.report).is_file()
    assert Path(run.picture).is_file()
    assert Path(run.artifact, "manifest.json").is_file()


def test_three_lines_and_an_ordinary_training_loop(run: raydd.Run) -> None:
    ds = raydd.load(run.url)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, len(ds.classes)))
    torch.nn.init.zeros_(network[1].weight)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(20):
        for images, labels in ds.loader(batch_size=5):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(images), labels).backward()
            optimiser.step()
    predicted = network(ds.transform(ds.pixels())).argmax(1)
    assert (predicted == ds.labels).float().mean() > 0.7


def test_a_config_may_be_a_model_a_dict_or_a_file(run: raydd.Run, tmp_path: Path) -> None:
    """All of them mean the run that is finished, so nothing is done again."""
    path = Path(run.url) / "config.yaml"
    for config in (str(path), path, raydd.Config.model_validate(run.distilled().recipe.config)):
        assert raydd.distill(config).url == run.url
    with pytest.raises(RunError, match=r"seed was 0, now 1"):
        raydd.distill(path, overrides=["seed=1"])
    with pytest.raises(RunError, match="choose another name, delete it, or let --resume be auto"):
        raydd.distill(path, resume="never")


def test_evaluate(run: raydd.Run) -> None:
    test = run.distilled().recipe.config["data"]["test"]
    told: list[tuple[int, int]] = []

    class Watcher(raydd.api.Silent):
        def evaluating(self, done: int, total: int) -> None:
            told.append((done, total))

    for ds in (run.url, run.distilled()):
        (accuracy,) = raydd.evaluate(
            ds,
            test=test,
            protocol="dsa",
            nets=["convnet:width=2,depth=1"],
            repeats=2,
            baselines=[],
            watcher=Watcher(),
        )
        assert (accuracy.of, accuracy.repeats, accuracy.protocol) == ("distilled", 2, "dsa")
        assert accuracy.mean == pytest.approx(sum(accuracy.each) / 2)
    assert told == [(1, 2), (2, 2)] * 2
    # Training shards are where the recipe says.
    beside = raydd.evaluate(run.url, test=test, predictors=["knn"], repeats=2)
    assert [accuracy.of for accuracy in beside] == ["distilled", "random", "random@bytes"]
    for wrong, told in (
        ({"workers": -1}, r"^workers must be >= 0, got -1"),
        ({"repeats": 0}, r"^repeats must be >= 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=told):
            raydd.evaluate(run.url, test=test, **wrong)


def test_training_shards_are_taken_only_where_they_serve(
    run: raydd.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds = run.distilled()
    data = ds.recipe.config["data"]
    options = EvaluateOptions(test=data["test"])
    assert own_shards([ds, ds], options) == data["train"]
    other = replace(ds, recipe=replace(ds.recipe, index_hash="0" * 64))
    assert own_shards([ds, other], options) is None, "a set of other images"
    assert own_shards([ds], replace(options, test=data["train"])) is None, "what is scored on"
    gone = replace(ds, recipe=replace(ds.recipe, config={"data": {"train": str(tmp_path / "gone")}}))
    assert own_shards([gone], options) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert own_shards([ds], options) == data["train"], "no worker, so it is this machine that reads them"
    assert own_shards([ds], replace(options, workers=2)) is None, "a folder that workers may not reach"


def test_a_pulled_set_beside_something_else_is_no_runs(run: raydd.Run, tmp_path: Path) -> None:
    pull(run.url, str(tmp_path / "mine"))
    (tmp_path / "config.yaml").write_text("name: other\n")
    test = run.distilled().recipe.config["data"]["test"]
    raydd.evaluate(str(tmp_path / "mine"), test=test, predictors=["knn"], baselines=[], repeats=1, record=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "mine"]
