"""Bad input: one clear line, exit code 2, and what was there is left as it was."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import write_config
from tests.cli.program import Outcome, command
from tests.data.makers import encoded, pixels, tar, tree, write_folder


def refused(work: Path, *words: object) -> str:
    """Run a command that must be refused and change nothing; return what it said."""
    before = tree(work.parent)
    outcome = command(work, *words)
    assert tree(work.parent) == before
    assert not outcome.ray
    return outcome.mistake.removeprefix("raydd: ")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("method.ridge=1", "method.ridge is not a known key; remove it or correct its spelling"),
        ("method.ipc=many", "method.ipc must be a valid integer, got 'many'"),
        ("method.name=best", "method.name must be one of "),
        ("method.ipc=141", "method.ipc must be <= the size of the smallest class (140) when images start as real ones"),
        ("net.depth=4", "net.depth must be <= 3 for images of 8 pixels, got 4: each one halves them; lower it"),
        ("net.norm=batch", "net.norm batch mixes all classes in one batch, so method.classes_per_slot must be all"),
        ("net.norm=group", "net.width must be a multiple of 4 with net.norm group, got 3"),
        (
            "method.augment=crop_spin",
            "method.augment must be one or more of color, crop, cutout, flip, scale, rotate, joined",
        ),
        ("data.classes=[0, 99]", "data.classes must be 0 to 9 or names such as 0, got 99"),
        ("data.classes=[0, 0]", "data.classes must name one or more classes, each once"),
        ("data.train=none", "{work}/none: expected packed shards with index.json, got none: run raydd pack first"),
        ("data.train=mnist:none", "{work}/none: expected a file train-images-idx3-ubyte"),
        (
            "data.train=s3:/b/x",
            "expected a path, file:///path, s3://bucket/prefix or another fsspec URL, got 's3:/b/x'",
        ),
        ("data.train=digits:x", "expected digits alone, got 'digits:x'"),
        ("store=nope://x", "expected a path, file:///path, s3://bucket/prefix or another fsspec URL, got 'nope://x'"),
        (
            "store=s3://key:secret@b",
            "store expected no password in a s3:// URL, got one; give credentials by the environment",
        ),
        ("engine.gpus_per_worker=-1", "engine.gpus_per_worker must be >= 0, got -1"),
    ],
)
def test_configs(override: str, told: str, work: Path, shards: dict[str, str]) -> None:
    write_config(work, shards, classes_per_slot=5)
    assert refused(work, "distill", "c.yaml", "--set", "net.width=3", "--set", override).startswith(
        told.format(work=work)
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot read the config c.yaml: no such file; give the path or URL of a YAML file"),
        (b"", "expected a mapping of sections in c.yaml, got NoneType"),
        (b"- name\n", "expected a mapping of sections in c.yaml, got list"),
        (b"\x89PNG\r\n\x1a\n\xff", "expected a YAML text file, got binary data in c.yaml"),
        (b"a\x00b", "expected YAML in c.yaml, got what cannot be read as such: unacceptable character #x0000"),
        (b"name: [", "expected YAML in c.yaml, got what cannot be read as such: "),
        (pickle.dumps({"name": "a"}, protocol=0), "expected "),
    ],
)
def test_files_that_are_no_config(content: bytes | None, told: str, work: Path) -> None:
    (work / "c.yaml").unlink()
    if content is not None:
        (work / "c.yaml").write_bytes(content)
    assert refused(work, "distill", "c.yaml").startswith(told)


def test_a_worker_larger_than_the_machine(work: Path) -> None:
    cpus = os.cpu_count() or 1
    words = ["distill", "c.yaml", "--set", "engine.workers=1", "--set", f"engine.cpus_per_worker={cpus + 1}"]
    told = f"engine.cpus_per_worker must be <= {cpus}, the CPUs of this machine, got {cpus + 1}"
    before = tree(work)
    assert command(work, *words).mistake == f"raydd: {told}"
    assert tree(work) == before


def test_a_store_below_a_file(work: Path) -> None:
    (work / "file").write_text("mine")
    mistake = refused(work, "distill", "c.yaml", "--set", "store=file/runs")
    assert mistake.startswith("cannot ")
    assert f"{work}/file/runs/a" in mistake
    assert "Not a directory" in mistake


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a file system that nobody may write to")
def test_a_store_that_may_not_be_written(work: Path) -> None:
    mistake = refused(work, "distill", "c.yaml", "--set", "store=/sys/raydd")
    assert mistake.startswith("cannot write /sys/raydd/") or mistake.startswith("cannot create /sys/raydd/")
    assert "ermi" in mistake or "Read-only" in mistake


def test_classes_without_images(work: Path) -> None:
    write_folder(work / "images", {name: [pixels(i, 8, 8, 3) for i in range(3)] for name in ("cat", "dog")})
    (work / "images/emu").mkdir()
    for words in (["distill", "c.yaml", "--set", "data={train: 'folder:images'}"], ["pack", "folder:images", "packed"]):
        mistake = refused(work, *words)
        assert "emu" in mistake
        assert "got none" in mistake


def test_an_image_that_does_not_decode(work: Path) -> None:
    write_folder(work / "images", {"cat": [pixels(i, 8, 8, 3) for i in range(3)]})
    file = work / "images/cat/001.png"
    file.write_bytes(file.read_bytes()[:60])
    before = tree(work / "images")
    outcome = command(work, "pack", "folder:images", "packed", "--workers", 1)
    assert f"{work}/images/cat/001.png" in outcome.mistake
    assert "does not decode" in outcome.mistake
    assert "packed/index.json" not in tree(work)
    assert tree(work / "images") == before


@pytest.mark.parametrize(
    ("shard", "told"),
    [
        (b"", "shard.tar: expected "),
        (tar([]), "shard.tar: expected "),
        (tar([("0.png", encoded(pixels(0, 8, 8, 3))), ("0.cls", b"0")])[:700], "shard.tar"),
        (tar([("0.png", b"no image"), ("0.cls", b"0")]), "does not decode"),
        (tar([("0.png", encoded(pixels(0, 8, 8, 3))), ("0.cls", b"x")]), "expected a class number in cls, got b'x'"),
    ],
    ids=["no bytes", "no members", "truncated", "no image", "no label"],
)
def test_shards_of_other_tools(shard: bytes, told: str, work: Path) -> None:
    (work / "theirs").mkdir()
    (work / "theirs/shard.tar").write_bytes(shard)
    before = tree(work / "theirs")
    outcome = command(work, "pack", "webdataset:theirs", "indexed", "--workers", 1)
    assert told in outcome.mistake
    assert tree(work / "theirs") == before
    assert "indexed/index.json" not in tree(work)


@pytest.mark.parametrize("damage", ["empty", "truncated", "altered", "missing"])
def test_a_damaged_shard(damage: str, work: Path, shards: dict[str, str]) -> None:
    """It is named; once it is mended the same command goes on."""
    shutil.copytree(shards["train"], work / "train")
    file = work / "train/shard-000000.tar"
    whole = file.read_bytes()
    altered = bytes([*whole[:5000], whole[5000] ^ 1, *whole[5001:]])
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes({"empty": b"", "truncated": whole[:-1024], "altered": altered}[damage])
    words = ["distill", "c.yaml", "--set", "data.train=train"]
    before = tree(work)
    mistake = command(work, *words).mistake
    assert mistake.startswith(f"raydd: {file}: expected ")
    if damage in ("empty", "truncated"):
        told = 0 if damage == "empty" else len(whole) - 1024
        assert f"expected {len(whole)} bytes, got {told}: pack or copy it again" in mistake
    after = tree(work)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if name.endswith("manifest.json")]
    verified = command(work, "verify", "train")
    assert (verified.code, verified.out) == (2, "")
    assert verified.mistake == mistake
    file.write_bytes(whole)
    assert command(work, *words).code == 0


@pytest.mark.parametrize("name", ["index.json", "index.safetensors"])
def test_a_damaged_index(name: str, work: Path, shards: dict[str, str]) -> None:
    shutil.copytree(shards["train"], work / "train")
    file = work / "train" / name
    file.write_bytes(file.read_bytes()[:-10])
    for words in (["distill", "c.yaml", "--set", "data.train=train"], ["show", "train"], ["verify", "train"]):
        assert name in refused(work, *words)


class Bomb:
    """Code in a pickle."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_pickles_with_code_in_them(work: Path, copied_artifact: Path) -> None:
    mark = work / "exploded"
    images = np.zeros((5, 3072), dtype=np.uint8)
    (work / "cifar").mkdir()
    for i in range(1, 6):
        content = {b"data": images, b"labels": [0] * 5, b"more": Bomb(mark)}
        (work / f"cifar/data_batch_{i}").write_bytes(pickle.dumps(content, protocol=2))
    mistake = refused(work, "distill", "c.yaml", "--set", "data={train: 'cifar10:cifar'}")
    assert "data_batch_1" in mistake
    assert "mkdir" in mistake
    (copied_artifact / "data.safetensors").write_bytes(pickle.dumps(Bomb(mark)))
    assert f"{copied_artifact}/data.safetensors: expected " in refused(work, "show", copied_artifact)
    (work / "c.yaml").write_bytes(pickle.dumps(Bomb(mark)))
    assert refused(work, "distill", "c.yaml").startswith("expected ")
    assert not mark.exists()


@pytest.fixture
def copied_artifact(finished: Path, work: Path) -> Path:
    """A copy of a distilled set in `work`."""
    return Path(shutil.copytree(finished / "runs/a/distilled", work / "set"))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=1", "seed was 0, now 1"),
        ("method.ipc=2", "method.ipc was 1, now 2"),
        ("net.width=5", "net.width was 4, now 5"),
        ("net.name=frepo_convnet", "net.name was 'convnet', now 'frepo_convnet'"),
        ("data.classes=[0, 1]", "data.classes was 'all', now [0, 1]"),
    ],
)
def test_a_run_of_another_config(override: str, told: str, finished: Path) -> None:
    before = tree(finished)
    mistake = command(finished, "distill", "c.yaml", "--set", override).mistake
    start = f"raydd: the run a at {finished}/runs/a is of another config ({told}"
    assert mistake.startswith(start)
    assert mistake.endswith("); choose another name, or delete it")
    assert tree(finished) == before


def test_a_run_over_other_data(finished: Path, shards: dict[str, str]) -> None:
    before = tree(finished)
    mistake = command(finished, "distill", "c.yaml", "--set", f"data.train={shards['test']}").mistake
    assert "is of another config (data.index was '" in mistake
    assert tree(finished) == before


def test_a_checkpoint_of_another_config(copied: Path) -> None:
    """One that was copied into a run is not taken for the run's own."""
    assert command(copied, "distill", "c.yaml", "--set", "name=b", "--set", "seed=1").code == 0
    run = copied / "runs/a"
    for folder in ("distilled", "checkpoints"):
        shutil.rmtree(run / folder)
    shutil.copytree(copied / "runs/b/checkpoints", run / "checkpoints")
    before = tree(copied)
    mistake = command(copied, "distill", "c.yaml", "--set", "evaluate.repeats=1").mistake
    assert f"{run}/checkpoints/00000006 belongs to another config" in mistake
    after = tree(copied)
    assert {name: data for name, data in after.items() if "/lease/" not in name} == {
        name: data for name, data in before.items() if "/lease/" not in name
    }


def test_damaged_checkpoints(copied: Path) -> None:
    """The newest that is whole is taken; where none is, it is told which."""
    run = copied / "runs/a"
    learned = (run / "distilled/data.safetensors").read_bytes()
    shutil.rmtree(run / "distilled")
    newest = run / "checkpoints/00000006/variables.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert str(newest) in command(copied, "verify", "runs/a").mistake
    gone_on = command(copied, "distill", "c.yaml")
    assert gone_on.code == 0
    assert "passing over a damaged checkpoint" in gone_on.err
    assert (run / "distilled/data.safetensors").read_bytes() == learned
    shutil.rmtree(run / "distilled")
    for file in run.glob("checkpoints/*/state.safetensors"):
        file.write_bytes(b"")
    mistake = ended(command(copied, "distill", "c.yaml"))
    assert f"raydd: no checkpoint below {run}/checkpoints is whole (" in mistake
    assert mistake.endswith("; delete the run to start anew")


def ended(outcome: Outcome) -> str:
    assert outcome.code == 2
    return outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "runs/a", "--test", "{test}", "--protocol", "best"], "the protocol must be one of "),
        (["evaluate", "runs/a", "--test", "{test}", "--nets", "vgg"], "net: net.name must be one of "),
        (["evaluate", "runs/a", "--test", "{test}", "--nets", "convnet:depth=9"], "net.depth must be <= 3 for images"),
        (["evaluate", "runs/a", "--test", "{test}", "--baselines", "best"], "baselines must be out of random, ran"),
        (
            ["evaluate", "runs/a", "--test", "{test}", "--train", "{test}"],
            "training and test shards must be two splits, got the same images in {test} and {test}",
        ),
        (
            ["evaluate", "runs/a", "--test", "{test}", "--train", "none", "--baselines", "kmeans"],
            "{work}/none: expected packed shards with index.json, got none",
        ),
        (
            ["evaluate", "runs/a", "--test", "{test}", "--predictors", ""],
            "predictors must be some of train, krr, knn, go",
        ),
        (
            ["distill", "c.yaml", "--set", "name=b", "--set", "evaluate={{repeats: 1, protocol: dd}}"],
            "evaluate.protocol dd",
        ),
        (
            ["distill", "c.yaml", "--set", "name=b", "--set", "evaluate={{repeats: 1, nets: [vgg11]}}"],
            "net.name vgg11 takes images of at least 32 pixels, got 8",
        ),
        (
            ["distill", "c.yaml", "--set", "name=b", "--set", "evaluate.repeats=1", "--set", "data.train={test}"],
            "training and test shards must be two splits, got the same images in data.train and data.test ({test})",
        ),
        (
            ["evaluate", "runs/a", "--test", "{test}", "--predictors", "svm"],
            "predictors must be out of train, krr, knn",
        ),
        (
            ["evaluate", "runs/a", "--test", "{test}", "--grid", "width"],
            "--grid expects OPTION=VALUE,VALUE such as wid",
        ),
        (
            ["evaluate", "runs/a", "--test", "{test}", "--grid", "size=1"],
            "--grid varies options of the network convnet",
        ),
        (["evaluate", "runs/a", "--test", "{test}", "--threads", "0"], "cpus_per_worker must be >= 1, got 0"),
        (["evaluate", "runs/a", "--test", "{test}", "--gpus", "-1"], "gpus_per_worker must be >= 0, got -1.0"),
        (["evaluate", "runs/a", "runs/a", "--test", "{test}", "--robust", "--protocol", "dc"], "robust scores choose"),
        (["evaluate", "runs/a", "--test", "{test}", "--workers", "-1"], "workers must be >= 0, got -1"),
        (["evaluate", "runs/a", "--test", "none"], "{work}/none: expected packed shards with index.json, got none"),
        (["evaluate", "none", "--test", "{test}"], "expected a distilled set at {work}/none, got a folder without"),
        (["evaluate", "{test}", "--test", "{test}"], "expected a distilled set at {test}, got packed shards of real"),
        (
            ["show", "none"],
            "expected a run, a sweep, an application, a distilled set or packed shards at {work}/none, got none of them; check",
        ),
        (
            ["verify", "none"],
            "expected a run, a sweep, an application, a distilled set or packed shards at {work}/none, got none of them; check",
        ),
        (["report", "none"], "expected a run at {work}/none, got no config.yaml there; check the URL"),
        (["pull", "none", "x"], "expected a distilled set at {work}/none, got a folder without manifest.json; check"),
        (["pull", "runs/a", "runs"], "expected an empty folder or a distilled set at {work}/runs, got other files"),
        (["config", "best"], "METHOD must be one of "),
        (["pack", "what", "x"], "expected a SOURCE such as digits or mnist:ROOT, got 'what': see raydd datasets"),
        (["pack", "digits", "x", "--split", "val"], "digits: expected a split of train, test, got 'val'"),
        (["pack", "digits", "x", "--workers", "0"], "workers must be >= 1, got 0"),
        (["pack", "digits", "{test}"], "{test}: expected a new folder or a pack with split train, got one with test"),
    ],
)
def test_other_verbs(words: list[str], told: str, finished: Path, shards: dict[str, str]) -> None:
    names = {"work": finished, "test": shards["test"]}
    before = tree(finished), tree(Path(shards["test"]))
    mistake = command(finished, *(word.format(**names) for word in words)).mistake
    assert mistake.startswith(f"raydd: {told.format(**names)}")
    assert (tree(finished), tree(Path(shards["test"]))) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [("status.json", content) for content in (b"", b"[]")]
    + [("evaluation.json", content) for content in (b"", b"[]", b"{}", b'{"results": [1]}')],
)
def test_records_that_were_altered(name: str, content: bytes, copied: Path) -> None:
    """They are named, and hide no other run."""
    file = copied / "runs/a" / name
    file.write_bytes(content)
    assert str(file) in command(copied, "show", "runs/a").mistake
    shutil.copytree(copied / "runs/a/distilled", copied / "runs/b/distilled")
    (copied / "runs/b/config.yaml").write_bytes((copied / "runs/a/config.yaml").read_bytes())
    damaged, whole = command(copied, "ls", "--json").facts["runs"]
    assert (damaged["name"], damaged["state"], whole["name"], whole["state"]) == ("a", "damaged", "b", "starting")
    assert str(file) in damaged["problem"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}"])
def test_a_finished_run_whose_scores_were_altered(content: bytes, copied: Path) -> None:
    """They are named, or made again."""
    file = copied / "runs/a/evaluation.json"
    file.write_bytes(content)
    again = command(copied, "distill", "c.yaml", "--set", "evaluate.repeats=1")
    assert (again.code == 0 and "distilling" not in again.err) or str(file) in again.mistake


def test_python_tells_the_same(work: Path) -> None:
    """What the command line prints is what the library raises."""
    import raydd
    from raydd.errors import UserError

    with pytest.raises(UserError) as caught:
        raydd.distill(work / "c.yaml", overrides=["net.depth=4", f"store={work}/runs"])
    assert refused(work, "distill", "c.yaml", "--set", "net.depth=4") == str(caught.value)
