"""Data larger than memory: the same set whoever sees the windows, and after an interruption in the middle of one."""

from __future__ import annotations

from pathlib import Path

import pytest

import raydd
from raydd.api import Silent
from raydd.engine.coordinator import Progress
from tests.engine.toys import bits, distil, toy

# Checkpoints every 4 rounds, so that a run goes on at round 8 in a window of rounds 5 to 9.
WINDOW = {"data__window": 40, "data__window_rounds": 5}


class Interrupted(BaseException):
    """Somebody pressed a key."""


class StopsAt(Silent):
    def round(self, progress: Progress) -> None:
        if progress.round == 10:
            raise Interrupted


def test_an_interrupted_run_goes_on_in_the_middle_of_a_window(
    method: str, digits: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    straight = distil(toy(method, digits, str(tmp_path / "straight"), **WINDOW))
    assert straight != undisturbed[method]
    config = toy(method, digits, str(tmp_path / "stopped"), **WINDOW)
    with pytest.raises(Interrupted):
        raydd.distill(config, watcher=StopsAt())
    assert not (tmp_path / "stopped" / config.name / "distilled" / "manifest.json").exists()
    assert distil(config) == straight


def test_a_window_as_large_as_every_class_changes_nothing(
    digits: str, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    assert distil(toy("frepo", digits, str(tmp_path), data__window=1000)) == undisturbed["frepo"]


def test_the_disk_cache_changes_nothing(
    digits: str, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "cache"))
    assert distil(toy("dm", digits, str(tmp_path), data__cache="disk")) == undisturbed["dm"]
    assert list((tmp_path / "cache").iterdir())


@pytest.mark.ray
@pytest.mark.parametrize("name", ["dm", "frepo"])
def test_two_workers_see_the_same_windows(name: str, digits: str, tmp_path: Path, ray_address: str) -> None:
    runs = [raydd.distill(toy(name, digits, str(tmp_path), workers=workers, **WINDOW)) for workers in (0, 2)]
    assert bits(runs[0].url) == bits(runs[1].url)
