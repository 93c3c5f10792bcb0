"""The protocol that is the same for every set: what is chosen, on what, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raydd.data.reader import RealData
from raydd.errors import ConfigError
from raydd.evaluate import Request, evaluate_all
from raydd.evaluate.protocols import DSA, FAIR, PROTOCOLS
from tests.evaluate.scoring import evaluate

NET = ["convnet:width=4,depth=1"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rates, one of which teaches nothing, and few updates."""
    training = replace(FAIR.training, updates=25)
    monkeypatch.setitem(PROTOCOLS, "fair", replace(FAIR, training=training, rates=(1e-9, 0.1)))
    monkeypatch.setitem(PROTOCOLS, "dsa", replace(DSA, training=replace(DSA.training, epochs=4, drop_epoch=3)))
    monkeypatch.setattr("raydd.evaluate.protocols.WHOLE_LEAST_UPDATES", 20)


def test_the_training_is_the_same_for_every_set():
    for n in (10, 1150, 5000):
        recipe = FAIR.fitted().recipe(n)
        assert (recipe.num_updates(n), recipe.batch, recipe.shuffle) == (1000, min(n, 256), True)
        assert (recipe.optimiser, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 5e-4)
        assert recipe.lr_at(0, n) == pytest.approx(0.01)
        assert recipe.lr_at(1000, n) == pytest.approx(0)
    assert FAIR.fitted(lr=0.1).recipe(10).lr == 0.1
    assert FAIR.operations(handwritten=False) == "dsa:color_crop_cutout_flip_scale_rotate"
    assert FAIR.fitted(augment=False).operations(handwritten=False) is None


@pytest.mark.parametrize(
    ("labels", "kind", "loss"),
    [
        (torch.tensor([1, 0]), "hard", "cross_entropy"),
        (torch.tensor([[0.9, 0.1], [0.25, 0.75]]), "soft", "cross_entropy"),
        (torch.tensor([[0.5, -0.5], [-0.5, 0.5]]), "soft", "mse"),
        (torch.tensor([[0.5, 0.1], [0.1, 0.5]]), "soft", "mse"),
    ],
    ids=["hard", "probabilities", "centred", "unnormalised"],
)
def test_labels_are_the_sets_own_and_decide_the_loss(labels: torch.Tensor, kind: str, loss: str):
    fitted = FAIR.fitted(labels)
    assert (fitted.labels, fitted.training.loss) == (kind, loss)
    assert fitted.targets(labels, 2) is labels


def test_published_protocols_are_left_as_they_are():
    for protocol in PROTOCOLS.values():
        if protocol.name != "fair":
            assert protocol.fitted(torch.tensor([[0.9, 0.1]])) == protocol
            assert not protocol.rates


def test_what_comes_of_it(shards, make_set, quick):
    results = evaluate(
        make_set(config={"data": {"val_fraction": 0.25}}),
        test=shards["test"],
        train=shards["train"],
        protocol="fair",
        nets=NET,
        repeats=2,
        baselines=["random", "whole"],
        whole_epochs=1,
    )
    augmented = "dsa:color_crop_cutout_flip_scale_rotate"
    assert [(r.of, r.augment) for r in results] == [
        (of, how) for of in ("distilled", "random", "whole") for how in (augmented, None)
    ]
    # The rate that teaches wins, for the set and for random images alike; a ceiling's is not chosen.
    assert [r.lr for r in results] == [0.1] * 4 + [0.01] * 2
    assert [r.note is not None for r in results] == [False] * 4 + [True] * 2
    assert {r.labels for r in results} == {"hard"}
    assert [r.images for r in results] == [3, 3, 3, 3, 27, 27]
    assert results[1].mean > 60


def test_a_set_whose_run_kept_nothing_is_told_so(shards, make_set, quick):
    results = evaluate(
        make_set(),
        test=shards["test"],
        train=shards["train"],
        protocol="fair",
        nets=NET,
        repeats=1,
        baselines=["random", "whole"],
        whole_epochs=1,
    )
    assert [(r.of, "may have seen" in str(r.note)) for r in results[::2]] == [
        ("distilled", True),
        ("random", False),
        ("whole", False),
    ]
    # One of twelve images of each class is kept from the baselines.
    assert results[4].images == 33


def test_the_test_split_is_opened_after_the_last_choice(shards, make_set, quick, monkeypatch):
    events: list[str] = []
    opened, read = RealData.__init__, RealData.images

    def open_it(self, folder, **options):
        events.append(f"opens {'test' if str(folder) == shards['test'] else options['part']}")
        opened(self, folder, **options)

    def read_it(self, ids):
        events.append(f"reads {self.index.split}")
        return read(self, ids)

    def spread(function, items, shared, on_result=None):
        events.extend(["maps", *(placed.item.part for placed in items)])
        return [function(shared, placed) for placed in items]

    monkeypatch.setattr(RealData, "__init__", open_it)
    monkeypatch.setattr(RealData, "images", read_it)
    results = evaluate_all(
        [
            Request(ds=make_set(), name=name, protocol=protocol, nets=NET, baselines=["random"])
            for name, protocol in (("a", "fair"), ("b", "dsa"), ("c", "fair"))
        ],
        test=shards["test"],
        train=shards["train"],
        repeats=1,
        map=spread,
    )
    assert [r.set for r in results] == ["a"] * 4 + ["b"] * 2 + ["c"] * 4
    last_choice = max(i for i, event in enumerate(events) if event == "val")
    first_test = min(i for i, event in enumerate(events) if event in ("test", "opens test", "reads test"))
    assert last_choice < first_test
    assert "reads test" in events
    assert "opens val" in events[:first_test]
    # All requests choose in one go, and then all are scored.
    assert [events[i + 1] for i, event in enumerate(events) if event == "maps"] == ["val", "test"]
    assert events.count("opens test") == 1


def test_the_best_rate_by_the_mean_of_its_networks_is_taken(shards, make_set):
    def invent(function, items, shared, on_result=None):
        # Without augmentation, .02 has the best single network but .005 the best mean; with it all are the same.
        plain = {0.001: (1.0, 2.0), 0.005: (60.0, 62.0), 0.02: (99.0, 3.0), 0.1: (50.0, 50.0)}
        return [
            [plain[item.lr][item.repeats[0]] if item.part == "val" and not item.augment else 7.0]
            for item in (placed.item for placed in items)
        ]

    with_it, without = evaluate(
        make_set(), test=shards["test"], train=shards["train"], protocol="fair", nets=NET, repeats=1, map=invent
    )
    assert (with_it.lr, without.lr) == (0.001, 0.005)
    assert with_it.mean == without.mean == 7.0


def test_the_network_is_the_same_for_every_set(shards, make_set):
    def none(function, items, shared, on_result=None):
        return [[0.0] for _ in items]

    options = {"test": shards["test"], "train": shards["train"], "protocol": "fair", "repeats": 1, "map": none}
    found = [
        evaluate(make_set(config={"net": {"name": "mlp"}}), **options)[0].net,
        evaluate(make_set(), **options)[0].net,
    ]
    assert found == ["convnet:width=128,depth=2,norm=instance"] * 2


def test_no_training_shards_no_choice(shards, make_set):
    with pytest.raises(ConfigError, match="the protocol fair chooses learning rates on the training split, got no tra"):
        evaluate(make_set(), test=shards["test"], protocol="fair")
