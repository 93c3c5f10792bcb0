"""The examples of using a set run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from raydd.data.pack import pack
from raydd.store import Folder
from tests.sets import digits_set

JOBS = Path(__file__).parents[2] / "jobs" / "downstream"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both splits of digits, packed."""
    root = tmp_path_factory.mktemp("shards")
    for split in ("train", "test"):
        pack("digits", str(root / split), split=split)
    return root


def run(name: str, *words: object) -> str:
    """Run an example, which is to succeed, and return what it printed."""
    done = subprocess.run(
        [sys.executable, str(JOBS / name), *map(str, words)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pytorch(shards: Path, tmp_path: Path) -> None:
    digits_set(str(shards / "train")).save(Folder(str(tmp_path)))
    told = run("pytorch.py", tmp_path, "--test", shards / "test", "--epochs", 60)
    found = re.fullmatch(r"trained on 30 images of digits: ([\d.]+) % of 355 real ones\n", told)
    assert found is not None, told
    assert float(found[1]) > 50


def test_warm_start(shards: Path, tmp_path: Path) -> None:
    digits_set(str(shards / "train"), ipc=10, soft=True).save(Folder(str(tmp_path)))
    words = ("--train", shards / "train", "--test", shards / "test")
    few = ("--real", 20, "--updates", 60, "--fine-updates", 20, "--repeats", 1)
    lines = run("warm_start.py", tmp_path, *words, *few).splitlines()
    assert [re.sub(r" +\d+\.\d %", "", line) for line in lines] == [
        "100 distilled images, 60 updates",
        "then 20 real images, 20 updates",
        "20 real images from scratch, 20 updates",
        "20 real images from scratch, 80 updates",
    ]
    alone, warm, scratch, longer = (float(line.split()[-2]) for line in lines)
    assert warm > scratch + 10
    assert all(10 <= score <= 100 for score in (alone, warm, scratch, longer))


@pytest.mark.parametrize("name", ["pytorch.py", "ray_train.py", "warm_start.py"])
def test_every_command_of_an_example_is_told_by_its_help(name: str) -> None:
    source = (JOBS / name).read_text()
    assert source.startswith('"""')
    assert f"python jobs/downstream/{name} runs/quickstart --t" in source
    options = set(re.findall(r'add_argument\("(--[a-z-]+)"', source))
    assert set(re.findall(r"(--[a-z-]+) ", source.split('"""')[1])) <= options
