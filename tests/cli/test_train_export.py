"""`raydd train` and `raydd export` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import raydd
from tests.cli.program import Program, command
from tests.data.makers import tree

TRAIN = ("--net", "convnet:width=4,depth=1", "--epochs", 2, "--batch", 100)


def test_train_goes_on_where_it_was_killed(work: Path, shards: dict[str, str]) -> None:
    words = ("train", shards["train"], *TRAIN, "--test", shards["test"], "--set", "engine.checkpoint_every=5")
    facts = command(work, *words, "--name", "whole", "--json").facts
    assert facts.keys() == {"run", "final", "accuracy", "loss", "updates", "images", "workers", "seconds"}
    assert (facts["run"], facts["updates"], facts["workers"]) == (str(work / "runs" / "whole"), 29, 0)
    assert 0 <= facts["accuracy"] <= 100
    program = Program(work, *words, "--name", "killed", every_round=True)
    for line in program.lines():
        if line.startswith("training: 12/29 updates, loss "):
            program.signal(9)
            break
    assert program.wait().code == -9
    assert not (work / "runs" / "killed" / "train.json").exists()
    shown = command(work, *words, "--name", "killed", "--resume", "must")
    assert (shown.code, shown.ray) == (0, False)
    assert "accuracy  " in shown.out
    whole, killed = (work / "runs" / name / "final.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    told = command(work, *words, "--name", "killed", "--resume", "never").mistake
    assert "exists; choose another name" in told


def test_a_source_is_packed_first(work: Path) -> None:
    facts = command(work, "train", "digits", *TRAIN, "--test", "digits", "--json").facts
    assert facts["accuracy"] > 10
    assert {path.name for path in (work / "shards" / "digits").iterdir()} == {"train", "test"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nowhere", "--net", "convnet"), "expected a distilled set at"),
        (("SHARDS", "--net", "bla"), "net.name must be one of"),
        (("SHARDS", "--net", "convnet", "--lr", -1), "lr must be > 0 or 'auto', got -1.0"),
        (("SHARDS", "--net", "convnet", "--set", "colour=blue"), "colour is not a known key"),
    ],
)
def test_mistakes_of_train(words: tuple[str, ...], said: str, work: Path, shards: dict[str, str]) -> None:
    assert said in command(work, "train", *(shards["train"] if word == "SHARDS" else word for word in words)).mistake
    assert not (work / "runs").exists()


def test_export(finished: Path, tmp_path: Path) -> None:
    run = str(finished / "runs" / "a")
    facts = command(tmp_path, "export", run, "made", "--format", "webdataset", "--json").facts
    assert facts.keys() == {"export", "format", "images", "files", "bytes", "lossy"}
    assert (facts["export"], facts["images"], facts["lossy"]) == (str(tmp_path / "made"), 10, "")
    assert torch.equal(raydd.load(facts["export"]).images, raydd.load(run).images)
    assert command(tmp_path, "verify", "made").out == "made is whole\n"
    shown = command(tmp_path, "export", run, "pictures", "--format", "folder")
    assert (shown.code, shown.ray) == (0, False)
    assert "exporting: 10/10 images" in shown.err
    assert "lossy              learned pixels are clamped and rounded to 8 bits\n" in shown.out
    assert json.loads((tmp_path / "pictures" / "recipe.json").read_text())["method"] == "dm"


def test_mistakes_of_export(finished: Path, tmp_path: Path) -> None:
    run, taken = str(finished / "runs" / "a"), tmp_path / "taken"
    assert "expected a distilled set at" in command(tmp_path, "export", "nowhere", "made", "--format", "hf").mistake
    taken.mkdir()
    (taken / "mine").write_text("mine")
    assert "expected a new or empty folder" in command(tmp_path, "export", run, "taken", "--format", "hf").mistake
    wrong = command(tmp_path, "export", run, "made", "--format", "zip")
    assert (wrong.code, wrong.out) == (2, "")
    assert tree(tmp_path) == {"taken/mine": b"mine"}
