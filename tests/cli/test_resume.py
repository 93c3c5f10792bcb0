"""Stopped and started again: the same command ends in the same bits."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from raydd.data.index import load_index
from raydd.data.pack import pack
from raydd.store import Folder
from tests.cli.conftest import write_config
from tests.cli.program import Program, command
from tests.data.makers import tree

METHODS = {
    "dm": {"rounds": 40, "classes_per_slot": 2},
    "frepo": {"rounds": 40, "pool_size": 3, "models_per_round": 2, "max_online_updates": 7},
}


def config_of(folder: Path, shards: dict[str, str], method: str) -> None:
    options = {"name": method, **METHODS[method]}
    write_config(folder, shards, checkpoint_every=5, **options)


def bits(folder: Path) -> bytes:
    return (folder / "runs/a/distilled/data.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shards: dict[str, str]) -> dict[str, bytes]:
    """For each method the learned tensors of a run that nothing happened to."""
    learned = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp("undisturbed") / method
        folder.mkdir()
        config_of(folder, shards, method)
        assert command(folder, "distill", "c.yaml").code == 0
        learned[method] = bits(folder)
    return learned


@pytest.mark.parametrize(
    ("method", "number", "code"),
    [
        ("dm", signal.SIGINT, 130),
        ("dm", signal.SIGTERM, 143),
        ("frepo", signal.SIGTERM, 143),
        ("dm", signal.SIGKILL, -9),
    ],
)
def test_the_same_command_goes_on(
    method: str, number: int, code: int, work: Path, shards: dict[str, str], undisturbed: dict[str, bytes]
) -> None:
    config_of(work, shards, method)
    program = Program(work, "distill", "c.yaml", every_round=True)
    for line in program.lines():
        if line.startswith("distilling: 20/40 "):
            program.signal(number)
    stopped = program.wait()
    assert stopped.code == code
    if number != signal.SIGKILL:
        assert stopped.err.splitlines()[-1] == "raydd: interrupted; the same command goes on from the last checkpoint"
    assert not (work / "runs/a/distilled").exists()
    state = command(work, "show", "runs/a", "--json").facts
    assert (state["state"], state["rounds"]) == ("stopped", 40)
    # The one of round 0, where a busy machine was still writing it when the next were due.
    assert 0 <= state["last_checkpoint"] < 40
    again = command(work, "distill", "c.yaml", "--json")
    assert again.facts["rounds"] == 40
    assert bits(work) == undisturbed[method]
    assert command(work, "verify", "runs/a").code == 0


def test_interrupted_while_packing(work: Path) -> None:
    """What is packed later is what would have been packed at once."""
    words = ["pack", "digits", "packed", "--shard-mb", 1, "--workers", 1]
    program = Program(work, *words)
    for line in program.lines():
        if line.startswith("packing: "):
            program.signal(signal.SIGINT)
    stopped = program.wait()
    assert (stopped.code, "index.json" in tree(work / "packed")) == (130, False)
    mistake = command(work, "show", "packed").mistake
    assert mistake.startswith(
        f"raydd: expected a run, a sweep, an application, a distilled set or packed shards at {work}/packed, got none"
    )
    assert command(work, *words).code == 0
    assert command(work, "pack", "digits", "at-once", *words[3:]).code == 0
    assert tree(work / "packed") == tree(work / "at-once")


def test_resume_never_and_must(copied: Path) -> None:
    before = tree(copied)
    words = ["distill", "c.yaml", "--set", "evaluate.repeats=1"]
    run = f"{copied}/runs/a"
    never = command(copied, *words, "--resume", "never").mistake
    assert never == f"raydd: the run {run} exists; choose another name, delete it, or let --resume be auto"
    must = command(copied, *words, "--resume", "must", "--set", "name=b").mistake
    assert must == (
        f"raydd: expected a run at {copied}/runs/b to go on with, got none; check name and store, or let --resume be auto"
    )
    assert command(copied, *words, "--resume", "must").code == 0
    assert tree(copied) == before
    fresh = command(copied, *words, "--resume", "never", "--set", "name=c", "--set", "evaluate.repeats=0")
    assert fresh.code == 0


def test_more_rounds_for_a_finished_run(copied: Path) -> None:
    plain = ["distill", "c.yaml", "--set", "method.rounds=9"]
    more = command(copied, *plain, "--json")
    assert more.facts["rounds"] == 9
    assert "distilling: 7/9 rounds" in more.err
    assert command(copied, *plain, "--set", "name=b").code == 0
    assert bits(copied) == (copied / "runs/b/distilled/data.safetensors").read_bytes()
    before = tree(copied)
    fewer = command(copied, "distill", "c.yaml").mistake
    assert fewer == f"raydd: method.rounds must be >= 9, which {copied}/runs/a has done already, got 6"
    assert tree(copied) == before


def test_more_rounds_where_a_schedule_depends_on_them(work: Path, shards: dict[str, str]) -> None:
    config_of(work, shards, "frepo")
    words = ["distill", "c.yaml", "--set", "method.rounds=4"]
    assert command(work, *words).code == 0
    before = tree(work)
    mistake = command(work, *words, "--set", "method.rounds=6").mistake
    assert "method.rounds was 4, now 6" in mistake
    assert mistake.startswith(f"raydd: the run a at {work}/runs/a is of another config (")
    assert tree(work) == before


def test_scores_are_of_the_test_images_that_lie_there_now(copied: Path, tmp_path: Path, shards: dict[str, str]) -> None:
    wanted = ["distill", "c.yaml", "--set", "evaluate.repeats=1", "--set", f"data.test={tmp_path}/test", "--json"]
    shutil.copytree(shards["test"], tmp_path / "test")
    first = command(copied, *wanted).facts
    place = copied / "runs/a/evaluation.json"
    told = place.read_text()
    # As it was recorded before test images were named by their hash.
    older = json.loads(told)
    del older["asked"]["test_hash"]
    place.write_text(json.dumps(older))
    assert command(copied, *wanted).facts["accuracy"] == first["accuracy"]
    assert json.loads(place.read_text()) == older, "nothing was scored again"
    place.write_text(told)
    shutil.rmtree(tmp_path / "test")
    pack(f'view:{{"of": "{shards["test"]}", "part": [0, 2]}}', str(tmp_path / "test"), split="test")
    command(copied, *wanted)
    again = json.loads(place.read_text())
    assert again["asked"]["test_hash"] == load_index(Folder(str(tmp_path / "test"))).hash
    assert again["results"] != older["results"]


def test_another_evaluation_of_a_finished_run(copied: Path) -> None:
    learned = bits(copied)
    again = command(
        copied, "distill", "c.yaml", "--set", "evaluate.repeats=2", "--set", "evaluate.baselines=[]", "--json"
    )
    assert again.facts["accuracy"].keys() == {"distilled"}
    assert again.facts["accuracy"]["distilled"]["repeats"] == 2
    assert "distilling" not in again.err
    assert bits(copied) == learned
