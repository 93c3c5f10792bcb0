"""A finished run that gets more rounds ends in the bits of one that had them from the start, where nothing forbids it."""

from __future__ import annotations

from pathlib import Path

import pytest

import raydd
from raydd.api import Silent
from raydd.config import methods
from raydd.engine.coordinator import Progress
from raydd.errors import RunError
from raydd.store import Folder
from tests.engine.toys import distil, toy

# In the middle of an outer iteration, of a pool's ages, and between two checkpoints.
FIRST, MORE = 7, 12
# Held against what they say: a method that reads the number of its rounds would fail below.
FREE = sorted(name for name, spec in methods().items() if spec.config.iterative and not spec.config.scheduled)


class Counter(Silent):
    """Notes the rounds that are done."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def round(self, progress: Progress) -> None:
        self.rounds.append(progress.round)


@pytest.mark.parametrize("name", FREE)
def test_more_rounds_are_those_of_a_longer_run(name: str, digits: str, tmp_path: Path) -> None:
    store = str(tmp_path)
    whole = distil(toy(name, digits, store, method__rounds=MORE, name="whole"))
    first = distil(toy(name, digits, store, method__rounds=FIRST, name="parts"))
    counter = Counter()
    parts = toy(name, digits, store, method__rounds=MORE, name="parts")
    assert first != whole
    assert distil(parts, watcher=counter) == whole
    assert counter.rounds == list(range(FIRST + 1, MORE + 1))
    run = Folder(f"{store}/parts")
    assert raydd.load(run.url).recipe.rounds == MORE
    assert run.record("status.json")["rounds"] == MORE
    assert f"rounds: {MORE}" in run.read("config.yaml").decode()
    # Raised again by the same command it is finished.
    assert distil(parts, resume="must") == whole


@pytest.mark.ray
def test_more_rounds_on_a_cluster(digits: str, ray_address: str, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    raydd.distill(toy("dm", digits, str(tmp_path), method__rounds=FIRST, name="a"))
    assert distil(toy("dm", digits, str(tmp_path), workers=2, name="a")) == undisturbed["dm"]


def test_several_sets_are_extended(digits: str, tmp_path: Path) -> None:
    def learned(name: str) -> list[bytes]:
        run = Folder(f"{tmp_path}/{name}")
        return [run.read("distilled/data.safetensors"), run.read("sets/02/distilled/data.safetensors")]

    for name, rounds in (("whole", MORE), ("parts", FIRST), ("parts", MORE)):
        raydd.distill(toy("dm", digits, str(tmp_path), method__rounds=rounds, name=name, evaluate__sets=2))
    assert learned("whole") == learned("parts")
    assert len(set(learned("whole"))) == 2


def test_a_schedule_over_the_rounds_forbids_it(digits: str, tmp_path: Path) -> None:
    before = distil(toy("frepo", digits, str(tmp_path), method__rounds=FIRST, name="a"))
    config = toy("frepo", digits, str(tmp_path), method__rounds=MORE, name="a")
    why = rf"method\.rounds was {FIRST}, now {MORE}, and the method has a schedule that depends on it\); choose another name"
    with pytest.raises(RunError, match=why):
        raydd.distill(config)
    assert distil(config.model_copy(update={"method": config.method.model_copy(update={"rounds": FIRST})})) == before
