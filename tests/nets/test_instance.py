from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raydd.nets.instance import InstanceNorm

SHAPE = (3, 4, 5, 6)
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def pair() -> tuple[InstanceNorm, nn.GroupNorm]:
    """Return ours and PyTorch's with the same random numbers, float64."""
    gen = torch.Generator().manual_seed(1)
    ours, theirs = InstanceNorm(4).double(), nn.GroupNorm(4, 4).double()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.copy_(torch.randn(4, generator=gen)))
    return ours, theirs


def images(memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 3
    return x.contiguous(memory_format=memory_format).requires_grad_()


def derivatives(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output, its first derivatives in a random direction, and second ones in another."""
    gen = torch.Generator().manual_seed(3)
    inputs = [x, *module.parameters()]
    y = module(x)
    first = torch.autograd.grad(y.tanh().sum(), inputs, create_graph=True)
    directions = [torch.randn(g.shape, generator=gen, dtype=torch.float64) for g in first]
    return [y, *first, *torch.autograd.grad(first, inputs, directions)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_is_group_norm_of_one_channel_a_group(memory_format: torch.memory_format) -> None:
    (ours, theirs), x = pair(), images(memory_format)
    for mine, other in zip(derivatives(ours, x), derivatives(theirs, x), strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(mine, other, **EXACT)


def test_values_by_hand() -> None:
    module = InstanceNorm(1)
    with torch.no_grad():
        module.weight.fill_(2)
        module.bias.fill_(5)
    x = torch.tensor([1.0, 3.0, 1.0, 3.0]).view(1, 1, 2, 2).requires_grad_()
    y = module(x)
    torch.testing.assert_close(y.flatten(), torch.tensor([3.0, 7.0, 3.0, 7.0]), rtol=0, atol=1e-4)
    (by_x,) = torch.autograd.grad(y[0, 0, 0, 0], x)
    # w r (g - mean(g) - h mean(g h)) with g = (1, 0, 0, 0), h = (-1, 1, -1, 1), r = 1: 2 (3/4 - 1/4, -1/4 + 1/4, ...).
    torch.testing.assert_close(by_x.flatten(), torch.tensor([1.0, 0.0, -1.0, 0.0]), rtol=0, atol=1e-4)


def test_finite_differences_of_both_orders() -> None:
    x = images()[:2, :, :2, :3].detach().requires_grad_()
    module = pair()[0]
    inputs = (x, *(p.detach().clone().requires_grad_() for p in module.parameters()))

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


def test_frozen_affine_part_and_maps_of_one_value() -> None:
    module = pair()[0].requires_grad_(False)
    x = images()[:, :, :1, :1].detach().requires_grad_()
    y = module(x)
    torch.testing.assert_close(y, module.bias[:, None, None].expand(y.shape))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))


def test_third_derivatives() -> None:
    results = []
    for module in pair():
        x = images()
        (first,) = torch.autograd.grad(module(x).tanh().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.pow(3).sum(), x, create_graph=True)
        results.append(torch.autograd.grad(second.sin().sum(), [x, module.weight, module.bias]))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)


def by_func(loss: Callable[..., Tensor]) -> Callable[..., dict[str, Tensor]]:
    return torch.func.vmap(torch.func.grad(loss))


def by_autograd(loss: Callable[..., Tensor]) -> Callable[..., dict[str, Tensor]]:
    def gradients(params: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        params = {name: value.clone().requires_grad_() for name, value in params.items()}
        values = torch.func.vmap(loss)(params, x).sum()
        return dict(zip(params, torch.autograd.grad(values, list(params.values())), strict=True))

    return gradients


@pytest.mark.parametrize("way", [by_func, by_autograd])
def test_stacked_networks(way: Callable[..., Callable[..., dict[str, Tensor]]]) -> None:
    """Three networks under vmap have the gradients of each one by itself."""
    gen = torch.Generator().manual_seed(4)
    params = {name: torch.randn(3, 4, generator=gen, dtype=torch.float64) for name in ("weight", "bias")}
    x = torch.randn(3, *SHAPE, generator=gen, dtype=torch.float64)
    stacked, single = pair()

    def loss_of(module: nn.Module) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
        return lambda params, x: torch.func.functional_call(module, params, (x,)).tanh().square().sum()

    got = way(loss_of(stacked))(params, x)
    for i in range(3):
        alone = {name: value[i].clone().requires_grad_() for name, value in params.items()}
        expected = torch.autograd.grad(loss_of(single)(alone, x[i]), list(alone.values()))
        for name, value in zip(alone, expected, strict=True):
            torch.testing.assert_close(got[name][i], value, **EXACT)
