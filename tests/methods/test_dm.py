from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydd.augment import Params, dsa
from raydd.methods import Method, Tensors
from raydd.nets import NetState
from tests.methods import toy

DATA = toy.data(counts=(9, 7, 8, 9), channels=3)


def make(**changes: Any) -> Method[Any]:
    return toy.make("dm", DATA, **{"classes_per_slot": 2, "augment": None, **changes})


def images(ipc: int = 2) -> Tensor:
    gen = torch.Generator().manual_seed(5)
    return torch.randn(4 * ipc, *DATA.images.shape[1:], generator=gen)


def round_of(method: Method[Any], x_syn: Tensor, round: int = 0) -> tuple[Tensor, list[float]]:
    """Return a round's gradient of the images, and its slots' losses."""
    shared = method.shared_state(round)
    given = [toy.contribute(method, DATA, round, slot, {"x_syn": x_syn}, {}, shared) for slot in method.slots(round)]
    assert all(c.gradients["x_syn"].is_contiguous() for c in given)
    return method.reduce({"x_syn": x_syn}, given)["x_syn"], [c.metrics["loss"] for c in given]


def plain_features(embedding: NetState, norm: str = "instance") -> nn.Module:
    """The paper's ConvNet without its classifier, width 4 and depth 2, of plain modules."""
    layers: list[nn.Module] = []
    for channels in (3, 4):
        normalise = nn.BatchNorm2d(4) if norm == "batch" else nn.GroupNorm(4, 4)
        layers += [nn.Conv2d(channels, 4, 3, padding=1), normalise, nn.ReLU(), nn.AvgPool2d(2)]
    module = nn.Sequential(*layers, nn.Flatten())
    weights = {n.removeprefix("blocks."): t for n, t in (embedding.params | embedding.buffers).items()}
    module.load_state_dict({name: t for name, t in weights.items() if not name.startswith("classifier")})
    return module.train()


def expected(method: Method[Any], x_syn: Tensor, drawn: dict[int, Params], round: int = 0) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient by the formula of the paper, class by class."""
    features = plain_features(method.shared_state(round))
    x_syn = x_syn.clone().requires_grad_()
    loss = torch.zeros(())
    for c, mine in enumerate(x_syn.chunk(4)):
        theirs = DATA.images[method.problem.class_ids("real", c, method.config.real_batch, round)]
        if drawn:
            mine, theirs = dsa.apply(mine, drawn[c]), dsa.apply(theirs, drawn[c])
        loss = loss + ((features(theirs).detach().mean(0) - features(mine).mean(0)) ** 2).sum()
    loss.backward()
    assert x_syn.grad is not None
    return loss.detach(), x_syn.grad


def test_loss_and_gradient_equal_plain_modules() -> None:
    method = make()
    loss, gradient = expected(method, images(), {})
    got, losses = round_of(method, images())
    torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6)
    assert sum(losses) * 2 == pytest.approx(loss.item(), rel=1e-5)


def test_the_loss_by_hand() -> None:
    """An embedding that passes pixels through: depth 1, no norm, no pooling, and a centre tap of 1."""
    data = toy.Toy(torch.tensor([1.0, 5.0, 2.0, 2.0]).view(4, 1, 1, 1).expand(4, 1, 4, 4), torch.tensor([0, 0, 1, 1]))
    net = {"width": 1, "depth": 1, "norm": "none", "pool": "none"}
    method = toy.make("dm", data, net=net, ipc=1, classes_per_slot=2, augment=None)
    shared = method.shared_state(0)
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 1, 1] = 1
    shared.params.update({"blocks.0.weight": kernel, "blocks.0.bias": torch.zeros(1)})
    x_syn = torch.ones(2, 1, 4, 4)
    (slot,) = method.slots(0)
    given = toy.contribute(method, data, 0, slot, {"x_syn": x_syn}, {}, shared)
    # 16 features; means are 3 and 2 of the real images, 1 and 1 of the synthetic ones: 16 * 4 + 16 * 1 over two classes.
    assert given.metrics["loss"] == pytest.approx((64 + 16) / 2)
    torch.testing.assert_close(given.gradients["x_syn"][0], torch.full((1, 4, 4), -4.0))
    torch.testing.assert_close(given.gradients["x_syn"][1], torch.full((1, 4, 4), -2.0))


def test_augmentation_is_siamese_and_drawn_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both batches of a class get the same operation and the same parameters; classes and rounds have their own."""
    calls: list[tuple[int, Params]] = []

    def spy(x: Tensor, params: Params) -> Tensor:
        calls.append((len(x), params))
        return genuine(x, params)

    genuine = dsa.apply
    method = make(augment="color_crop_cutout_flip_scale_rotate", real_batch=7)
    monkeypatch.setattr(dsa, "apply", spy)
    got, losses = round_of(method, images(), round=3)
    monkeypatch.undo()
    assert [count for count, _ in calls] == [7, 2] * 4
    assert all(real.op == mine.op for (_, real), (_, mine) in zip(calls[::2], calls[1::2], strict=True))
    drawn = {c: params for c, (_, params) in enumerate(calls[::2])}
    assert all(toy.same_bits(calls[2 * c][1].values, calls[2 * c + 1][1].values) for c in range(4))
    assert all(params.count == 1 for params in drawn.values())
    assert len({repr(params) for params in drawn.values()}) == 4
    loss, gradient = expected(method, images(), drawn, round=3)
    torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-6)
    assert sum(losses) * 2 == pytest.approx(loss.item(), rel=1e-5)


def test_every_operation_comes_up() -> None:
    method, seen = make(augment="color_crop_cutout_flip_scale_rotate"), set()
    for round in range(40):
        gen = method.problem.generator("augment", round, 0)
        seen.add(dsa.draw(method.config.augment, gen, None, method.problem.shape).op)
    assert seen == {"color", "crop", "cutout", "flip", "scale", "rotate"}


@pytest.mark.parametrize("augment", [None, "auto"])
@pytest.mark.parametrize("size", [1, 3, "all"])
def test_the_block_size_changes_nothing_but_rounding(size: int | str, augment: str | None) -> None:
    whole, _ = round_of(make(classes_per_slot=2, augment=augment), images())
    got, losses = round_of(make(classes_per_slot=size, augment=augment), images())
    assert len(losses) == {1: 4, 3: 2, "all": 1}[size]
    torch.testing.assert_close(got, whole, rtol=1e-5, atol=1e-6)


def test_momentum_by_hand_over_two_rounds() -> None:
    """v1 = g1, x1 = x0 - lr v1; v2 = m v1 + g2, x2 = x1 - lr v2."""
    method = make(lr_syn=2.0, momentum_syn=0.5)
    start = {"x_syn": torch.tensor([1.0, 2.0])}
    g1, g2 = {"x_syn": torch.tensor([0.5, -1.0])}, {"x_syn": torch.tensor([1.0, 1.0])}
    x1, state = method.update(0, start, method.optimiser(start), g1)
    x2, _ = method.update(1, x1, state, g2)
    assert x1["x_syn"].tolist() == [0.0, 4.0]
    assert x2["x_syn"].tolist() == [-2.5, 3.0]


def test_batchnorm_sees_all_classes_in_one_batch() -> None:
    method = make(classes_per_slot="all", net={"norm": "batch"})
    shared = method.shared_state(0)
    module = plain_features(shared, "batch")
    ids = [method.problem.class_ids("real", c, method.config.real_batch, 0) for c in range(4)]
    x_syn = images().requires_grad_()
    real = [f.detach().mean(0) for f in module(DATA.images[torch.cat(ids)]).split([len(i) for i in ids])]
    mine = [f.mean(0) for f in module(x_syn).chunk(4)]
    loss = torch.stack([((a - b) ** 2).sum() for a, b in zip(real, mine, strict=True)]).sum()
    loss.backward()
    got, losses = round_of(method, images())
    assert x_syn.grad is not None
    torch.testing.assert_close(got, x_syn.grad, rtol=1e-4, atol=1e-6)
    assert losses == [pytest.approx(loss.item() / 4, rel=1e-5)]
    apart = torch.stack([((module(x).mean(0) - b) ** 2).sum() for x, b in zip(images().chunk(4), real, strict=True)])
    assert apart.sum().item() != pytest.approx(loss.item(), rel=1e-2)


@pytest.mark.parametrize("counts", [(3, 9), (9, 3)])
def test_a_class_with_few_images_gives_all_of_them(counts: tuple[int, int]) -> None:
    data = toy.data(counts=counts)
    method = toy.make("dm", data, ipc=1, real_batch=5, classes_per_slot=2)
    (slot,) = method.slots(0)
    rounds = [method.real_ids(round, slot).tolist() for round in range(20)]
    small, large = counts.index(3), counts.index(9)
    for ids in rounds:
        of_class = [[i for i in ids if int(data.labels[i]) == c] for c in (0, 1)]
        assert ids == of_class[0] + of_class[1]
        assert sorted(of_class[small]) == data.by_class[small].tolist()
        assert len(set(of_class[large])) == len(of_class[large]) == 5
    assert {i for ids in rounds for i in ids} == set(range(12))


def test_a_class_draws_the_same_images_whatever_its_block() -> None:
    one, two = make(classes_per_slot=1, real_batch=4), make(classes_per_slot=2, real_batch=4)
    apart = torch.cat([one.real_ids(7, slot) for slot in one.slots(7)])
    assert torch.equal(apart, torch.cat([two.real_ids(7, slot) for slot in two.slots(7)]))


def test_every_round_has_a_fresh_network() -> None:
    method = make()
    first, again, other = method.shared_state(0), make().shared_state(0), method.shared_state(1)
    assert toy.same_bits(first, again)
    assert not torch.equal(first.params["blocks.0.weight"], other.params["blocks.0.weight"])


def test_real_images_leave_nothing_on_the_tape() -> None:
    """Nothing that is as long as a batch of real images is kept for the backward pass."""
    method = make(classes_per_slot="all", real_batch=7, augment="color")
    shared, (slot,) = method.shared_state(0), method.slots(0)
    lengths: set[int] = set()

    def note(tensor: Tensor) -> Tensor:
        lengths.add(len(tensor) if tensor.ndim > 1 else 0)
        return tensor

    ids = method.real_ids(0, slot)
    variables: Tensors = {"x_syn": images()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        method.contribution(0, slot, variables, {}, shared, DATA.images[ids], DATA.labels[ids])
    assert 8 in lengths
    assert not lengths & {7, 28}


def test_starts_from_real_images_of_each_class_or_from_noise() -> None:
    method = make(ipc=3)
    ids = method.init_ids()
    assert DATA.labels[ids].tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert len(set(ids.tolist())) == 12
    assert torch.equal(method.init(DATA.images[ids])["x_syn"], DATA.images[ids])
    noise = make(ipc=3, init="noise").init(DATA.images[ids])["x_syn"]
    assert noise.shape == (12, 3, 8, 8)
    assert noise.mean().abs() < 0.1
    assert abs(noise.std().item() - 1) < 0.05
