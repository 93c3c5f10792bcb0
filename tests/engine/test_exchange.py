"""However variables and gradients travel, the bits are the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import raydd
from raydd.api import Silent, prepare
from raydd.engine import cluster, held
from raydd.engine.coordinator import Coordinator, Progress
from raydd.engine.held import choose_exchange
from raydd.errors import ConfigError, EngineError
from raydd.methods import Contribution
from raydd.methods.dm import DM
from tests.engine.toys import bits, distil, toy

ray_test = pytest.mark.ray
CASES = [("dm", "store"), ("dm", "collective"), ("frepo", "collective"), ("dc", "collective")]


@ray_test
@pytest.mark.parametrize(("method", "exchange"), CASES)
@pytest.mark.parametrize("workers", [2, 3])
def test_same_bits_for_any_exchange(
    method: str,
    exchange: str,
    workers: int,
    digits: str,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    ray_address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = []
    enter = Coordinator._enter

    def spy(self: Coordinator, *args: Any) -> None:
        enter(self, *args)
        used.append(self.exchange)

    monkeypatch.setattr(Coordinator, "_enter", spy)
    config = toy(method, digits, str(tmp_path), workers=workers, engine__exchange=exchange)
    assert distil(config) == undisturbed[method]
    assert used == [exchange]


@ray_test
def test_member_without_a_slot_takes_part(digits: str, tmp_path: Path, ray_address: str) -> None:
    few = {"method__models_per_round": 2, "method__rounds": 4}
    alone = distil(toy("frepo", digits, str(tmp_path), **few))
    assert distil(toy("frepo", digits, str(tmp_path), workers=3, engine__exchange="collective", **few)) == alone


class Killer(Silent):
    """Kills a worker when a round is done, once."""

    def __init__(self, at: int) -> None:
        self.at, self.killed = at, 0

    def round(self, progress: Progress) -> None:
        import ray

        if progress.round == self.at and not self.killed:
            self.killed = ray.get(cluster.hired()[1].actor.ping.remote(), timeout=60)["pid"]
            os.kill(self.killed, signal.SIGKILL)


@ray_test
def test_group_is_formed_anew_after_a_loss(
    digits: str, undisturbed: dict[str, bytes], tmp_path: Path, ray_address: str
) -> None:
    config = toy("frepo", digits, str(tmp_path), workers=2, engine__exchange="collective")
    run = raydd.distill(config, watcher=Killer(at=7))
    assert bits(run.url) == undisturbed["frepo"]
    assert run.status()["faults"] == 1


@ray_test
@pytest.mark.parametrize("exchange", ["store", "resident", "collective"])
def test_numbers_that_are_not_finite_end_the_run(exchange: str, digits: str, tmp_path: Path, ray_address: str) -> None:
    config = toy("dm", digits, str(tmp_path), workers=2, engine__exchange=exchange, method__lr_syn=1e30)
    with pytest.raises(EngineError, match=r"slot \d gave NaN or infinity in round \d"):
        raydd.distill(config)
    assert Path(f"{config.store}/{config.name}/checkpoints/00000000/manifest.json").exists()


@ray_test
def test_mistake_of_one_worker_ends_a_collective_run_at_once(digits: str, tmp_path: Path, ray_address: str) -> None:
    """The other one waits for gradients that never come: it must hear of it, and serve the next run."""
    import shutil

    from raydd.errors import IntegrityError

    shards = tmp_path / "shards"
    shutil.copytree(digits, shards)
    config = toy(
        "dm", str(shards), str(tmp_path / "runs"), workers=2, engine__exchange="collective", method__init="noise"
    )
    for shard in shards.glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:-1024])
    with pytest.raises(IntegrityError):
        raydd.distill(config)
    again = toy("dm", digits, str(tmp_path / "runs"), workers=2, name="again")
    assert raydd.distill(again).url


def test_the_choice_goes_by_what_couples_slots_and_by_size(
    digits: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(method: str, workers: int, **changes: Any) -> str:
        plan = prepare(toy(method, digits, str(tmp_path), workers=workers, **changes))
        variables = plan.method.start(_normal(plan))
        return choose_exchange(plan.config.engine, plan.method, variables, workers)

    assert chosen("dm", 0) == "store"
    assert chosen("dm", 1) == chosen("dm", 4) == chosen("mmd", 2) == "resident"
    assert chosen("dc", 1) == chosen("frepo", 1) == "resident"
    assert chosen("frepo", 1, engine__exchange="store") == "store"
    assert chosen("dc", 2) == chosen("frepo", 2) == "store"
    assert chosen("dc", 2, method__nets_per_round=1, method__outer_loop=1) == "resident"
    assert chosen("frepo", 2, engine__exchange="collective") == "collective"
    monkeypatch.setattr(held, "MOST_BYTES", 2000)
    assert chosen("frepo", 2) == "collective"
    assert chosen("frepo", 2, engine__gpus_per_worker=0.5) == "store"
    assert chosen("frepo", 1, engine__exchange="resident") == "resident"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engine__exchange": "resident"}, r"engine.exchange resident needs one worker, or a method .* set it to auto"),
        (
            {"engine__exchange": "collective", "engine__gpus_per_worker": 0.5},
            r"engine.exchange collective needs a GPU of its own for every worker, got engine.gpus_per_worker 0.5; set",
        ),
        ({"engine__gpus_per_worker": 1.5}, r"engine.gpus_per_worker must be at most 1 or whole, got 1.5"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    digits: str, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        prepare(toy("frepo", digits, str(tmp_path), workers=2, **changes))
    assert not list(tmp_path.iterdir())


def _normal(plan: Any) -> Any:
    return lambda ids: plan.real.images(ids).float()


def test_rows_of_one_worker_are_all_that_an_update_moves(digits: str, tmp_path: Path) -> None:
    """By hand: one worker with the last two of five blocks, against the whole."""
    import torch

    from raydd.engine.held import Held, join
    from raydd.engine.work import Work, to_arrays

    plan = prepare(toy("dm", digits, str(tmp_path)))
    method = plan.method
    assert isinstance(method, DM)
    work = Work(plan.job, torch.device("cpu"))
    start = work.initial()
    optimiser = to_arrays(method.optimiser({"x_syn": torch.tensor(start["x_syn"])}))
    parts = [Held(work, share, start, optimiser, group=None, split=True) for share in ([0, 1, 2], [3, 4])]
    for part in parts:
        part.advance(0, 3)
    brought = [part.bring() for part in parts]
    assert [len(variables["x_syn"]) for variables, _ in brought] == [12, 8]
    variables, state = join(brought)
    assert torch.equal(parts[1].variables["x_syn"][:12], torch.tensor(start["x_syn"])[:12])
    assert int(state["step"]) == 3
    assert state["momentum.x_syn"].shape == variables["x_syn"].shape

    whole, momentum = {"x_syn": torch.tensor(start["x_syn"])}, method.optimiser({"x_syn": torch.tensor(start["x_syn"])})
    for round in range(3):
        given = [Contribution(c.slot, c.gradients, c.metrics) for c in work.contribute(round, whole, range(5))]
        whole, momentum = method.update(round, whole, momentum, method.reduce(whole, given))
    assert torch.equal(whole["x_syn"], variables["x_syn"])
    assert torch.equal(momentum["momentum.x_syn"], state["momentum.x_syn"])
