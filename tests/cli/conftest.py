from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from raydd.data.pack import pack
from tests.cli.program import command


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both splits of digits, packed."""
    root = tmp_path_factory.mktemp("shards")
    for split in ("train", "test"):
        pack("digits", str(root / split), split=split)
    return {split: str(root / split) for split in ("train", "test")}


def write_config(folder: Path, shards: dict[str, str], checkpoint_every: int = 2, **method: object) -> None:
    """Write `c.yaml`: a run of a second, without Ray."""
    config = {
        "name": "a",
        "data": {"train": shards["train"], "test": shards["test"]},
        "net": {"width": 4, "depth": 1},
        "method": {"name": "dm", "rounds": 6, "real_batch": 8, **method},
        "engine": {"workers": 0, "checkpoint_every": checkpoint_every},
        "evaluate": {"repeats": 0},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture
def work(tmp_path: Path, shards: dict[str, str]) -> Path:
    """A folder with a config, `c.yaml`, and nothing else."""
    folder = tmp_path / "work"
    folder.mkdir()
    write_config(folder, shards)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, shards: dict[str, str]) -> Path:
    """A folder with a config and its finished run, scored beside random real images; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "work"
    folder.mkdir()
    write_config(folder, shards)
    outcome = command(folder, "distill", "c.yaml", "--set", "evaluate.repeats=1", "--json")
    assert outcome.code == 0, outcome.err
    (folder / "first.json").write_text(outcome.out)
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` that may be changed."""
    folder = tmp_path / "work"
    shutil.copytree(finished, folder)
    return folder
