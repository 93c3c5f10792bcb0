from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raydd import nets
from raydd.config import NETS, DataFacts
from raydd.functional.losses import cross_entropy
from raydd.functional.unroll import Inner, outer, replay, train
from raydd.seeding import generator
from tests.tape import most_held

CLASSES, SIZE = 3, 8
FACTS = DataFacts(name="toy", channels=2, size=SIZE, num_classes=CLASSES, smallest_class=9)


class Case:
    """A small network, T batches, real images, and both ways to the gradient."""

    def __init__(self, steps: int, momentum: float, norm: str = "instance", soft: bool = False) -> None:
        gen = generator(0, "unroll")
        net = NETS["convnet"].model_validate({"width": 4, "depth": 2, "norm": norm}).resolved(FACTS)
        self.module = nets.build(net, (2, SIZE, SIZE), CLASSES)
        self.state = nets.initialise(self.module, gen).to(dtype=torch.float64).channels_last()
        self.x = [torch.randn(6, 2, SIZE, SIZE, generator=gen, dtype=torch.float64) for _ in range(steps)]
        hard = torch.arange(6) % CLASSES
        noise = torch.rand(steps, 6, CLASSES, generator=gen, dtype=torch.float64)
        self.y = [F.one_hot(hard, CLASSES) + 0.1 * part if soft else hard for part in noise]
        self.rates = [0.1 + 0.02 * step for step in range(steps)]
        self.momentum = momentum
        self.x_real = torch.randn(7, 2, SIZE, SIZE, generator=gen, dtype=torch.float64)
        self.y_real = torch.arange(7) % CLASSES

    def inner(self, keep_on: torch.device | None = None) -> Inner:
        return Inner(
            module=self.module,
            batch=lambda step: (self.x[step], self.y[step]),
            rates=self.rates,
            momentum=self.momentum,
            keep_on=keep_on,
        )

    def replayed(self, chunk: int = 100) -> tuple[Tensor, list[Tensor]]:
        inner = self.inner()
        kept = train(inner, self.state)
        loss, adjoint = outer(self.module, kept[-1], self.state.buffers, self.x_real, self.y_real, chunk)
        given = list(replay(inner, kept, self.state.buffers, adjoint))
        assert [g.step for g in given] == list(reversed(range(len(self.x))))
        given.reverse()
        rates = [torch.stack([g.rate for g in given])] if not self.momentum else []
        labels = [g.y for g in given] if self.y[0].is_floating_point() else []
        return loss, [*(g.x for g in given), *labels, *rates]

    def unrolled(self) -> tuple[Tensor, list[Tensor]]:
        """Keep the tape of all steps, and let autograd do the rest."""
        x = [value.clone().requires_grad_() for value in self.x]
        soft = self.y[0].is_floating_point()
        y = [value.clone().requires_grad_() if soft else value for value in self.y]
        rates = torch.tensor(self.rates, dtype=torch.float64, requires_grad=True)
        weights = {name: value.clone().requires_grad_() for name, value in self.state.params.items()}
        buffers = {name: value.clone() for name, value in self.state.buffers.items()}
        velocity = {name: torch.zeros_like(value) for name, value in weights.items()}
        for step in range(len(x)):
            loss = cross_entropy(nets.apply(self.module, weights, buffers, x[step], train=True), y[step])
            gradient = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            velocity = {n: self.momentum * v + g for (n, v), g in zip(velocity.items(), gradient, strict=True)}
            weights = {name: value - rates[step] * velocity[name] for name, value in weights.items()}
        loss = cross_entropy(nets.apply(self.module, weights, buffers, self.x_real, train=True), self.y_real)
        wanted = [*x, *(y if soft else []), *([rates] if not self.momentum else [])]
        return loss.detach(), list(torch.autograd.grad(loss, wanted))


@pytest.mark.parametrize("norm", ["instance", "none", "batch"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(("soft", "chunk"), [(False, 4), (True, 100), (True, 4)])
def test_replay_is_the_gradient_of_the_full_unroll(
    momentum: float, norm: str, soft: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydd.functional.unroll.CHUNK", chunk)
    case = Case(4, momentum, norm, soft)
    (loss, replayed), (expected, unrolled) = case.replayed(), case.unrolled()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert len(replayed) == len(unrolled)
    for mine, theirs in zip(replayed, unrolled, strict=True):
        assert theirs.abs().max() > 1e-5
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-13)


def test_one_step_of_a_linear_model_by_hand() -> None:
    """Logits (0, w x), one step: w1 = w0 - eta g, g = (p - 1) x for the image x of class 1."""

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.empty(1))

        def forward(self, x: Tensor) -> Tensor:
            z = x.flatten(1) * self.w
            return torch.cat([torch.zeros_like(z), z], 1)

    w, x, eta, real = 0.3, 2.0, 0.5, -1.5
    inner = Inner(
        module=Line(),
        batch=lambda step: (torch.full((1, 1, 1, 1), x, dtype=torch.float64), torch.tensor([1])),
        rates=[eta],
    )
    kept = train(inner, nets.NetState({"w": torch.tensor([w], dtype=torch.float64)}, {}))
    p = 1 / (1 + torch.tensor(-w * x, dtype=torch.float64).exp().item())
    g = (p - 1) * x
    assert kept[1]["w"].item() == pytest.approx(w - eta * g)
    x_real = torch.full((1, 1, 1, 1), real, dtype=torch.float64)
    _, adjoint = outer(inner.module, kept[1], {}, x_real, torch.tensor([0]), 1)
    q = 1 / (1 + torch.tensor(-kept[1]["w"].item() * real, dtype=torch.float64).exp().item())
    a = q * real  # the derivative of -log(1 - q) by w
    assert adjoint["w"].item() == pytest.approx(a)
    (given,) = replay(inner, kept, {}, adjoint)
    # dg/dx = (p - 1) + x p (1 - p) w, and w1 falls by eta of it.
    assert given.x.item() == pytest.approx(-eta * a * ((p - 1) + x * p * (1 - p) * w))
    assert given.rate is not None
    assert given.rate.item() == pytest.approx(-a * g)
    assert given.y is None


def test_training_is_sgd_as_torch_has_it() -> None:
    case = Case(5, 0.9)
    case.rates = [0.05] * 5
    kept = train(case.inner(), case.state)
    weights = {name: value.clone().requires_grad_() for name, value in case.state.params.items()}
    optimiser = torch.optim.SGD(weights.values(), lr=0.05, momentum=0.9)
    for x, y in zip(case.x, case.y, strict=True):
        optimiser.zero_grad()
        cross_entropy(nets.apply(case.module, weights, {}, x, train=True), y).backward()
        optimiser.step()
    assert all(torch.allclose(kept[-1][name], value, rtol=1e-12, atol=1e-14) for name, value in weights.items())
    assert len(kept) == 6
    assert all(torch.equal(kept[0][name], value) for name, value in case.state.params.items())


def test_outer_loss_in_chunks_is_the_same() -> None:
    case = Case(1, 0.0)
    whole = outer(case.module, case.state.params, {}, case.x_real, case.y_real, 100)
    parts = outer(case.module, case.state.params, {}, case.x_real, case.y_real, 3)
    assert parts[0].item() == pytest.approx(whole[0].item(), rel=1e-12)
    assert all(torch.allclose(parts[1][name], value, rtol=1e-10, atol=1e-15) for name, value in whole[1].items())


def test_keeping_weights_elsewhere_changes_nothing() -> None:
    case = Case(3, 0.9)
    here, there = (train(case.inner(device), case.state) for device in (None, torch.device("cpu")))
    assert all(torch.equal(a[n], b[n]) for a, b in zip(here, there, strict=True) for n in a)


def peak(steps: int, *, unrolled: bool) -> int:
    case = Case(steps, 0.9)
    return most_held(case.unrolled if unrolled else case.replayed)


def test_the_tape_does_not_grow_with_the_number_of_steps() -> None:
    assert peak(3, unrolled=False) == peak(9, unrolled=False)
    assert peak(9, unrolled=True) > 2 * peak(3, unrolled=True)
