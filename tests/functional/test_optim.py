import math

import pytest
import torch
from safetensors.torch import load, save

from raydd.functional import lamb
from raydd.functional.optim import OptimState, adam_init, adam_step, sgd_init, sgd_step


def start(seed=0):
    gen = torch.Generator().manual_seed(seed)
    tensors = {"a": torch.randn(7, 5, generator=gen), "b": torch.randn(33, generator=gen)}
    grads = [{name: torch.randn(t.shape, generator=gen) for name, t in tensors.items()} for _ in range(5)]
    return tensors, grads


def by_torch(optimiser, tensors, grads, **options):
    params = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    optim = optimiser(params.values(), foreach=False, **options)
    for grad in grads:
        for name, p in params.items():
            p.grad = grad[name].clone()
        optim.step()
    return {name: p.detach() for name, p in params.items()}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 5e-4])
def test_sgd_is_torchs_to_the_bit(momentum, decay):
    tensors, grads = start()
    moved, state = tensors, sgd_init(tensors)
    for grad in grads:
        moved, state = sgd_step(moved, grad, state, 0.01, momentum=momentum, weight_decay=decay)
    expected = by_torch(torch.optim.SGD, tensors, grads, lr=0.01, momentum=momentum, weight_decay=decay)
    assert all(torch.equal(moved[name], expected[name]) for name in tensors)


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_adam_is_torchs_to_the_bit(decay):
    tensors, grads = start()
    moved, state = tensors, adam_init(tensors)
    for grad in grads:
        moved, state = adam_step(moved, grad, state, 3e-4, weight_decay=decay)
    expected = by_torch(torch.optim.Adam, tensors, grads, lr=3e-4, weight_decay=decay)
    assert all(torch.equal(moved[name], expected[name]) for name in tensors)
    assert state.step == 5


def test_sgd_by_hand():
    """Velocity 1, then 0.5 * 1 + 2 = 2.5; the tensor goes 10, 9, 6.5."""
    moved, state = {"x": torch.tensor([10.0])}, sgd_init({})
    for grad in (1.0, 2.0):
        moved, state = sgd_step(moved, {"x": torch.tensor([grad])}, state, 1.0, momentum=0.5)
    assert moved["x"].item() == 6.5


def test_lamb_two_steps_by_hand():
    """Images (3, 4) with gradient (1, -1), then (1, 1); an independent computation in plain numbers."""
    p, m, v = [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]
    for step, grad in enumerate(([1.0, -1.0], [1.0, 1.0]), start=1):
        m = [0.9 * a + 0.1 * g for a, g in zip(m, grad, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, grad, strict=True)]
        u = [a / (1 - 0.9**step) / (math.sqrt(b / (1 - 0.999**step)) + 1e-6) for a, b in zip(m, v, strict=True)]
        ratio = math.hypot(*p) / math.hypot(*u)
        p = [a - 0.1 * ratio * b for a, b in zip(p, u, strict=True)]
        if step == 1:  # |p| = 5, u = (1, -1): the first step is 0.1 * 5 / sqrt(2) in each direction
            assert p == pytest.approx([3 - 0.5 / math.sqrt(2), 4 + 0.5 / math.sqrt(2)], rel=1e-5)
    moved = {"x": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    state = lamb.init(moved)
    for grad in ([1.0, -1.0], [1.0, 1.0]):
        moved, state = lamb.step(moved, {"x": torch.tensor(grad, dtype=torch.float64)}, state, 0.1)
    assert moved["x"].tolist() == pytest.approx(p, rel=1e-12)


def test_trust_ratio_is_not_clipped_and_is_each_tensors_own():
    tensors = {"big": torch.full((100,), 50.0), "small": torch.full((100,), 1e-3)}
    grads = {name: torch.ones(100) for name in tensors}
    moved, _ = lamb.step(tensors, grads, lamb.init(tensors), 0.01)
    # The update is 1 everywhere, so that each tensor moves by 1 % of its norm: 0.5 is a ratio of 50.
    torch.testing.assert_close(moved["big"], torch.full((100,), 49.5), rtol=1e-5, atol=0)
    torch.testing.assert_close(moved["small"], torch.full((100,), 0.99e-3), rtol=1e-5, atol=0)


def test_trust_ratio_of_zero_tensors_is_one():
    tensors = {"at_zero": torch.zeros(3), "still": torch.ones(3)}
    grads = {"at_zero": torch.ones(3), "still": torch.zeros(3)}
    moved, _ = lamb.step(tensors, grads, lamb.init(tensors), 0.01)
    torch.testing.assert_close(moved["at_zero"], torch.full((3,), -0.01), rtol=1e-5, atol=0)
    assert moved["still"].eq(1).all()


@pytest.mark.parametrize(
    ("init", "step"),
    [(sgd_init, lambda *a: sgd_step(*a, momentum=0.9)), (adam_init, adam_step), (lamb.init, lamb.step)],
)
def test_pure_and_resumable(init, step):
    tensors, grads = start()
    kept = {name: t.clone() for name, t in tensors.items()}
    moved, state = tensors, init(tensors)
    half = None
    for i, grad in enumerate(grads):
        if i == 2:
            half = moved, OptimState.from_tensors(load(save(state.tensors())))
        moved, state = step(moved, grad, state, 0.01)
    assert all(torch.equal(tensors[name], kept[name]) for name in tensors)
    again, resumed = half
    assert resumed.step == 2
    for grad in grads[2:]:
        again, resumed = step(again, grad, resumed, 0.01)
    assert all(torch.equal(again[name], moved[name]) for name in moved)


def test_dotted_names_survive_the_flat_form():
    state = adam_init({"blocks.0.weight": torch.ones(2), "step": torch.ones(1)})
    again = OptimState.from_tensors(state.tensors())
    assert again.moments["first"].keys() == {"blocks.0.weight", "step"}
    assert again.step == 0
