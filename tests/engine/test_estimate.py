"""What a share of a slot tells of a whole one, for every method with rounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raydd.config import Config, DataFacts, config_from, methods
from raydd.engine.estimate import GPU_SPEED, estimate
from raydd.engine.executor import units_of
from raydd.engine.share import measure
from raydd.errors import ConfigError
from raydd.methods import Problem, create

FACTS = DataFacts(name="digits", channels=1, size=8, num_classes=10, smallest_class=100)
COUNTS = [100] * 10
# Fewer steps than the papers', which a share of a slot would take a while for.
SHORT = {"dc": {"inner_loop": 2}, "dsa": {"inner_loop": 2}, "rtp": {"inner_steps": 4}}
ROUNDS = sorted(name for name, spec in methods().items() if spec.config.iterative)


def config_of(method: dict[str, Any], **sections: Any) -> Config:
    net = {"name": "convnet", "width": 4, "depth": 1}
    return config_from({"name": "a", "data": {"train": "-"}, "net": net, "method": method} | sections)


@pytest.mark.parametrize("name", ROUNDS)
def test_bytes_are_those_of_the_method(name: str) -> None:
    config = config_of({"name": name, "ipc": 10, **SHORT.get(name, {})})
    resolved = config.resolved(FACTS)
    load = measure(resolved, FACTS, COUNTS, torch.device("cpu"))
    by_class = torch.arange(1000).split(100)
    method = create(resolved.method, resolved.net, Problem(facts=FACTS, seed=0, by_class=by_class))
    variables = method.start(lambda ids: torch.zeros(len(ids), 1, 8, 8))
    assert load.round.size == sum(value.nbytes for value in variables.values())
    assert load.round.slots == len(method.slots(0))
    assert load.units == len(units_of(method.slots_all))
    assert load.unit == (sum(v.nbytes for v in method.unit_state(0).values()) if load.units else 0)
    assert load.optimiser >= load.round.size  # of SGD as well, though its momentum is made by the first step
    assert load.round.slot_s > 0
    assert load.working > 0
    assert 0 < load.share <= 1
    assert load.round.separable == (name in ("dm", "mmd"))
    assert load.round.averages == (name in ("dd", "frepo", "rtp"))


def test_a_slot_of_twice_the_images_takes_twice_the_memory() -> None:
    working = []
    for real in (400, 800):
        config = config_of({"name": "dm", "real_batch": real, "augment": None}).resolved(FACTS)
        working.append(measure(config, FACTS, [1000] * 10, torch.device("cpu")).working)
    assert working[1] == pytest.approx(2 * working[0], rel=0.25)


def test_what_is_held_and_kept_follows_the_config() -> None:
    method = {"name": "dm", "ipc": 2, "classes_per_slot": 1, "rounds": 10}

    def told(**sections: Any) -> Any:
        return estimate(config_of(method, **sections), FACTS, COUNTS)

    one = told(engine={"workers": 1})
    assert one.memory["images"] == 1000 * 64
    assert one.memory["variables"] == 4 * 20 * 64 * 4  # themselves, momentum, gradient, new ones
    assert one.hours == pytest.approx(one.seconds_a_round * 10 / 3600)
    assert told(engine={"workers": 5}).memory["images"] == 200 * 64
    windowed = told(engine={"workers": 1}, data={"train": "-", "window": 10})
    assert windowed.memory["images"] == 2 * 100 * 64
    on_disk = told(engine={"workers": 1}, data={"train": "-", "cache": "disk"})
    assert (on_disk.memory["images"], on_disk.cache_bytes) == (0, 1000 * 64)
    assert told(evaluate={"sets": 3}).storage_bytes == pytest.approx(3 * one.storage_bytes, abs=3)


def test_a_gpu_that_is_not_here_is_assumed_and_said() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    found = estimate(config_of({"name": "dm"}, engine={"gpus_per_worker": 1}), FACTS, COUNTS)
    assert f"a GPU {GPU_SPEED:g} times as fast" in found.assumptions


def test_methods_without_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs a method with rounds, got method\.name random"):
        estimate(config_of({"name": "random"}), FACTS, COUNTS)
