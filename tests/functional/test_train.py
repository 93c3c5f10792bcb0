import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from raydd.augment import dsa
from raydd.errors import ConfigError
from raydd.functional.losses import centred_labels
from raydd.functional.recipe import TrainRecipe
from raydd.functional.schedules import cosine, warmup_cosine
from raydd.functional.train import epoch_batches, init_optimiser, train, train_on, train_step
from raydd.nets import NetConfig, apply, build, initialise

SGD = TrainRecipe(optimiser="sgd", lr=0.05, momentum=0.9, weight_decay=5e-4, epochs=3, batch=4)
ADAM = TrainRecipe(
    optimiser="adam", lr=1e-3, updates=7, batch=4, loss="mse", shuffle=False, schedule="cosine", final=0.1
)


def config(**changes) -> NetConfig:
    net = {"name": "convnet", "width": 4, "depth": 2, "norm": "instance", "act": "relu", "pool": "avg", **changes}
    return SimpleNamespace(**net)


def setting(count=10, **changes):
    module = build(config(**changes), (1, 8, 8), 3)
    x = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return module, initialise(module, torch.Generator().manual_seed(0)), x, torch.arange(count) % 3


def equal(a, b):
    return all(torch.equal(a.tensors()[name], tensor) for name, tensor in b.tensors().items())


def by_torch(state, x, y, loss, make, rates, batch, restart=None):
    """Train by an ordinary loop over a real module, torch.optim and backward; unshuffled."""
    module = build(config(), (1, 8, 8), 3).to_empty(device="cpu")
    module.load_state_dict(state.params)
    module.train()
    optim, length = make(module.parameters()), -(-len(x) // batch)
    for step, lr in enumerate(rates):
        if step == restart:
            optim = make(module.parameters())
        optim.param_groups[0]["lr"] = lr
        part = slice(step % length * batch, (step % length + 1) * batch)
        optim.zero_grad()
        loss(module(x[part]), y[part]).backward()
        optim.step()
    return dict(module.named_parameters())


def test_sgd_equals_an_ordinary_torch_loop_to_the_bit():
    """DC's protocol for E = 3: epochs 0 to 3, three of them at the full rate, then a tenth and a new optimiser."""
    module, state, x, y = setting()
    recipe = TrainRecipe(
        optimiser="sgd",
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        epochs=4,
        batch=4,
        shuffle=False,
        schedule="drop",
        final=0.1,
        drop_epoch=3,
    )
    trained = train(module, state, x, y, recipe, seed=0)
    expected = by_torch(
        state,
        x,
        y,
        F.cross_entropy,
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4, foreach=False),
        [0.05] * 9 + [0.05 * 0.1] * 3,
        batch=4,
        restart=9,
    )
    assert all(torch.equal(trained.params[name], p) for name, p in expected.items())


def test_adam_with_mse_equals_an_ordinary_torch_loop_to_the_bit():
    module, state, x, y = setting()
    labels = centred_labels(y, 3)
    trained = train(module, state, x, labels, ADAM, seed=0)
    expected = by_torch(
        state,
        x,
        labels,
        lambda pred, target: 0.5 * (pred - target).square().sum(1).mean(),
        lambda p: torch.optim.Adam(p, lr=1e-3, foreach=False),
        [cosine(step, 7, 1e-3, 0.1) for step in range(7)],
        batch=4,
    )
    assert all(torch.equal(trained.params[name], p) for name, p in expected.items())


def test_learns():
    module, state, x, y = setting(6, norm="none")
    recipe = TrainRecipe(optimiser="adam", lr=0.01, updates=60, batch=6)
    trained = train(module, state, x, y, recipe, seed=0)
    assert apply(module, trained.params, trained.buffers, x).argmax(1).tolist() == y.tolist()


def test_a_pure_function_of_its_arguments():
    module, state, x, y = setting(norm="batch")
    before, global_state = state.clone(), torch.get_rng_state()
    first = train(module, state, x, y, SGD, seed=5, indices=(1,), augment=dsa.per_image("color_crop_scale"))
    again = train(module, state, x, y, SGD, seed=5, indices=(1,), augment=dsa.per_image("color_crop_scale"))
    assert equal(first, again)
    assert equal(state, before)
    assert not equal(first, state)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert not any(p.requires_grad for p in first.params.values())


@pytest.mark.parametrize("other", [{"seed": 6, "indices": (1,)}, {"seed": 5, "indices": (2,)}])
def test_seed_and_indices_change_order_and_augmentation(other):
    module, state, x, y = setting()
    one_batch = TrainRecipe(optimiser="sgd", lr=0.05, epochs=2, batch=10)
    for recipe, augment in ((SGD, None), (one_batch, dsa.per_image("color"))):
        first = train(module, state, x, y, recipe, seed=5, indices=(1,), augment=augment)
        assert not equal(first, train(module, state, x, y, recipe, **other, augment=augment))


def test_every_step_has_an_augmentation_of_its_own():
    module, state, x, y = setting()
    seen = []

    def augment(batch, gen):
        seen.append(torch.rand(1, generator=gen).item())
        return batch

    train(module, state, x, y, SGD, seed=0, augment=augment)
    assert len(set(seen)) == 9


def test_batches_cover_each_epoch_once_in_new_orders():
    x, y = torch.arange(10.0), torch.arange(10)
    batches = epoch_batches(x, y, SGD, seed=0)
    epochs = [[batches(3 * epoch + place) for place in range(3)] for epoch in range(3)]
    orders = [torch.cat([labels for _, labels in epoch]).tolist() for epoch in epochs]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert [len(labels) for _, labels in epochs[0]] == [4, 4, 2]
    assert len({tuple(order) for order in orders}) == 3
    assert all(torch.equal(images, labels.float()) for epoch in epochs for images, labels in epoch)
    # Any step can be asked for first: nothing depends on the ones before.
    assert torch.equal(epoch_batches(x, y, SGD, seed=0)(7)[1], epochs[2][1][1])


def test_unshuffled_batches_stay_in_order():
    x, y = torch.arange(5.0), torch.arange(5)
    batches = epoch_batches(x, y, ADAM, seed=0)
    assert [batches(step)[1].tolist() for step in range(3)] == [[0, 1, 2, 3], [4], [0, 1, 2, 3]]


def test_a_stream_of_batches_trains_alike():
    module, state, x, y = setting()
    asked = []

    def stream(step):
        asked.append(step)
        return epoch_batches(x, y, SGD, seed=3)(step)

    assert equal(train_on(module, state, stream, 10, SGD, seed=3), train(module, state, x, y, SGD, seed=3))
    assert asked == list(range(9))


def test_no_updates_give_a_copy():
    module, state, x, y = setting()
    recipe = TrainRecipe(optimiser="adam", lr=1e-3, updates=0, batch=4, schedule="cosine", final=0.01, warmup=500)
    trained = train(module, state, x, y, recipe, seed=0)
    assert equal(trained, state)
    assert trained.params["blocks.0.weight"].data_ptr() != state.params["blocks.0.weight"].data_ptr()


def test_train_step_updates_running_statistics_in_place_and_reports_the_loss():
    module, state, x, y = setting(norm="batch")
    old = state.clone()
    moved, optim, loss = train_step(module, state, init_optimiser(state, SGD), x, y, SGD, 0.1)
    expected = F.cross_entropy(apply(module, old.params, old.clone().buffers, x, train=True), y)
    assert loss.item() == expected.item()
    assert not loss.requires_grad
    assert optim.step == 1
    assert moved.buffers["blocks.1.running_mean"] is state.buffers["blocks.1.running_mean"]
    assert state.buffers["blocks.1.running_mean"].ne(0).any()
    assert torch.equal(state.params["blocks.0.weight"], old.params["blocks.0.weight"])


def test_hostile_data_is_refused():
    module, state, x, y = setting()
    with pytest.raises(ConfigError, match=r"one label an image and at least one image, got 10 images, 9 labels"):
        train(module, state, x, y[:9], SGD, seed=0)
    with pytest.raises(ConfigError, match=r"got 0 images, 0 labels"):
        train(module, state, x[:0], y[:0], SGD, seed=0)
    with pytest.raises(ConfigError, match=r"'mse' takes soft labels .* got shape \(10,\): use centred_labels"):
        train(module, state, x, y, ADAM, seed=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 3}, "either epochs or updates, got 3 and 3"),
        ({"epochs": None}, "either epochs or updates, got None and None"),
        ({"batch": 0}, "batch must be >= 1"),
        ({"epochs": -1}, "its length >= 0, got 4 and -1"),
        ({"schedule": "drop"}, "drop_epoch goes with schedule 'drop', got None"),
        ({"drop_epoch": 2}, "drop_epoch goes with schedule 'drop', got 2 with 'constant'"),
    ],
)
def test_impossible_recipes_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TrainRecipe(**{"optimiser": "sgd", "lr": 0.1, "epochs": 3, "batch": 4, **changes})


def test_dc_protocol_lengths():
    """300 epochs of 100 images in one batch: 301 updates, the rate drops after epoch 151, that is after 152 epochs."""
    recipe = TrainRecipe(
        optimiser="sgd", lr=0.01, epochs=301, batch=256, schedule="drop", final=0.1, drop_epoch=300 // 2 + 2
    )
    assert recipe.num_updates(100) == 301
    assert [recipe.lr_at(step, 100) for step in (0, 151, 152, 300)] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert recipe.num_updates(500) == 602
    assert recipe.drop_step(500) == 304


def test_frepo_protocol_rates():
    recipe = TrainRecipe(
        optimiser="adam", lr=3e-4, updates=1000, batch=500, schedule="cosine", warmup=500, final=0.01, shuffle=False
    )
    rates = [recipe.lr_at(step, 10) for step in range(1000)]
    assert rates[0] == 0
    assert rates[250] == pytest.approx(1.5e-4)
    assert rates[500] == pytest.approx(3e-4)
    assert rates[750] == pytest.approx(3e-4 * (0.99 * 0.5 + 0.01))
    assert max(rates) == pytest.approx(3e-4)
    assert rates[999] == pytest.approx(3e-6, rel=0.01)


def test_cosine_ends():
    assert [cosine(step, 10, 1.0, 0.1) for step in (0, 5, 10, 99)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_a_short_training_is_all_warmup():
    assert [warmup_cosine(step, 4, 1.0, 0.1, 500) for step in range(4)] == [0, 0.25, 0.5, 0.75]
    assert warmup_cosine(0, 4, 1.0, 0.1, 0) == 1


def test_recipes_can_be_had_without_torch():
    code = "import sys, raydd.functional.recipe; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_look_sees_every_update_and_what_a_shorter_training_ends_with():
    module, state, x, y = setting()
    recipe = TrainRecipe(optimiser="sgd", lr=0.05, momentum=0.9, updates=6, batch=4)
    seen = {}
    train(module, state, x, y, recipe, seed=3, look=lambda updates, state: seen.update({updates: state.clone()}))
    assert list(seen) == [1, 2, 3, 4, 5, 6]
    for updates in (1, 4):
        assert equal(train(module, state, x, y, replace(recipe, updates=updates), seed=3), seen[updates])
