"""The model's part of `benchmark.py`: rounds of DM, FRePo and DC on 8, 64 and 512 GPU workers, and what they are bound by.

Seconds of a slot come from shares of it, timed here on one core (`raydd.engine.share`). `--slots` names them instead, for the
work of `--only scaling`; `--measured` names that benchmark's seconds a round with one worker and with two, beside which the
model's two workers are printed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from raydd.config import DataFacts, config_from
from raydd.engine.numerics import numerics
from raydd.engine.scaling import Cluster, Prediction, Round, predict
from raydd.engine.share import measure

SETS = {
    "CIFAR-10": DataFacts(name="cifar10", channels=3, size=32, num_classes=10, smallest_class=5000),
    "ImageNet-1K, 64 px": DataFacts(name="imagenet", channels=3, size=64, num_classes=1000, smallest_class=732),
}
# What grows with the workers, so that each has work: FRePo's members and DC's networks of a round.
WORK: dict[str, dict[str, Any]] = {
    "dm": {"name": "dm", "ipc": 1, "classes_per_slot": 1},
    "frepo": {"name": "frepo", "ipc": 1},
    "dc": {"name": "dc", "ipc": 10},
}
GROWS = {"frepo": "models_per_round", "dc": "nets_per_round"}
WORKERS = (1, 8, 64, 512)


def calibrate(method: dict[str, Any], facts: DataFacts, width: int) -> Round:
    """Time a share of a slot; return a round of one member or network."""
    raw = {"name": "model", "data": {"train": "-", "zca": None}, "net": {"width": width}, "method": method}
    config = config_from(raw).resolved(facts)
    with numerics(config.engine):
        return measure(config, facts, [facts.smallest_class] * facts.num_classes, torch.device("cpu")).round


def grown(round: Round, name: str, workers: int) -> Round:
    """Return a round with a member or network for each worker, where the method has any."""
    if name not in GROWS:
        return round
    many = round.gradients * workers
    return replace(round, slots=round.slots * workers, units=round.units * workers, gradients=many)


def line(title: str, found: Prediction) -> str:
    """Return a prediction as a line."""
    return (
        f"model: {title:36} {found.workers:4} workers {1e3 * found.seconds:10.1f} ms a round, {found.exchange:10} "
        f"{found.received / 1e6:7.1f} MB, efficiency {100 * found.efficiency:5.1f} %, bottleneck: {found.bottleneck}"
    )


def numbers(said: str) -> dict[str, list[float]]:
    """Return `dm=1.3:0.7,dc=2` as names and numbers."""
    pairs = (part.partition("=") for part in said.split(",") if part)
    return {name: [float(number) for number in values.split(":")] for name, _, values in pairs}


def compare(measured: dict[str, list[float]], rounds: dict[str, Round]) -> None:
    """Print what two workers take beside what the model says, given what one takes: the work of `--only scaling`."""
    for name, (one, two) in measured.items():
        round = rounds[name] if name != "dm" else replace(rounds[name], slots=10, size=100 * 3 * 32 * 32 * 4)
        round = grown(round, name, 2) if name in GROWS else round
        scale = one / predict(round, 1, Cluster()).seconds
        round = replace(
            round, slot_s=round.slot_s * scale, unit_s=round.unit_s * scale, shared_s=round.shared_s * scale
        )
        found = predict(round, 2, Cluster())
        print(
            f"model: {name} measured {one / two:.2f} times as fast with 2 workers, predicted {one / found.seconds:.2f}"
        )


def measure_model(width: int, speed: float, slots: str, measured: str) -> None:
    """Print the table."""
    cluster, given = Cluster(speed=speed), numbers(slots)
    print(
        f"model: width {width}, a GPU {speed:g} times this core, {cluster.gbit_s:g} Gb/s, {1e6 * cluster.latency_s:.0f} us"
    )
    ratios: dict[str, float] = {}
    for title, facts in SETS.items():
        rounds = {name: calibrate(method, facts, width) for name, method in WORK.items()}
        for name, round in rounds.items():
            if name in given and name not in ratios:
                ratios[name] = given[name][0] / round.slot_s
            times = ratios.get(name, 1.0)
            rounds[name] = replace(round, slot_s=round.slot_s * times, unit_s=round.unit_s * times)
            print(f"model: {title}, {name}: a slot {rounds[name].slot_s:.3f} s, a network's training", end=" ")
            print(f"{rounds[name].unit_s:.3f} s, S of {round.size / 1e6:.2f} MB, {round.slots} slots for one network")
        if facts.name == "cifar10":
            compare(numbers(measured), rounds)
        for name, round in rounds.items():
            for workers in WORKERS:
                print(line(f"{title}, {name}", predict(grown(round, name, workers), workers, cluster)))
        for workers in WORKERS[1:]:
            print(line(f"{title}, dc, one network", predict(rounds["dc"], workers, cluster)))
