from __future__ import annotations

import math

import pytest
import torch

from raydd import nets
from raydd.config import NETS, DataFacts
from raydd.seeding import generator

FACTS = DataFacts(name="toy", channels=3, size=16, num_classes=10, smallest_class=9)


def test_deviations_by_hand() -> None:
    net = NETS["convnet"].model_validate({"width": 64, "depth": 2}).resolved(FACTS)
    state = nets.initialise(nets.build(net, (3, 16, 16), 10), generator(0, "net"), law="xavier")
    # 3 x 3 kernels: 3 -> 64 and 64 -> 64 maps; the classifier has 64 * 4 * 4 inputs.
    expected = {
        "blocks.0.weight": 2 / (9 * (3 + 64)),
        "blocks.4.weight": 2 / (9 * 128),
        "classifier.weight": 2 / (1024 + 10),
    }
    for name, variance in expected.items():
        assert state.params[name].std().item() == pytest.approx(math.sqrt(variance), rel=0.06)
        assert abs(state.params[name].mean().item()) < 0.1 * math.sqrt(variance)
    assert all(not state.params[name.replace("weight", "bias")].any() for name in expected)
    # Norm layers start as the identity.
    assert torch.equal(state.params["blocks.1.weight"], torch.ones(64))


def test_the_generator_alone_decides() -> None:
    module = nets.build(NETS["convnet"](width=4, depth=2), (3, 16, 16), 10)
    one, again, other = (
        nets.initialise(module, generator(seed, "net"), law="xavier").params["blocks.0.weight"] for seed in (0, 0, 1)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
