"""On a GPU, in this process and without Ray: the same bits every time and after an interruption, close to the processor's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import raydd
from raydd.api import Silent
from raydd.config import NETS, DataFacts, methods
from raydd.nets import apply, build, initialise
from raydd.seeding import generator
from tests.engine.toys import METHODS, MORE, distil, toy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ON_GPU = {"engine__gpus_per_worker": 1, "engine__checkpoint_every": 4}


class Interrupted(BaseException):
    """Somebody pressed a key."""


class StopsAt(Silent):
    """Stops a run in the middle of an interval between checkpoints."""

    def round(self, progress) -> None:
        if progress.round == 6:
            raise Interrupted


def config_of(name: str, digits: str, store: Path, **changes):
    return toy(name, digits, str(store), **{**ON_GPU, **changes})


@pytest.mark.parametrize("name", sorted({*METHODS, *MORE}))
def test_same_bits_again_and_after_an_interruption(name: str, digits: str, tmp_path: Path) -> None:
    first = distil(config_of(name, digits, tmp_path / "first"))
    assert distil(config_of(name, digits, tmp_path / "again")) == first
    stopped = config_of(name, digits, tmp_path / "stopped")
    with pytest.raises(Interrupted):
        raydd.distill(stopped, watcher=StopsAt())
    assert distil(stopped) == first


@pytest.mark.parametrize("name", sorted({*METHODS, *MORE}))
def test_two_rounds_are_close_to_the_processors(name: str, digits: str, tmp_path: Path) -> None:
    learned = {}
    for gpus in (0, 1):
        config = config_of(name, digits, tmp_path / str(gpus), method__rounds=2, engine__gpus_per_worker=gpus)
        learned[gpus] = raydd.distill(config).distilled().images
    assert torch.allclose(learned[0], learned[1], atol=2e-3), (learned[0] - learned[1]).abs().max()


@pytest.mark.parametrize("name", sorted(NETS))
def test_networks_learn_twice_over_with_deterministic_kernels(name: str) -> None:
    """Second derivatives too, which the methods that match or unroll gradients take."""
    facts = DataFacts(name="toy", channels=3, size=32, num_classes=10, smallest_class=5)
    module = build(NETS[name](name=name).resolved(facts), (3, 32, 32), 10)
    state = initialise(module, generator(0, "net"), torch.device("cuda"))
    x = torch.randn(4, 3, 32, 32, generator=generator(1, "x")).cuda().requires_grad_()
    y = torch.arange(4).cuda()

    def second() -> torch.Tensor:
        params = {key: value.detach().requires_grad_() for key, value in state.params.items()}
        logits = apply(module, params, {k: v.clone() for k, v in state.buffers.items()}, x, train=True)
        loss = torch.nn.functional.cross_entropy(logits, y)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        return torch.autograd.grad(sum(grad.square().sum() for grad in grads), x)[0]

    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")
    try:
        assert torch.equal(second(), second())
    finally:
        torch.set_deterministic_debug_mode(mode)


def test_every_coreset(digits: str, tmp_path: Path) -> None:
    for name, spec in methods().items():
        if not spec.config.iterative:
            config = toy(name, digits, str(tmp_path), **ON_GPU)
            assert distil(config), name
