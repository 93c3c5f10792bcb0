from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raydd.config import FRePoConfig
from raydd.methods import Contribution, Method, Tensors
from tests.methods import toy

DATA = toy.data(counts=(6, 8, 5, 7), channels=3)
PLAIN: dict[str, Any] = {"flip": False, "ridge": 0.3, "chunk": 1000, "online_batch": 1000}


def make(**changes: Any) -> Method[FRePoConfig]:
    return toy.make("frepo", DATA, **{**PLAIN, "models_per_round": 1, "pool_size": 4, "real_batch": 9, **changes})


def variables(ipc: int = 2) -> Tensors:
    """Images and labels that are away from every special value."""
    gen = torch.Generator().manual_seed(5)
    labels = 0.5 * torch.randn(4 * ipc, 4, generator=gen)
    return {"x_syn": torch.randn(4 * ipc, *DATA.images.shape[1:], generator=gen), "y_syn": labels}


def used_member(method: Method[FRePoConfig], rounds: int = 2) -> Tensors:
    """Return a member that was trained, so that its running statistics matter."""
    state = method.unit_state(0)
    for round in range(rounds):
        state = method.after_update(round, 0, state, variables())
    return state


def plain_module(state: Tensors) -> nn.Module:
    """The paper's ConvNet of plain modules, width 4 and depth 2, with a member's numbers."""
    norm = nn.BatchNorm2d(4, momentum=0.9)
    body = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), norm]
    body += [nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
    module = nn.Sequential(*body, nn.Flatten(), nn.Linear(32, 4)).to(state["params.blocks.0.weight"].dtype)
    names = {n.partition(".")[2]: t for n, t in state.items() if n.startswith(("params.", "buffers."))}
    names = {n.replace("blocks.", "").replace("classifier", "8"): t.clone() for n, t in names.items()}
    module.load_state_dict(names)
    return module


def contribute(
    method: Method[FRePoConfig], values: Tensors, state: Tensors, dtype: torch.dtype = torch.float32, round: int = 0
) -> Contribution:
    return toy.contribute(method, DATA, round, method.slots_all[0], values, {0: state}, None, dtype)


def meta_loss(method: Method[FRePoConfig], values: Tensors, state: Tensors, flip: bool) -> float:
    """The loss by the normal equations of ridge regression on features, in numpy."""
    module = plain_module(toy.double(state)).eval()[:-1]
    ids = method.real_ids(0, method.slots_all[0])
    x, y = values["x_syn"].double(), values["y_syn"].double().numpy()
    with torch.no_grad():
        f_real = module(DATA.images[ids].double()).numpy()
        f_syn = module(torch.cat([x, x.flip(3)]) if flip else x).numpy()
    rows = np.concatenate([y, y]) if flip else y
    ridge = method.config.ridge * (f_syn**2).sum() / len(rows)
    weights = np.linalg.solve(f_syn.T @ f_syn + ridge * np.eye(f_syn.shape[1]), f_syn.T @ rows)
    target = np.eye(4)[DATA.labels[ids].numpy()] - 0.25
    error = (0.5 * ((f_real @ weights - target) ** 2).sum(1)).mean()
    top = np.sort(y, axis=1)
    return float(error - np.minimum(top[:, -1] - top[:, -2], 0.25).mean())


@pytest.mark.parametrize("chunk", [1000, 3])
@pytest.mark.parametrize("ridge", [1e-6, 0.3])
@pytest.mark.parametrize("flip", [False, True])
def test_meta_loss_equals_normal_equations(flip: bool, ridge: float, chunk: int) -> None:
    method = make(flip=flip, ridge=ridge, chunk=chunk)
    values, state = toy.double(variables()), toy.double(used_member(method))
    loss = contribute(method, values, state, torch.float64).metrics["loss"]
    # The targets are float32, hence not more digits.
    assert loss == pytest.approx(meta_loss(method, values, state, flip), rel=1e-6)


def test_mirrored_copies_count() -> None:
    with_flip, without = make(flip=True), make()
    state, values = used_member(without), variables()
    mirrored = {**values, "x_syn": values["x_syn"].flip(3)}
    one, other = (contribute(with_flip, v, state).metrics["loss"] for v in (values, mirrored))
    assert one == pytest.approx(other, rel=1e-5)
    assert one != pytest.approx(contribute(without, values, state).metrics["loss"], rel=1e-3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_change_nothing_but_rounding(flip: bool, chunk: int) -> None:
    values, state = toy.double(variables()), toy.double(used_member(make()))
    whole, parts = (contribute(make(flip=flip, chunk=c), values, state, torch.float64) for c in (1000, chunk))
    assert parts.metrics["loss"] == pytest.approx(whole.metrics["loss"], rel=1e-12)
    for name, gradient in whole.gradients.items():
        assert gradient.is_contiguous()
        assert parts.gradients[name].is_contiguous()
        torch.testing.assert_close(parts.gradients[name], gradient, rtol=1e-10, atol=1e-12)


def test_features_use_the_running_statistics() -> None:
    """In evaluation mode an altered statistic alters the loss, though the images are the same."""
    method = make()
    state = used_member(method)
    altered = {n: t + 0.5 if n.endswith("running_mean") else t for n, t in state.items()}
    losses = [contribute(method, variables(), s).metrics["loss"] for s in (state, altered)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_real_images_leave_nothing_on_the_tape() -> None:
    method = make(real_batch=13)
    state, lengths = used_member(method), set()

    def note(tensor: Tensor) -> Tensor:
        lengths.add(len(tensor) if tensor.ndim == 4 else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        contribute(method, variables(), state)
    assert 8 in lengths
    assert 13 not in lengths


def test_labels_start_centred_and_scaled() -> None:
    """Of 40 classes: 0.975 / 2 for the class, -0.025 / 2 for the others."""
    data = toy.data(counts=(2,) * 40, size=4)
    method = toy.make("frepo", data, ipc=2, net={"depth": 1})
    labels = method.init(data.images[method.init_ids()])["y_syn"]
    assert labels.shape == (80, 40)
    assert labels[5, 2].item() == pytest.approx(0.4875)
    assert labels[5, 3].item() == pytest.approx(-0.0125)
    assert labels.argmax(1).tolist() == [c for c in range(40) for _ in range(2)]


def test_starts_from_real_images_or_from_noise() -> None:
    method, noise = make(), make(init="noise")
    x_real = DATA.images[method.init_ids()]
    assert DATA.labels[method.init_ids()].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(method.init(x_real)["x_syn"], x_real)
    drawn = noise.init(x_real)["x_syn"]
    assert abs(drawn.std().item() - 1) < 0.05
    assert torch.equal(noise.init(x_real)["y_syn"], method.init(x_real)["y_syn"])


def test_frozen_labels_keep_their_margin_in_the_loss_and_their_value() -> None:
    learned, frozen = make(), make(learn_labels=False)
    state, values = used_member(learned), variables()
    one, other = (contribute(m, values, state) for m in (learned, frozen))
    assert other.metrics == one.metrics
    assert torch.equal(other.gradients["x_syn"], one.gradients["x_syn"])
    gradients = frozen.reduce(values, [other])
    after, _ = frozen.update(0, values, frozen.optimiser(values), gradients)
    assert torch.equal(after["y_syn"], values["y_syn"])
    assert not torch.equal(after["x_syn"], values["x_syn"])


def test_several_members_give_the_mean_of_their_gradients_before_lamb() -> None:
    method = make(models_per_round=2, rounds=10)
    values = {"x_syn": torch.tensor([[3.0, 4.0]]), "y_syn": torch.tensor([[1.0, 0.0]])}
    gradients = [
        {"x_syn": torch.tensor([[1.0, -2.0]]), "y_syn": torch.tensor([[4.0, 1.0]])},
        {"x_syn": torch.tensor([[3.0, -6.0]]), "y_syn": torch.tensor([[0.0, -1.0]])},
    ]
    given = [Contribution(method.slots_all[i], g, {"loss": 0.0}) for i, g in enumerate(gradients)]
    mean = method.reduce(values, given)
    assert mean["x_syn"].tolist() == [[2.0, -4.0]]
    assert mean["y_syn"].tolist() == [[2.0, 0.0]]
    after, _ = method.update(0, values, method.optimiser(values), mean)
    # The first step's corrected moments are g and g^2, the update is the sign: a step of lr |x| along it.
    expected = values["x_syn"] - 0.02 * 5 * torch.tensor([[1.0, -1.0]]) / math.sqrt(2)
    torch.testing.assert_close(after["x_syn"], expected)
    torch.testing.assert_close(after["y_syn"], torch.tensor([[1.0 - 0.02, 0.0]]))


@pytest.mark.parametrize(("round", "share"), [(0, 1.0), (50, 0.55), (100, 0.1)])
def test_rate_falls_by_a_cosine_and_the_trust_ratio_is_not_clipped(round: int, share: float) -> None:
    method = make(rounds=100, lr_syn=0.01, lr_syn_final=0.1)
    values = {"x_syn": 1e6 * torch.ones(2, 8), "y_syn": 1e-3 * torch.ones(2, 4)}
    gradients = {name: torch.full_like(value, 0.7) for name, value in values.items()}
    after, _ = method.update(round, values, method.optimiser(values), gradients)
    for name, value in values.items():
        torch.testing.assert_close(after[name], value * (1 - 0.01 * share))


def test_counters_are_staggered_and_networks_are_all_fresh() -> None:
    method = make(pool_size=3, max_online_updates=8)
    states = [method.unit_state(unit) for unit in range(3)]
    assert [int(state["counter"]) for state in states] == [0, 2, 4]
    assert [int(state["adam.step"]) for state in states] == [0, 0, 0]
    assert not torch.equal(states[0]["params.blocks.0.weight"], states[1]["params.blocks.0.weight"])
    for state in states:
        assert not state["buffers.blocks.3.running_mean"].any()
        assert torch.equal(state["buffers.blocks.3.running_var"], torch.ones(4))


def test_a_member_lives_one_step_longer_than_max_online_updates_and_is_renewed_untrained() -> None:
    method, values = make(max_online_updates=3), variables()
    state = first = method.unit_state(0)
    for step in range(4):
        before = state["params.blocks.0.weight"]
        state = method.after_update(step, 0, state, values)
        assert int(state["counter"]) == int(state["adam.step"]) == step + 1
        assert not torch.equal(state["params.blocks.0.weight"], before)
    renewed = method.after_update(4, 0, state, values)
    assert int(renewed["counter"]) == int(renewed["adam.step"]) == 0
    assert not renewed["adam.first.blocks.0.weight"].any()
    assert not renewed["buffers.blocks.3.running_mean"].any()
    assert not renewed["params.blocks.0.bias"].any(), "a bias starts at zero and would be trained away from it"
    assert not torch.equal(renewed["params.blocks.0.weight"], first["params.blocks.0.weight"])
    for round, unit in ((5, 0), (4, 1)):
        other = method.after_update(round, unit, state, values)
        assert not torch.equal(other["params.blocks.0.weight"], renewed["params.blocks.0.weight"])


def reference_steps(state: Tensors, values: Tensors, lr: float, steps: int = 1) -> nn.Module:
    """Train a member by torch.optim.Adam on all of S."""
    module = plain_module(state).train()
    adam = torch.optim.Adam(module.parameters(), lr=lr)
    for _ in range(steps):
        adam.zero_grad()
        (0.5 * ((module(values["x_syn"]) - values["y_syn"]) ** 2).sum(1)).mean().backward()
        adam.step()
    return module


def test_online_steps_equal_adam_in_train_mode() -> None:
    """Two steps, so that the moments count; mirrored copies do not take part."""
    method, values = make(lr_net=0.01, max_online_updates=9, flip=True), toy.double(variables())
    state = start = toy.double(method.unit_state(0))
    for round in range(2):
        state = method.after_update(round, 0, state, values)
    expected = reference_steps(start, values, 0.01, steps=2).state_dict()
    got = plain_module(state).state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-12)


def test_running_statistics_forget_fast() -> None:
    """Old 0 and 1 keep a tenth: the rest is the batch's mean and unbiased variance."""
    method, values = make(), toy.double(variables())
    state = toy.double(method.unit_state(0))
    after = method.after_update(0, 0, state, values)
    with torch.no_grad():
        maps = plain_module(state)[:3](values["x_syn"])
    torch.testing.assert_close(after["buffers.blocks.3.running_mean"], 0.9 * maps.mean((0, 2, 3)))
    torch.testing.assert_close(after["buffers.blocks.3.running_var"], 0.1 + 0.9 * maps.var((0, 2, 3)))
    assert int(after["buffers.blocks.3.num_batches_tracked"]) == 1


def test_online_batch_is_sampled_without_replacement() -> None:
    """The step on three of eight rows is that of exactly one triple, another one in another round."""
    method, values = make(online_batch=3, lr_net=0.01), toy.double(variables())
    state = toy.double(method.unit_state(0))
    means = {
        rows: plain_module(state)[:3](values["x_syn"][list(rows)]).mean((0, 2, 3)).detach() * 0.9
        for rows in combinations(range(8), 3)
    }
    found = []
    for round in range(4):
        after = method.after_update(round, 0, state, values)
        fits = [
            rows
            for rows, mean in means.items()
            if torch.allclose(mean, after["buffers.blocks.3.running_mean"], rtol=1e-9, atol=1e-12)
        ]
        assert len(fits) == 1
        chosen = {name: value[list(fits[0])] for name, value in values.items()}
        expected = reference_steps(state, chosen, 0.01).state_dict()["0.weight"]
        torch.testing.assert_close(after["params.blocks.0.weight"], expected, rtol=1e-6, atol=1e-9)
        found += fits
    assert len(set(found)) > 1


def test_one_member_is_chosen_uniformly() -> None:
    method = make(pool_size=5)
    counts = Counter(slot.unit for round in range(2000) for slot in method.slots(round))
    assert sum(counts.values()) == 2000
    # The deviation of a count is 18.
    assert all(abs(counts[unit] - 400) < 72 for unit in range(5))


def test_several_members_are_one_of_each_part_of_the_pool() -> None:
    method = make(pool_size=10, models_per_round=3)
    chosen = [[slot.unit for slot in method.slots(round)] for round in range(600)]
    parts = (range(0, 3), range(3, 6), range(6, 10))
    for place, part in enumerate(parts):
        counts = Counter(units[place] for units in chosen)
        assert counts.keys() == set(part)
        assert all(abs(count - 600 / len(part)) < 48 for count in counts.values())
    assert all(len(units) == 3 for units in chosen)


@pytest.mark.parametrize("models", [1, 3])
@pytest.mark.parametrize("batch", [4, 26, 40])
def test_real_batches_cover_every_image_once_an_epoch(models: int, batch: int) -> None:
    """Also where a batch straddles epochs, is one, or is larger than one."""
    method = make(models_per_round=models, real_batch=batch)
    rounds = range(30)
    batches = [method.real_ids(round, slot) for round in rounds for slot in method.slots(round)]
    assert all(len(ids) == batch for ids in batches)
    drawn = torch.cat(batches)
    epochs = [epoch.tolist() for epoch in drawn[: len(drawn) // 26 * 26].split(26)]
    assert all(sorted(epoch) == list(range(26)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_only_the_problems_own_images_are_seen() -> None:
    """Ids of a training part need not be consecutive: the validation part's lie between them."""
    data = toy.data(counts=(6, 8))
    part = toy.Toy(data.images, torch.where(torch.arange(14) % 3 == 0, -1, data.labels))
    method = toy.make("frepo", part, ipc=1, real_batch=5)
    ids = torch.cat([method.real_ids(round, method.slots(round)[0]) for round in range(9)])
    assert set(ids.tolist()) == {i for i in range(14) if i % 3}
