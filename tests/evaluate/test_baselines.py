"""Coresets beside a set, and an evaluation that goes on: through the public function, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import raydd
from raydd import api
from raydd.engine import coresets
from raydd.errors import ConfigError
from raydd.evaluate import items
from raydd.evaluate.protocols import DSA, PROTOCOLS

CONFIG = {"net": {"name": "convnet", "width": 4, "depth": 1}, "data": {"val_fraction": 0.25}, "seed": 3}


class Watch(api.Silent):
    """Remembers how far it was, and breaks off where it is told to."""

    def __init__(self, stop: int | None = None) -> None:
        self.told: list[tuple[int, int]] = []
        self.stop = stop

    def evaluating(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if done == self.stop:
            raise KeyboardInterrupt


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "dsa", replace(DSA, training=replace(DSA.training, epochs=4, drop_epoch=3)))


def test_coresets_are_those_of_runs_of_their_own(shards, make_set, quick, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(api, "_finish", lambda *_: None)
    train = items._train_together

    def look(shared, item, *rest):
        seen.update(shared.others)
        return train(shared, item, *rest)

    monkeypatch.setattr(items, "_train_together", look)
    names = ["herding", "average"]
    ds = make_set(config=CONFIG)
    results = api.evaluate(ds, test=shards["test"], train=shards["train"], repeats=1, baselines=names)
    assert [(r.of, r.images) for r in results] == [("distilled", 3), ("herding", 3), ("average", 3)]
    for name in names:
        config = {
            "name": name,
            "method": {"name": name},
            **CONFIG,
            "data": {"train": shards["train"], **CONFIG["data"]},
            "store": str(tmp_path / "runs"),
            "engine": {"workers": 0},
            "evaluate": {"repeats": 0},
        }
        own = raydd.distill(config).distilled()
        pixels = own.preprocessing.inverse(own.images)
        torch.testing.assert_close(torch.from_numpy(seen[name][0]), ds.preprocessing(pixels))


def test_a_coreset_is_chosen_once(shards, make_set, quick, tmp_path, monkeypatch):
    """An evaluation that goes on finds the sets that were chosen, unless they are damaged or another choice."""
    chosen = []
    distil = coresets.distil

    def count(plan, *rest):
        chosen.append(plan.config.name)
        return distil(plan, *rest)

    monkeypatch.setattr(coresets, "distil", count)
    ds, keep = make_set(config=CONFIG), str(tmp_path / "kept")
    options = {"test": shards["test"], "train": shards["train"], "repeats": 1, "baselines": ["herding", "average"]}
    undisturbed = api.evaluate(ds, **options)
    for stop, damaged, again in ((1, None, ["herding", "average"]), (2, "average", []), (None, None, ["average"])):
        chosen.clear()
        if stop is None:
            assert api.evaluate(ds, **options, keep=keep) == undisturbed
        else:
            with pytest.raises(KeyboardInterrupt):
                api.evaluate(ds, **options, keep=keep, watcher=Watch(stop=stop))
        assert chosen == again
        for path in Path(keep).rglob("coreset-*/data.safetensors"):
            if damaged and json.loads((path.parent / "recipe.json").read_text())["method"] == damaged:
                path.write_bytes(path.read_bytes()[:-1])
    assert not Path(keep).exists()


def test_a_coreset_takes_as_many_of_every_class(shards, make_set):
    ds = make_set(config=CONFIG)
    uneven = replace(ds, labels=torch.tensor([0, 0, 1]))
    expected = "the baseline kmeans takes as many images of every class, got a set with 0 to 2; use random"
    with pytest.raises(ConfigError, match=expected):
        api.evaluate(uneven, test=shards["test"], train=shards["train"], baselines=["kmeans"])


def test_an_evaluation_goes_on_where_it_was_stopped(shards, make_set, quick, tmp_path, monkeypatch):
    trained = []
    count = items._train_together

    def look(shared, item, *rest):
        trained.append((item.part, item.of, item.repeats))
        return count(shared, item, *rest)

    monkeypatch.setattr(items, "_train_together", look)
    sets = [make_set(config=CONFIG), make_set(config=CONFIG, roll=1)]
    keep = tmp_path / "kept"
    options = {"test": shards["test"], "train": shards["train"], "repeats": 2, "baselines": ["random"]}
    undisturbed = api.evaluate(sets, **options)
    assert [r.set for r in undisturbed] == ["toy"] * 2 + ["toy (2)"] * 2
    trained.clear()
    with pytest.raises(KeyboardInterrupt):
        api.evaluate(sets, **options, keep=str(keep), watcher=Watch(stop=5))
    assert len(trained) == 5
    assert len([path for path in keep.rglob("*.json") if json.loads(path.read_text())]) == 5
    watch = Watch()
    assert api.evaluate(sets, **options, keep=str(keep), watcher=watch) == undisturbed
    assert len(trained) == 8
    assert watch.told[-1] == (8, 8)
    # What was finished is not kept once all is.
    assert not keep.exists()
    assert api.evaluate(sets, **options, keep=str(keep)) == undisturbed
    assert len(trained) == 16


def test_robust_scores_ask_for_all_they_need(shards, make_set, monkeypatch):
    def invent(shared, item):
        return [float(item.of == "distilled") * 50 + 25.0] * len(item.repeats)

    monkeypatch.setattr("raydd.evaluate.items.accuracies", invent)
    results = api.evaluate(
        make_set(soft=True), test=shards["test"], train=shards["train"], robust=True, repeats=1, nets=["mlp"]
    )
    (found,) = raydd.evaluate.robustness(results)
    # 25 % for real images, 75 % for the set: HLR -.5, IOR .5, both gains .5.
    assert (found.hard_label_loss, found.gain_over_random, found.augmented_gain, found.plain_gain) == (
        -0.5,
        0.5,
        0.5,
        0.5,
    )
    assert found.lrs == found.ars == pytest.approx(0.5449, abs=1e-4)
