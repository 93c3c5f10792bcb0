from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import raydd.methods.dc
from raydd import nets
from raydd.augment import Params, dsa
from raydd.config import DataFacts
from raydd.config.methods.dc import DCConfig, DSAConfig
from raydd.errors import ConfigError
from raydd.methods import Contribution, Method, Tensors
from tests.methods import toy

DATA = toy.data(counts=(9, 7, 8), channels=3)
EXACT = {"rtol": 1e-9, "atol": 1e-11}


def make(name: str = "dc", **changes: Any) -> Method[Any]:
    return toy.make(name, DATA, **{"nets_per_round": 1, "classes_per_slot": 2, **changes})


def images(ipc: int = 2) -> Tensor:
    gen = torch.Generator().manual_seed(5)
    return torch.randn(3 * ipc, *DATA.images.shape[1:], generator=gen, dtype=torch.float64)


def units(method: Method[Any]) -> dict[int, Tensors]:
    return {unit: toy.double(method.unit_state(unit)) for unit in range(method.config.nets_per_round)}


def contributions(method: Method[Any], x_syn: Tensor, round: int = 0) -> list[Contribution]:
    variables = {"x_syn": x_syn}
    states = units(method) if x_syn.dtype == torch.float64 else toy.start(method, DATA).units
    return [
        toy.contribute(method, DATA, round, slot, variables, states, None, x_syn.dtype) for slot in method.slots(round)
    ]


def round_of(method: Method[Any], x_syn: Tensor, round: int = 0) -> tuple[Tensor, list[float]]:
    """Return a round's gradient of the images, and its slots' losses."""
    given = contributions(method, x_syn, round)
    return method.reduce({"x_syn": x_syn}, given)["x_syn"], [c.metrics["loss"] for c in given]


def plain(state: Tensors, norm: str = "instance") -> nn.Sequential:
    """The paper's ConvNet, width 4 and depth 2, of plain modules with a unit's numbers."""
    layers: list[nn.Module] = []
    for channels in (3, 4):
        normalise = nn.BatchNorm2d(4) if norm == "batch" else nn.GroupNorm(4, 4)
        layers += [nn.Conv2d(channels, 4, 3, padding=1), normalise, nn.ReLU(), nn.AvgPool2d(2)]
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).to(state["params.classifier.weight"].dtype)
    names = {name: name.replace("classifier", "9").replace("blocks.", "") for name in state}
    module.load_state_dict({names[n].partition(".")[2]: tensor for n, tensor in state.items()})
    return module


def paper_distance(g_real: list[Tensor], g_syn: list[Tensor], kind: str) -> Tensor:
    if kind == "layerwise":
        units = [(a[i], b[i]) for a, b in zip(g_real, g_syn, strict=True) if a.ndim > 1 for i in range(len(a))]
        return sum((1 - (a * b).sum() / (a.norm() * b.norm() + 1e-6) for a, b in units), torch.zeros(()))
    a, b = (torch.cat([t.flatten() for t in g]) for g in (g_real, g_syn))
    return (a - b).pow(2).sum() if kind == "mse" else 1 - a @ b / (a.norm() * b.norm() + 1e-6)


def expected(
    method: Method[Any], x_syn: Tensor, module: nn.Module, round: int = 0, unit: int = 0, drawn: Any = None
) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient by the formula of the paper, class by class."""
    x_syn = x_syn.clone().requires_grad_()
    loss = torch.zeros(())
    for c, mine in enumerate(x_syn.chunk(3)):
        theirs = DATA.images[method.problem.class_ids("real", c, method.config.real_batch, round, unit)].double()
        if drawn is not None:
            mine, theirs = dsa.apply(mine, drawn[c]), dsa.apply(theirs, drawn[c])
        both = []
        for x in (theirs, mine):
            ce = F.cross_entropy(module(x), torch.full((len(x),), c))
            both.append(torch.autograd.grad(ce, list(module.parameters()), create_graph=True))
        loss = loss + paper_distance([g.detach() for g in both[0]], list(both[1]), method.config.distance)
    loss.backward()
    assert x_syn.grad is not None
    return loss.detach(), x_syn.grad


@pytest.mark.parametrize(("distance", "chunk"), [("layerwise", 100), ("layerwise", 3), ("mse", 3), ("cos", 3)])
def test_loss_and_gradient_equal_plain_modules(distance: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raydd.methods.dc, "CHUNK", chunk)
    method = make(distance=distance, classes_per_slot="all")
    loss, gradient = expected(method, images(), plain(units(method)[0]))
    got, losses = round_of(method, images())
    torch.testing.assert_close(got, gradient, **EXACT)
    assert losses == [pytest.approx(loss.item() / 3, rel=1e-6)]


def test_augmentation_is_siamese_and_drawn_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both batches of a class get the same operation and the same parameters; classes and rounds have their own."""
    calls: list[tuple[int, Params]] = []

    def spy(x: Tensor, params: Params) -> Tensor:
        calls.append((len(x), params))
        return genuine(x, params)

    genuine = dsa.apply
    method = make("dsa", classes_per_slot="all", real_batch=7)
    monkeypatch.setattr(dsa, "apply", spy)
    got, losses = round_of(method, images(), round=3)
    monkeypatch.undo()
    assert [count for count, _ in calls] == [7, 2] * 3
    assert all(real is mine for (_, real), (_, mine) in zip(calls[::2], calls[1::2], strict=True))
    drawn = [params for _, params in calls[::2]]
    assert all(params.count == 1 for params in drawn)
    assert len({repr(params) for params in drawn}) == 3
    loss, gradient = expected(method, images(), plain(units(method)[0]), round=3, drawn=drawn)
    torch.testing.assert_close(got, gradient, **EXACT)
    assert losses == [pytest.approx(loss.item() / 3, rel=1e-6)]


def test_dc_augments_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsa, "draw", None)
    toy.run(lambda: make(), DATA, 2)


def test_several_networks_are_averaged() -> None:
    method = make(nets_per_round=2)
    assert [(slot.unit, slot.classes) for slot in method.slots_all] == [
        (0, (0, 1)),
        (0, (2,)),
        (1, (0, 1)),
        (1, (2,)),
    ]
    states = units(method)
    both = [expected(method, images(), plain(states[unit]), unit=unit) for unit in (0, 1)]
    got, losses = round_of(method, images())
    torch.testing.assert_close(got, (both[0][1] + both[1][1]) / 2, **EXACT)
    assert 2 * losses[0] + losses[1] == pytest.approx(both[0][0].item(), rel=1e-6)
    assert 2 * losses[2] + losses[3] == pytest.approx(both[1][0].item(), rel=1e-6)
    one, other = (method.real_ids(0, method.slots_all[index]) for index in (0, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["dc", "dsa"])
def test_the_block_size_changes_no_bit(name: str) -> None:
    whole, _ = round_of(make(name, classes_per_slot="all"), images().float())
    for size in (1, 2):
        assert torch.equal(round_of(make(name, classes_per_slot=size), images().float())[0], whole)


def test_networks_that_share_workers_give_the_same_bits_after_a_resume() -> None:
    """Two networks of three blocks over three workers: every worker has slots of one or two, each held more than once."""
    grey = toy.data(counts=(9, 7, 8))
    for data in (DATA, grey):
        build = partial(toy.make, "dc", data, nets_per_round=2, rounds=5)
        alone = toy.run(build, data, 5)
        stopped = toy.run(build, data, 2, workers=3)
        assert toy.same_bits(toy.run(build, data, 5, state=stopped.stored(), workers=2), alone)


def test_theta_trains_as_plain_sgd_on_the_new_set() -> None:
    """One batch an epoch, so that the order of the images does not matter."""
    method = make(outer_loop=3, inner_loop=4, net_batch=256, lr_net=0.1)
    state = units(method)[0]
    module, y = plain(state).train(), torch.tensor([0, 0, 1, 1, 2, 2])
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(4):
        optimiser.zero_grad()
        F.cross_entropy(module(images()), y).backward()
        optimiser.step()
    after = toy.pure(method.after_update, 0, 0, state, {"x_syn": images()})
    for name, value in plain(after).state_dict().items():
        torch.testing.assert_close(value, module.state_dict()[name], **EXACT)


def test_epochs_are_shuffled_batches_and_every_step_of_dsa_is_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Params] = []
    seen: list[Tensor] = []

    def spy(x: Tensor, params: Params) -> Tensor:
        drawn.append(params)
        seen.append(x)
        return x

    monkeypatch.setattr(dsa, "apply", spy)
    method = make("dsa", outer_loop=2, inner_loop=3, net_batch=4)
    method.after_update(0, 0, method.unit_state(0), {"x_syn": images().float()})
    assert [params.count for params in drawn] == [4, 2] * 3
    epochs = [torch.cat(seen[i : i + 2]) for i in (0, 2, 4)]
    orders = [[(images().float() == x).all((1, 2, 3)).nonzero().item() for x in epoch] for epoch in epochs]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_a_fresh_network_after_the_last_step_of_an_iteration() -> None:
    method = make(outer_loop=3)
    state, variables = method.unit_state(0), {"x_syn": images().float()}
    first = state
    for round in range(2):
        state = method.after_update(round, 0, state, variables)
        assert not toy.same_bits(state, first)
        assert state["params.classifier.weight"].ne(first["params.classifier.weight"]).any()
    second = method.after_update(2, 0, state, variables)
    untrained = nets.initialise(method.net, method.problem.generator("net", 0, 1)).tensors()
    assert toy.same_bits(second, untrained)
    assert not toy.same_bits(method.after_update(5, 0, second, variables), second)
    assert not toy.same_bits(make(nets_per_round=2).unit_state(1), first)


def test_at_one_image_a_class_no_network_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raydd.methods.dc, "train", None)
    method = make(ipc=1, outer_loop="auto", inner_loop="auto")
    toy.run(lambda: method, DATA, 3)


def test_batchnorm_takes_frozen_statistics_of_real_images() -> None:
    data = toy.data(counts=(20, 19, 5), channels=3)
    method = toy.make("dc", data, net={"norm": "batch"}, nets_per_round=1, classes_per_slot="all", real_batch=6)
    (slot,) = method.slots(4)
    ids = method.real_ids(4, slot)
    # Six of each class but for the last, which has five; then for the statistics 16, 16 and five.
    assert data.labels[ids].tolist() == [0] * 6 + [1] * 6 + [2] * 5 + [0] * 16 + [1] * 16 + [2] * 5
    assert len(set(ids[17:].tolist())) == 37
    state = units(method)[0]
    module = plain(state, "batch").train()
    module(data.images[ids[17:]].double())
    module.eval()
    assert module[1].running_mean.abs().sum() > 0
    x_syn = images().requires_grad_()
    loss = torch.zeros(())
    for c, mine in enumerate(x_syn.chunk(3)):
        theirs = data.images[ids[:17]][data.labels[ids[:17]] == c].double()
        both = [
            torch.autograd.grad(
                F.cross_entropy(module(x), torch.full((len(x),), c)), list(module.parameters()), create_graph=True
            )
            for x in (theirs, mine)
        ]
        loss = loss + paper_distance([g.detach() for g in both[0]], list(both[1]), "layerwise")
    loss.backward()
    variables = {"x_syn": images()}
    given = toy.contribute(method, data, 4, slot, variables, {0: state}, None, torch.float64)
    torch.testing.assert_close(given.gradients["x_syn"], x_syn.grad, **EXACT)
    assert given.metrics["loss"] == pytest.approx(loss.item() / 3, rel=1e-6)


@pytest.mark.parametrize("name", ["dc", "dsa"])
def test_with_batchnorm_too_the_size_of_a_block_changes_no_bit(name: str) -> None:
    def run(size: int | str) -> toy.State:
        options = {"net": {"norm": "batch"}, "classes_per_slot": size, "outer_loop": 2, "inner_loop": 1}
        return toy.run(partial(make, name, **options), DATA, 5)

    assert run(1).variables["x_syn"].isfinite().all()
    for size in (2, "all"):
        assert toy.same_bits([run(size).variables, run(size).units], [run(1).variables, run(1).units])


def test_batchnorms_own_statistics_follow_the_training() -> None:
    method = make(net={"norm": "batch"}, classes_per_slot="all", outer_loop=2, inner_loop=1)
    state = method.unit_state(0)
    after = method.after_update(0, 0, state, {"x_syn": images().float()})
    assert after["buffers.blocks.1.num_batches_tracked"] == 1
    assert after["buffers.blocks.1.running_mean"].abs().sum() > 0


def test_real_images_are_drawn_a_class_whatever_its_block() -> None:
    one, two = make(classes_per_slot=1, real_batch=4), make(classes_per_slot=2, real_batch=4)
    apart = torch.cat([one.real_ids(7, slot) for slot in one.slots(7)])
    assert torch.equal(apart, torch.cat([two.real_ids(7, slot) for slot in two.slots(7)]))
    assert not torch.equal(apart, torch.cat([one.real_ids(8, slot) for slot in one.slots(8)]))
    assert DATA.labels[apart].tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_momentum_by_hand_over_two_rounds() -> None:
    method = make(lr_syn=2.0, momentum_syn=0.5)
    start = {"x_syn": torch.tensor([1.0, 2.0])}
    x1, state = method.update(0, start, method.optimiser(start), {"x_syn": torch.tensor([0.5, -1.0])})
    x2, _ = method.update(1, x1, state, {"x_syn": torch.tensor([1.0, 1.0])})
    assert x1["x_syn"].tolist() == [0.0, 4.0]
    assert x2["x_syn"].tolist() == [-2.5, 3.0]


def test_dc_starts_from_noise_and_dsa_from_real_images() -> None:
    dc, siamese = make("dc", ipc=3), make("dsa", ipc=3)
    x_real = DATA.images[siamese.init_ids()]
    assert torch.equal(siamese.init(x_real)["x_syn"], x_real)
    noise = dc.init(x_real)["x_syn"]
    assert noise.shape == (9, 3, 8, 8)
    assert noise.mean().abs() < 0.1
    assert abs(noise.std().item() - 1) < 0.05
    assert dc.distilled({"x_syn": noise})["labels"].tolist() == [0] * 3 + [1] * 3 + [2] * 3


FACTS = DataFacts(name="cifar10", channels=3, size=32, num_classes=10, smallest_class=5000)


@pytest.mark.parametrize(
    ("ipc", "loops"),
    [
        # The authors' table.
        (1, (1, 1)),
        (10, (10, 50)),
        (20, (20, 25)),
        (30, (30, 20)),
        (40, (40, 15)),
        (50, (50, 10)),
        # The entry nearest by ratio: 3 is three times 1 and a bit more than a third of 10, 4 nearer to 10; then beyond it.
        (3, (1, 1)),
        (4, (10, 50)),
        (15, (20, 25)),
        (100, (50, 10)),
    ],
)
def test_loops_and_rounds_by_ipc(ipc: int, loops: tuple[int, int]) -> None:
    for config in (DCConfig(ipc=ipc), DSAConfig(ipc=ipc)):
        resolved = config.resolved(FACTS)
        assert (resolved.outer_loop, resolved.inner_loop) == loops
        assert resolved.rounds == 1000 * loops[0]
        assert resolved.resolved(FACTS) == resolved


def test_loops_by_data_set_and_by_hand() -> None:
    cifar100 = DataFacts(name="cifar100", channels=3, size=32, num_classes=100, smallest_class=500)
    siamese = DSAConfig(ipc=50).resolved(cifar100)
    assert (siamese.outer_loop, siamese.inner_loop, siamese.rounds) == (10, 10, 10_000)
    assert DCConfig(ipc=50).resolved(cifar100).outer_loop == 50
    own = DCConfig(ipc=10, outer_loop=4, inner_loop=0, rounds=7).resolved(FACTS)
    assert (own.outer_loop, own.inner_loop, own.rounds) == (4, 0, 7)


def test_papers_defaults() -> None:
    dc, siamese = DCConfig().resolved(FACTS), DSAConfig().resolved(FACTS)
    assert (dc.init, siamese.init) == ("noise", "real")
    assert (dc.default_protocol, siamese.default_protocol) == ("dc", "dsa")
    assert (dc.lr_syn, dc.momentum_syn, dc.real_batch, dc.lr_net, dc.net_batch) == (0.1, 0.5, 256, 0.01, 256)
    assert siamese.augment == "color_crop_cutout_flip_scale_rotate"
    digits = DataFacts(name="svhn", channels=3, size=32, num_classes=10, smallest_class=4659)
    assert DSAConfig().resolved(digits).augment == "color_crop_cutout_scale_rotate"
    assert DSAConfig(augment=None).resolved(FACTS).augment is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes_per_slot": 0}, "classes_per_slot must be >= 1 or all, got 0"),
        ({"outer_loop": 0}, "outer_loop must be >= 1 and method.inner_loop >= 0, or auto, got 0 and 1"),
        ({"inner_loop": -1}, "got 1 and -1"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DCConfig(**changes).resolved(FACTS)
