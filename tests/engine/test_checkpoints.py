"""Which checkpoints stay, and which folders go."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from raydd.engine.checkpoint import Checkpoints
from raydd.errors import EngineError
from raydd.store import Folder

HASH = "0" * 64


def open_checkpoints(folder: Folder, keep: int = 2, check=lambda: None) -> Checkpoints:
    return Checkpoints(folder, HASH, keep, 1, check)


def write(checkpoints: Checkpoints, round: int) -> None:
    variables = {"x_syn": torch.full((2,), float(round))}
    checkpoints.write(round, variables, {}, dict, lambda: None, 1.0)
    checkpoints.wait(60)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_the_last_ones_are_kept(folder: Folder) -> None:
    checkpoints = open_checkpoints(folder)
    for round in range(4):
        write(checkpoints, round)
    assert checkpoints.rounds() == [2, 3]
    assert checkpoints.committed == 3
    checkpoints.close()


def test_what_a_dead_driver_left_is_cleaned(folder: Folder) -> None:
    for left in ("00000003/slot-0001.safetensors", "00000009/slot-0001.safetensors"):
        folder.write(f"checkpoints/{left}", b"half")
    checkpoints = open_checkpoints(folder)
    write(checkpoints, 2)
    assert folder.exists("checkpoints/00000003/slot-0001.safetensors"), "it may be the next one that is being written"
    write(checkpoints, 4)
    assert checkpoints.rounds() == [2, 4]
    assert folder.folder("checkpoints").folders() == ["00000002", "00000004", "00000009"]
    checkpoints.close()


def test_nothing_is_deleted_without_the_lease(folder: Folder) -> None:
    def lost() -> None:
        raise EngineError("lost the lease")

    write(open_checkpoints(folder), 1)
    checkpoints = open_checkpoints(folder, keep=1, check=lost)
    with pytest.raises(EngineError, match="lost the lease"):
        write(checkpoints, 2)
    assert checkpoints.rounds() == [1, 2]
    checkpoints.close()


def test_a_damaged_newer_one_does_not_push_out_a_whole_one(folder: Folder) -> None:
    checkpoints = open_checkpoints(folder, keep=1)
    write(checkpoints, 8)
    folder.write("checkpoints/00000008/variables.safetensors", b"damage")
    write(checkpoints, 5)
    found = checkpoints.latest()
    assert found is not None
    assert found.round == 5
    checkpoints.close()


def test_one_that_is_never_written_is_an_error(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints, gate = open_checkpoints(folder), threading.Event()

    def wait() -> dict[str, object]:
        gate.wait(60)
        return {}

    checkpoints.write(0, {}, {}, wait, lambda: None, 0.0)
    with pytest.raises(
        EngineError, match=r"expected a checkpoint to be written within 0.01 s, got none; check the store"
    ):
        checkpoints.wait(0.01)
    # Nor does whoever ends because of that wait for it.
    checkpoints.close(0.01)
    assert "the checkpoint that is being written is given up: it takes longer than 0.01 s" in caplog.text
    gate.set()
    checkpoints.close()
