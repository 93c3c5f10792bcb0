"""Networks that are trained together, and how that changes nothing but the rounding."""

from __future__ import annotations

import pickle

import pytest
import torch

from raydd.evaluate import items, sequential
from raydd.evaluate.items import groups
from raydd.functional import stacked
from tests.evaluate.scoring import evaluate


def dealt(workers):
    """Map as `workers` processes would that take the next item in turn: each on a copy of what travels, last item first."""

    def spread(function, items, shared, on_result=None):
        results = {}
        for worker in range(workers):
            there = pickle.loads(pickle.dumps((function, shared)))
            for place in reversed(range(worker, len(items), workers)):
                results[place] = there[0](there[1], pickle.loads(pickle.dumps(items[place])))
        return [results[place] for place in range(len(items))]

    return spread


@pytest.fixture
def run(shards, make_set, short):
    def call(**options):
        common = {"test": shards["test"], "train": shards["train"], "repeats": 5, "baselines": ["random"]}
        return evaluate(make_set(), nets=["convnet:width=4,depth=1"], **{**common, **options})

    return call


def test_repeats_fall_into_groups():
    assert groups(5, 2) == [(0, 1), (2, 3), (4,)]
    assert groups(4, 20) == [(0, 1, 2, 3)]
    assert groups(2, 1) == [(0,), (1,)]
    assert groups(0, 3) == []


def test_the_numbers_of_a_group_do_not_depend_on_workers(run):
    at_once = run(group=2, repeats=3, map=sequential)
    assert at_once == run(group=2, repeats=3, map=dealt(1)) == run(group=2, repeats=3, map=dealt(2))


def test_stacked_networks_start_and_end_as_alone(run, monkeypatch):
    trained: dict[int, list] = {}

    def remember(module, states, test, preprocessing, device):
        trained.setdefault(size, []).extend(states)
        return [0.0] * len(states)

    monkeypatch.setattr(items, "score", remember)
    for size in (1, 5):
        run(group=size, repeats=5)
    assert len(trained[1]) == len(trained[5]) == 10
    for alone, together in zip(trained[1], trained[5], strict=True):
        for name, tensor in alone.params.items():
            torch.testing.assert_close(together.params[name], tensor, rtol=1e-3, atol=1e-4)
    firsts = {tuple(state.params["classifier.bias"].tolist()) for state in trained[5]}
    assert len(firsts) == 10


def test_what_is_stacked(run, monkeypatch):
    told, stacks, wholes = [], [], []
    real_fold, real_whole = stacked.fold, items._train_whole
    monkeypatch.setattr(stacked, "fold", lambda module, count: stacks.append(count) or real_fold(module, count))
    monkeypatch.setattr(items, "_train_whole", lambda *args: wholes.append(args[4]) or real_whole(*args))
    results = run(
        group=3, baselines=["whole", "random"], whole_epochs=1, on_result=lambda done, total: told.append((done, total))
    )
    # Five networks in threes, on the set and on random images; the two on the whole set are items of their own.
    assert stacks == [3, 2, 3, 2]
    assert told == [(i + 1, 6) for i in range(6)]
    assert len(set(wholes)) == 2
    assert [result.repeats for result in results] == [5, 5, 2]


def test_each_network_of_a_group_has_random_images_of_its_own(run, monkeypatch):
    seen = {}

    def remember(module, states, x, y, recipe, *, seeds, augment):
        seen[len(seen)] = (x, y)
        return states

    monkeypatch.setattr(items, "train_group", remember)
    run(group=5)
    (random, labels), (distilled, _) = seen[0], seen[1]
    assert len({tuple(images.flatten().tolist()) for images in random}) == 5
    assert len({tuple(images.flatten().tolist()) for images in distilled}) == 1
    assert labels.tolist() == [[0, 1, 2]] * 5
