from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from raydd import nets
from raydd.config import NETS
from raydd.errors import ConfigError
from raydd.evaluate.steps import apply_steps, with_fixed
from raydd.functional.losses import cross_entropy
from raydd.seeding import generator
from tests.evaluate.scoring import evaluate

CLASSES = ("bottom", "middle", "top")


def test_steps_are_applied_in_order_with_their_own_sizes():
    module = nets.build(NETS["convnet"](width=4, depth=1), (1, 8, 8), 3)
    state = nets.initialise(module, generator(0, "net"), law="xavier").to(dtype=torch.float64)
    x = torch.randn(6, 1, 8, 8, generator=generator(0, "x"), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    sizes = torch.tensor([[0.3, 0.1], [0.2, 0.05], [0.01, 0.4]], dtype=torch.float64)
    before = state.clone()

    weights = {name: value.clone().requires_grad_() for name, value in state.params.items()}
    for size, part in zip((0.3, 0.1, 0.2, 0.05, 0.01, 0.4), (0, 1, 0, 1, 0, 1), strict=True):
        rows = slice(3 * part, 3 * part + 3)
        loss = cross_entropy(nets.apply(module, weights, {}, x[rows], train=True), y[rows])
        gradient = torch.autograd.grad(loss, list(weights.values()))
        weights = {
            name: (value - size * step).detach().requires_grad_()
            for (name, value), step in zip(weights.items(), gradient, strict=True)
        }

    after = apply_steps(module, state, x, y, sizes)
    assert all(torch.allclose(after.params[name], value, rtol=1e-12, atol=1e-14) for name, value in weights.items())
    assert all(torch.equal(state.params[name], value) for name, value in before.params.items())
    soft = apply_steps(module, state, x, torch.nn.functional.one_hot(y, 3).double(), sizes)
    assert all(torch.allclose(soft.params[name], value) for name, value in after.params.items())


def test_a_fixed_network_is_taken_where_it_fits():
    drawn, fixed, wider = (
        nets.initialise(
            nets.build(NETS["convnet"](width=width, depth=1), (1, 8, 8), 3), generator(seed, "net"), law="xavier"
        )
        for width, seed in ((4, 0), (4, 1), (8, 2))
    )
    taken = with_fixed(drawn, fixed.tensors())
    assert all(torch.equal(value, fixed.params[name]) for name, value in taken.params.items())
    assert with_fixed(wider, fixed.tensors()) is wider
    assert with_fixed(drawn, {}) is drawn


@pytest.fixture
def learned(make_set):
    """A set of two steps of one image a class, passed five times."""
    ds = make_set()
    # Random images in the second step, so that the order of the steps shows.
    x = torch.randn(3, 1, 12, 12, generator=generator(0, "x"))
    labels = torch.eye(3).repeat(2, 1)
    return replace(
        ds,
        images=torch.cat([ds.images, x]),
        labels=labels,
        recipe=replace(ds.recipe, method="dd", label_kind="soft"),
        extras={"lr_inner": torch.tensor([[0.3, 0.0]] * 5)},
    )


def test_a_set_is_scored_by_its_own_steps(shards, learned):
    (good,) = evaluate(learned, test=shards["test"], protocol="dd", repeats=2)
    assert good.mean > 80
    lazy = replace(learned, extras={"lr_inner": torch.zeros(5, 2)})
    (bad,) = evaluate(lazy, test=shards["test"], protocol="dd", repeats=2)
    assert bad.mean < 70
    assert good.each != bad.each


def test_the_network_that_a_set_is_for_is_the_same_in_every_repeat(shards, learned):
    module = nets.build(NETS["convnet"](width=8, depth=1), (1, 12, 12), 3)
    fixed = nets.initialise(module, generator(5, "net"), law="xavier").tensors()
    # Steps of no length leave each network as it was drawn.
    steps = {"lr_inner": torch.zeros(1, 2)}
    ds = replace(learned, extras={**steps, **{f"init.{name}": value for name, value in fixed.items()}})
    (own,) = evaluate(ds, test=shards["test"], protocol="dd", repeats=3)
    # Nothing of it is drawn, so it is trained once.
    assert (own.repeats, own.labels) == (1, "soft")
    assert set(own.each) == {evaluate(ds, test=shards["test"], protocol="dd", repeats=1)[0].mean}
    (fresh,) = evaluate(replace(ds, extras=steps), test=shards["test"], protocol="dd", repeats=3)
    assert (fresh.repeats, fresh.std > 0) == (3, True)


def test_a_set_without_step_sizes_is_refused(shards, make_set):
    with pytest.raises(
        ConfigError, match=r"protocol dd applies step sizes .* got a set of method dm without any; choose"
    ):
        evaluate(make_set(), test=shards["test"], protocol="dd")


@pytest.mark.parametrize("method", ["kmeans", "average", "optimised", "random"])
def test_what_is_a_baseline_is_trained_on_as_one(shards, make_set, method):
    ds = make_set()
    ds = replace(ds, recipe=replace(ds.recipe, method=method))
    (own,) = evaluate(ds, test=shards["test"], protocol="dd", repeats=1)
    assert (own.protocol, own.lr) == ("dd", 0.01)


def test_random_images_beside_a_memory_are_as_many_as_it_takes_the_storage_of(shards, make_set, short):
    ds = make_set(config={"method": {"name": "rtp", "ipc": 2}})
    images, labels = ds.images.repeat_interleave(5, 0), ds.labels.repeat_interleave(5)
    tables = {"bases": torch.zeros(2, 1, 6, 6), "addresses": torch.zeros(3, 5, 2)}
    options = {"test": shards["test"], "train": shards["train"], "protocol": "dsa", "baselines": ["random"]}
    distilled, random = evaluate(replace(ds, images=images, labels=labels, extras=tables), **options, repeats=1)
    assert (distilled.images, distilled.storage_bytes) == (15, 4 * (2 * 36 + 3 * 5 * 2))
    assert (random.images, random.storage_bytes) == (6, 6 * (144 + 8))
    plain = evaluate(replace(ds, images=images, labels=labels), **options, repeats=1)[1]
    assert plain.images == 15
