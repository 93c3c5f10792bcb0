"""`raydd.api.train`: one result whether or not it was interrupted, and whoever trains."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from raydd import api
from raydd.config import validate
from raydd.config.train import TrainConfig
from raydd.engine import raytrain
from raydd.engine.metrics import read_metrics
from raydd.engine.numerics import numerics
from raydd.engine.training import check_generation, plan_training, train_network, work
from raydd.errors import ConfigError, DataError, EngineError, IntegrityError, RunError
from raydd.export import export
from raydd.store import Folder
from raydd.training import Alone, open_data, open_network, open_test
from raydd.training.data import facts_of
from tests.sets import make_set
from tests.training.groups import Member, together

SMALL = {"net": "convnet:width=4,depth=1,norm=batch", "epochs": 2, "batch": 100, "engine": {"checkpoint_every": 8}}


class Stop(Exception):
    """What interrupts a training."""


def train(data: str, store: Path, **changes: Any) -> dict[str, Any]:
    given = {**SMALL, "store": str(store), **changes}
    return api.train(data, given.pop("net"), **given)


def weights(run: str) -> bytes:
    return Folder(run).read("final.safetensors")


def stopping(at: int) -> Any:
    class Watcher(api.Silent):
        def training(self, done: int, total: int, loss: float) -> None:
            if done == at:
                raise Stop

    return Watcher()


@pytest.fixture(scope="module")
def undisturbed(digits: str, digits_test: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return train(digits, tmp_path_factory.mktemp("undisturbed"), test=digits_test)


def test_result(undisturbed: dict[str, Any], digits: str, digits_test: str) -> None:
    run = Folder(undisturbed["run"])
    assert run.name == "train-digits-train-convnet-width-4-depth-1-norm-batch"
    # 2 epochs of 1442 images by 100.
    assert (undisturbed["updates"], undisturbed["images"], undisturbed["workers"]) == (29, 1442, 0)
    assert undisturbed["classes"] == list("0123456789")
    lines = read_metrics(run, "update")
    assert [line["update"] for line in lines] == list(range(29))
    assert (lines[0]["lr"], undisturbed["loss"]) == (0.01, lines[-1]["loss"])
    assert lines[-1]["loss"] < lines[0]["loss"]
    # What was scored is what was kept, read back by names.
    data = open_data(digits)
    network = open_network(SMALL["net"], facts_of(data), 9)
    network.module.to_empty(device="cpu")
    network.module.load_state_dict(safetensors.torch.load(weights(run.url)))
    test = open_test(digits_test, data)
    with torch.no_grad():
        logits = network.module.eval()(data.transform(test.images(torch.arange(len(test)))))
    share = 100 * float((logits.argmax(1) == test.labels).double().mean())
    assert undisturbed["accuracy"] == pytest.approx(share)
    assert undisturbed["weights"]["size"] == len(weights(run.url))
    assert not [name for name in run.list() if name.endswith((".pt", ".pth", ".pkl"))]


def test_a_finished_one_is_scored_on_the_split_that_is_asked_for(
    undisturbed: dict[str, Any], digits: str, digits_test: str, tmp_path: Path
) -> None:
    found = [train(digits, tmp_path, test=test, name="one") for test in (None, digits_test, digits, None)]
    accuracies = [result["accuracy"] for result in found]
    assert accuracies[:2] == [None, undisturbed["accuracy"]]
    assert accuracies[2] == accuracies[3] != accuracies[1]
    assert {weights(result["run"]) for result in found} == {weights(undisturbed["run"])}
    assert len({result["loss"] for result in found}) == 1


@pytest.mark.parametrize("at", [1, 12, 29])
def test_gone_on_with_it_is_the_same(
    at: int, undisturbed: dict[str, Any], digits: str, digits_test: str, tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        train(digits, tmp_path, test=digits_test, watcher=stopping(at))
    result = train(digits, tmp_path, test=digits_test, resume="must")
    assert weights(result["run"]) == weights(undisturbed["run"])
    assert (result["accuracy"], result["loss"]) == (undisturbed["accuracy"], undisturbed["loss"])
    losses = [
        [(x["update"], x["loss"]) for x in read_metrics(Folder(r["run"]), "update")] for r in (result, undisturbed)
    ]
    assert losses[0] == losses[1]
    again = train(digits, tmp_path, test=digits_test, watcher=stopping(0))
    assert again == result


def test_a_distilled_set_and_its_export_train_alike(tmp_path: Path) -> None:
    ds = make_set(soft=False)
    ds.save(Folder(str(tmp_path / "set")))
    export(ds, str(tmp_path / "tars"), "webdataset")
    first = train(str(tmp_path / "set"), tmp_path, epochs=3, name="a")
    second = train(str(tmp_path / "tars"), tmp_path, epochs=3, name="b")
    assert weights(first["run"]) == weights(second["run"])
    assert (first["config"]["batch"], first["config"]["augment"]) == (8, "dsa:color_crop_flip")
    plain = train(str(tmp_path / "set"), tmp_path, epochs=3, name="c", augment=None)
    assert weights(plain["run"]) != weights(first["run"])
    export(ds, str(tmp_path / "pictures"), "folder")
    with pytest.raises(DataError, match="got a lossy export of one"):
        train(str(tmp_path / "pictures"), tmp_path)


def test_which_runs_may_be_gone_on_with(digits: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    store = Path(undisturbed["run"]).parent
    with pytest.raises(RunError, match=r"expected a run at .*/new to go on with, got none"):
        train(digits, tmp_path, name="new", resume="must")
    with pytest.raises(RunError, match=r"the run .* exists; choose another name"):
        train(digits, store, resume="never")
    with pytest.raises(
        RunError, match=r"of another config \(lr was 0.01, now 0.5\); choose another name, or delete it"
    ):
        train(digits, store, lr=0.5)
    with pytest.raises(RunError, match=r"of another config \(cpus_per_worker was|of another config \(engine was"):
        train(digits, store, engine={"cpus_per_worker": 2})
    (tmp_path / "distilled").mkdir()
    (tmp_path / "distilled" / "config.yaml").write_text("name: a\n")
    with pytest.raises(RunError, match=r"expected a training or nothing at .*, got a run; choose another name"):
        train(digits, tmp_path, name="distilled")
    final = store / Path(undisturbed["run"]).name / "final.safetensors"
    kept = final.read_bytes()
    final.write_bytes(kept[:-1])
    with pytest.raises(IntegrityError, match=r"expected train.json and the weights it names, got others"):
        train(digits, store)
    final.write_bytes(kept)


def test_other_workers_are_told_of(
    digits: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Stop):
        train(digits, tmp_path, watcher=stopping(12))
    monkeypatch.setattr(raytrain, "train_on_ray", lambda job, watch: (_ for _ in ()).throw(Stop))
    with caplog.at_level(logging.WARNING, "raydd"), pytest.raises(Stop):
        train(digits, tmp_path, workers=2)
    assert "going on with 2 workers, begun with 0: the result differs by rounding" in caplog.text


def test_damaged_checkpoints_are_passed_over(digits: str, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Stop):
        train(digits, tmp_path, watcher=stopping(20))
    (run,) = [path.parent for path in tmp_path.glob("*/config.json")]
    newest = max((run / "checkpoints").iterdir())
    data = bytearray((newest / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "state.safetensors").write_bytes(bytes(data))
    assert weights(train(digits, tmp_path)["run"]) == weights(undisturbed["run"])


def test_arithmetic_that_fails_is_told_and_not_kept(digits: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"training gave a loss of (nan|inf) at update \d+; lower the learning rate"):
        train(digits, tmp_path, lr=1e30, name="wild")
    assert not (tmp_path / "wild" / "train.json").exists()
    assert read_metrics(Folder(str(tmp_path / "wild")), "update") == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"net": "bla"}, r"net.name must be one of"),
        ({"epochs": 0}, r"epochs must be >= 1 or 'auto', got 0"),
        ({"optimiser": "lion"}, r"optimiser must be 'sgd' or 'adam', got 'lion'"),
        ({"augment": "dsa:nonsense"}, r"nonsense"),
        (
            {"augment": "nobody:flip"},
            r"augment must name whose and which operations, as in dsa:crop_flip .*, got 'nobody:flip'",
        ),
        ({"learning": 1}, r"learning is not a known key"),
        ({"overrides": ["engine.workers=3"], "batch": 2}, r"batch must be >= engine.workers \(3\), got 2"),
        ({"batch": 1}, r"an update has 1 images for 1 workers and each wants 2 for BatchNorm"),
        (
            {"overrides": ["engine.gpus_per_worker=0.5"]},
            r"data-parallel training takes engine.gpus_per_worker 0 or 1, got 0.5",
        ),
        ({"name": "../up"}, r"name must be letters, digits"),
        ({"test": "nowhere"}, r"expected packed shards with index.json, got none"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    changes: dict[str, Any], said: str, digits: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, DataError), match=said) as caught:
        train(digits, tmp_path / "runs", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_newer_driver_stops_the_older(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))
    check_generation(run, 1)
    run.write("lease/gen-00000002.json", b"{}")
    check_generation(run, 2)
    with pytest.raises(EngineError, match=r"another driver has taken this run over \(lease 2, ours is 1\)"):
        check_generation(run, 1)


def test_paths_hold_wherever_a_worker_stands(
    digits: str, digits_test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(digits).parent)
    test = os.path.relpath(digits_test, Path(digits).parent)
    job = plan_training(config(Path(digits).name, Path("runs"), test=test))
    assert (job.config.data, job.config.test) == (digits, digits_test)
    assert Path(job.run).parent == Path(digits).parent / "runs"


def test_workers_that_see_different_checkpoints_stop(digits: str, tmp_path: Path) -> None:
    """As where the store is a folder that the nodes do not share."""
    jobs = [plan_training(config(digits, tmp_path / str(rank))) for rank in range(2)]
    # To its end: on a slow disk a stopped one may have no checkpoint but its first.
    train_network(jobs[0])

    def part(member: Member) -> None:
        work(jobs[member.rank], member, torch.device("cpu"))

    with pytest.raises(EngineError, match=r"workers found different checkpoints \(\[\d\d\.0, 0\.0\]\)"):
        together(2, part)


def config(data: str, store: Path, **changes: Any) -> TrainConfig:
    return validate(TrainConfig, {**SMALL, "data": data, "store": str(store), **changes}, where="test")


def test_errors_of_workers_keep_their_kind(tmp_path: Path) -> None:
    run = Folder(str(tmp_path))
    assert raytrain._failure(run, 3) is None
    run.write_json("failed.json", {"generation": 3, "kind": "IntegrityError", "message": "shard 5 was altered"})
    found = raytrain._failure(run, 3)
    assert isinstance(found, IntegrityError)
    assert str(found) == "shard 5 was altered"
    assert raytrain._failure(run, 4) is None


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data makes them of its own defaults
def test_two_workers_of_ray_train_go_on_to_the_same_bits(
    digits: str, digits_test: str, tmp_path: Path, ray_address: str
) -> None:
    """Begun by two threads and interrupted, ended by two processes: the same as by two threads all along."""
    changes = {"test": digits_test, "engine": {"workers": 2, "checkpoint_every": 8}}
    whole, half = (plan_training(config(digits, tmp_path / name, **changes)) for name in ("whole", "half"))
    with numerics(whole.config.engine):
        together(2, lambda member: work(whole, member, torch.device("cpu")))
        with pytest.raises(Stop):
            together(2, lambda member: work(half, member, torch.device("cpu"), stopping(12).training))
    run = Folder(half.run)
    assert run.exists("checkpoints/00000008/manifest.json")
    run.write_json("config.json", {"format": "raydd-train-1", "hash": half.hash, "workers": 2})
    seen: list[tuple[int, int]] = []
    result = train_network(half, resume="must", watch=lambda done, total, loss: seen.append((done, total)))
    assert weights(half.run) == weights(whole.run)
    expected = json.loads((Path(whole.run) / "train.json").read_text())
    assert (result["accuracy"], result["loss"], result["workers"]) == (expected["accuracy"], expected["loss"], 2)
    assert seen[-1] == (29, 29)
    assert work_alone_differs(whole.run, undisturbed_like(digits, digits_test, tmp_path))


def undisturbed_like(digits: str, digits_test: str, tmp_path: Path) -> str:
    job = plan_training(config(digits, tmp_path / "alone", test=digits_test))
    with numerics(job.config.engine):
        work(job, Alone(), torch.device("cpu"))
    return job.run


def work_alone_differs(one: str, other: str) -> bool:
    """Two workers see statistics of half batches: nearly the same network as one, not the very same."""
    a, b = (safetensors.torch.load(weights(run)) for run in (one, other))
    close = all(torch.allclose(t.float(), b[name].float(), atol=0.1) for name, t in a.items())
    return close and any(not torch.equal(t, b[name]) for name, t in a.items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("net", [SMALL["net"], "torchvision:mobilenet_v2"])
def test_on_a_gpu_same_bits_again_and_after_an_interruption(net: str, digits: str, tmp_path: Path) -> None:
    engine = {"gpus_per_worker": 1, "checkpoint_every": 8}
    first, again = (train(digits, tmp_path, net=net, engine=engine, name=name) for name in ("first", "again"))
    with pytest.raises(Stop):
        train(digits, tmp_path, net=net, engine=engine, name="stopped", watcher=stopping(12))
    stopped = train(digits, tmp_path, net=net, engine=engine, name="stopped")
    assert weights(first["run"]) == weights(again["run"]) == weights(stopped["run"])


@pytest.mark.gpu
@pytest.mark.ray
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_worker_on_a_gpu_does_what_this_process_does(digits: str, tmp_path: Path, ray_address: str) -> None:
    engine = {"gpus_per_worker": 1, "checkpoint_every": 8}
    here, there = (train(digits, tmp_path, engine=engine, workers=n, name=str(n)) for n in (0, 1))
    assert weights(here["run"]) == weights(there["run"])
