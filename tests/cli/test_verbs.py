"""Every verb does what it says, and `--json` gives one object alone on stdout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

import raydd
from raydd.config import methods
from raydd.config.load import parse_yaml
from tests.cli.program import command
from tests.data.makers import tree

ACCURACY = {"mean", "std", "repeats", "protocol", "net"}
PROBE = "import sys; from raydd.cli import app; app(sys.argv[1:], standalone_mode=False); loaded = set(sys.modules)\n"
ITERATIVE = [name for name, spec in methods().items() if spec.config.iterative]


@pytest.mark.parametrize("words", [["--help"], ["distill", "--help"], ["pack", "-h"]])
def test_help_loads_neither_torch_nor_ray(words: list[str]) -> None:
    script = PROBE + "sys.stderr.write(' '.join(loaded & {'torch', 'ray', 'numpy', 'fsspec', 'sklearn'}))"
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "Usage: " in done.stdout


def test_the_installed_command(raydd_command: list[str], tmp_path: Path) -> None:
    told = subprocess.run([*raydd_command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert told.stdout == f"raydd {version('raydd')}\n"
    listed = subprocess.run([*raydd_command, "methods"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(methods())
    wrong = subprocess.run([*raydd_command, "distill", "no.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "raydd: cannot read the config no.yaml: no such file; give the path or URL of a YAML file\n"


def test_distill_tells_all_that_was_made(finished: Path) -> None:
    facts = json.loads((finished / "first.json").read_text())
    run = str(finished / "runs" / "a")
    assert facts.keys() >= {"run", "artifact", "report", "rounds", "seconds", "accuracy"}
    assert (facts["run"], facts["artifact"], facts["rounds"]) == (run, f"{run}/distilled", 6)
    assert facts["seconds"] > 0
    assert facts["accuracy"].keys() == {"random", "random@bytes", "distilled"}
    results = [(result["of"], result["images_per_class"], result["storage_bytes"] > 0) for result in facts["results"]]
    assert results == [("distilled", 1, True), ("random", 1, True), ("random@bytes", 3.6, True)]
    for accuracy in facts["accuracy"].values():
        assert accuracy.keys() == ACCURACY
        assert 0 <= accuracy["mean"] <= 100
        assert (accuracy["std"], accuracy["repeats"], accuracy["protocol"]) == (0.0, 1, "dsa")
    made = {"config.yaml", "metrics.jsonl", "status.json", "report.html", "images.png", "evaluation.json"}
    made |= {
        f"distilled/{name}" for name in ("data.safetensors", "recipe.json", "manifest.json", "README.md", "preview.png")
    }
    made |= {"checkpoints/00000006/manifest.json", "history/00000000.safetensors"}
    assert made <= tree(finished / "runs" / "a").keys()
    assert not [name for name in tree(finished) if "tmp" in name]
    with Image.open(facts["picture"]) as picture:
        assert picture.size == (10 * (48 + 2) + 2, 48 + 2 + 2)


def test_a_finished_run_prints_its_result_again_and_changes_nothing(finished: Path) -> None:
    before = tree(finished)
    again = command(finished, "distill", "c.yaml", "--set", "evaluate.repeats=1", "--json")
    assert again.facts == json.loads((finished / "first.json").read_text())
    assert again.err == ""
    shown = command(finished, "distill", "c.yaml", "--set", "evaluate.repeats=1")
    assert shown.code == 0
    assert [line.split()[0] for line in shown.out.splitlines()] == [
        "distilled",
        "random",
        "random@bytes",
        "artifact",
        "picture",
        "report",
    ]
    assert (
        "10 images, 2640 bytes, 1 a class (1 by storage), 1 x convnet:width=4,depth=1,norm=instance, protocol dsa"
        in shown.out
    )
    assert tree(finished) == before


def test_a_source_is_packed_first_once_beside_the_store(work: Path) -> None:
    words = [
        "distill",
        "c.yaml",
        "--set",
        "data={train: digits}",
        "--set",
        "store=deep/runs",
        "--set",
        "method.rounds=1",
    ]
    first = command(work, *words)
    assert first.code == 0
    assert first.err.splitlines()[:2] == ["packing: 1442/1442 images", "packing: 355/355 images"]
    assert {"deep/shards/digits/train/index.json", "deep/shards/digits/test/index.json"} <= tree(work).keys()
    again = command(work, *words, "--set", "name=b")
    assert again.code == 0
    assert "packing" not in again.err
    assert again.err.splitlines()[0] == f"b: 1 rounds on this process, run {work}/deep/runs/b"


@pytest.mark.parametrize("method", ITERATIVE)
def test_a_template_runs_as_it_stands(method: str, work: Path, shards: dict[str, str]) -> None:
    printed = command(work, "config", method)
    assert printed.code == 0
    (work / "t.yaml").write_text(printed.out)
    raw = parse_yaml(printed.out, "t.yaml")
    assert raw["data"]["train"] == "digits"
    few = ["method.rounds=2", "engine.workers=0", "evaluate.repeats=0", "net.width=4"]
    few += [f"data.train={shards['train']}", *(["method.real_batch=8"] if "real_batch" in raw["method"] else [])]
    facts = command(work, "distill", "t.yaml", "--json", *(w for f in few for w in ("--set", f))).facts
    assert (facts["rounds"], facts["accuracy"]) == (2, {})
    assert raydd.load(facts["run"]).recipe.method == method


def test_evaluate(copied: Path, shards: dict[str, str]) -> None:
    options = [
        "--test",
        shards["test"],
        "--repeats",
        1,
        "--nets",
        "convnet:width=2,depth=1,mlp",
        "--baselines",
        "",
    ]
    results = command(copied, "evaluate", "runs/a", *options, "--json").facts["results"]
    assert [result["net"].split(":")[0] for result in results] == ["convnet", "mlp"]
    for result in results:
        assert result.keys() >= {*ACCURACY, "of", "storage_bytes"}
        assert (result["of"], result["storage_bytes"], result["protocol"]) == ("distilled", 2640, "dsa")
        assert (result["set"], result["images_per_class"], result["stored_images_per_class"]) == ("runs/a", 1, 1)
        assert (result["lr"], result["augment"]) == (0.01, "dsa:color_crop_cutout_scale_rotate")
    assert not (copied / "evaluations").exists()
    (kept,) = (copied / "runs/a/evaluations").iterdir()
    told = json.loads(kept.read_text())["results"]
    assert [{key: value for key, value in one.items() if key != "each"} for one in told] == results
    assert json.loads((copied / "runs/a/evaluation.json").read_text())["asked"]["repeats"] == 1


def test_evaluate_a_matrix(copied: Path, shards: dict[str, str]) -> None:
    shutil.copytree(copied / "runs/a", copied / "runs/b")
    # Nearest neighbours and regression, so that the one training is quick: the protocol's is 1001 epochs.
    words = [
        "evaluate",
        "runs/a",
        "runs/b",
        "--test",
        shards["test"],
        "--repeats",
        1,
        "--nets",
        "convnet:width=1:depth=1",
        "--baselines",
        "",
    ]
    outcome = command(copied, *words, "--grid", "norm=none,batch", "--predictors", "train,knn")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len(lines) == 10
    assert lines[-3].split() == ["convnet:norm=none", "convnet:norm=batch", "knn"]
    assert [line.split()[0] for line in lines[-2:]] == ["runs/a", "runs/b"]
    # The same set by the same keys: the same numbers.
    assert lines[-2].split()[1:] == lines[-1].split()[1:]
    assert lines[0].startswith("distilled ")
    assert "1 a class (1 by storage), 1 x convnet:width=1,depth=1,norm=none, protocol dsa, rate 0.01" in lines[0]


def test_pack_show_and_verify_shards(work: Path) -> None:
    packed = command(work, "pack", "digits", "packed", "--split", "test", "--size", 12, "--workers", 1, "--json")
    facts = packed.facts
    assert packed.err == "packing: 355/355 images\n"
    expected = {"kind": "shards", "url": f"{work}/packed", "name": "digits", "split": "test", "images": 355}
    assert {key: facts[key] for key in expected} == expected
    assert (facts["classes"], facts["shape"], facts["shards"]) == (10, [1, 12, 12], 1)
    assert facts["bytes"] == (work / "packed" / "shard-000000.tar").stat().st_size
    assert command(work, "show", "packed", "--json").facts == facts
    again = command(work, "pack", "digits", "packed", "--split", "test", "--size", 12, "--json")
    assert (again.facts, again.err) == (facts, "")
    assert command(work, "verify", "packed").out == "packed is whole\n"


def test_show_ls_verify_report(copied: Path) -> None:
    run = command(copied, "show", "runs/a", "--json").facts
    wanted = {"state", "round", "rounds", "rounds_per_second", "workers", "last_checkpoint", "faults"}
    assert run.keys() >= wanted
    assert (run["kind"], run["state"], run["round"], run["rounds"], run["workers"]) == ("run", "finished", 6, 6, 0)
    assert (run["last_checkpoint"], run["faults"]) == (6, 0)
    artifact = command(copied, "show", "runs/a/distilled", "--json").facts
    assert (artifact["kind"], artifact["method"], artifact["rounds"]) == ("set", "dm", 6)
    assert (artifact["images"], artifact["storage_bytes"]) == ([10, 1, 8, 8], 2640)
    listed = command(copied, "ls", "--json").facts["runs"]
    assert [(line["name"], line["state"]) for line in listed] == [("a", "finished")]
    assert set(listed[0]["accuracy"]) == {"distilled", "random", "random@bytes"}
    assert command(copied, "ls").out.split()[:3] == ["a", "finished", "6/6"]
    for url in ("runs/a", "runs/a/distilled"):
        assert command(copied, "verify", url, "--json").facts == {"url": url, "problems": []}
    page = (copied / "runs/a/report.html").read_bytes()
    (copied / "runs/a/report.html").unlink()
    assert command(copied, "report", "runs/a", "--json").facts == {"report": f"{copied}/runs/a/report.html"}
    assert (copied / "runs/a/report.html").read_bytes()[:500] == page[:500]
    empty = command(copied, "ls", "nowhere")
    assert (empty.code, empty.out, empty.err) == (0, "", "no runs in nowhere\n")


def test_pull(finished: Path, tmp_path: Path) -> None:
    facts = command(finished, "pull", "runs/a", tmp_path / "here", "--json").facts
    assert facts == {"set": str(tmp_path / "here")}
    assert tree(tmp_path / "here") == tree(finished / "runs/a/distilled")


def test_lists(work: Path) -> None:
    for verb, some in [
        ("methods", {"dm", "frepo", "random"}),
        ("nets", {"convnet", "frepo_convnet"}),
        ("datasets", {"digits", "mnist", "folder", "webdataset", "imagenet"}),
        ("protocols", {"dsa", "frepo"}),
    ]:
        listed = command(work, verb, "--json").facts
        assert list(listed) == [verb]
        assert some <= listed[verb].keys()
        lines = command(work, verb).out.splitlines()
        assert [line.split()[0] for line in lines] == list(listed[verb])
        assert all(len(line.split()) > 2 for line in lines)


def test_doctor(work: Path) -> None:
    before = tree(work)
    well = command(work, "doctor", "--store", "runs", "--json")
    found = {line["what"]: line for line in json.loads(well.out)["findings"]}
    assert found.keys() - {"token"} == {"versions", "processors", "/dev/shm", "memory", "GPUs", "cache", "store"}
    assert found["store"]["good"]
    assert "torch" in found["versions"]["detail"]
    assert tree(work) == before
    assert not (work / "runs").exists()
    (work / "file").write_text("")
    ill = command(work, "doctor", "--store", "file/runs")
    assert ill.code == 1
    assert [line for line in ill.out.splitlines() if line.startswith("BAD  store ")]
    assert not ill.ray


def test_words_that_no_verb_has(work: Path) -> None:
    for words in (
        ["distil"],
        ["distill"],
        ["distill", "c.yaml", "--resume", "perhaps"],
        ["pack", "digits", "x", "--size", "y"],
    ):
        outcome = command(work, *words)
        assert outcome.code == 2
        assert outcome.out == ""
        assert "Error: " in outcome.err
    assert os.listdir(work) == ["c.yaml"]
