"""Networks by name: weights by key, nothing drawn from the global generator, mistakes told before anything starts."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from raydd.config import DataFacts
from raydd.errors import ConfigError
from raydd.nets import apply
from raydd.training import open_network

GREY = DataFacts(name="made", channels=1, size=16, num_classes=7, smallest_class=2)
COLOUR = DataFacts(name="made", channels=3, size=16, num_classes=7, smallest_class=2)


@pytest.mark.parametrize(
    "text", ["convnet:width=4,norm=batch", "torchvision:squeezenet1_1", "torchvision:mobilenet_v2"]
)
def test_weights_depend_on_the_seed_alone(text: str) -> None:
    facts = (
        COLOUR if "mobile" in text else DataFacts(**{**{k: getattr(COLOUR, k) for k in COLOUR.__slots__}, "size": 32})
    )
    before = torch.get_rng_state()
    one, two, other = (open_network(text, facts, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, two.state.params[name]) for name, p in one.state.params.items())
    assert not all(torch.equal(p, other.state.params[name]) for name, p in one.state.params.items())
    assert not any(t.requires_grad for t in one.state.params.values())


def test_torchvision_starts_by_its_own_law_and_reads_its_weights_back() -> None:
    from torchvision.models import resnet18

    network = open_network("torchvision:resnet18", GREY, 0)
    named = network.state_dict(network.state)
    theirs = resnet18(num_classes=7)
    theirs.load_state_dict(named)
    # He et al.'s normal by fan-out, of which PyTorch's default for convolutions is not one.
    assert float(named["layer1.0.conv1.weight"].std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    ours = apply(network.module, network.state.params, network.state.buffers, x)
    assert torch.equal(ours, theirs.eval()(x.expand(-1, 3, -1, -1)))


def test_own_networks_read_their_weights_back() -> None:
    network = open_network("resnet18:norm=batch", COLOUR, 0)
    named = network.state_dict(network.state)
    assert named.keys() == network.module.state_dict().keys()
    assert "params." not in "".join(named)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bla", r"net.name must be one of convnet, .*, got 'bla' .*; also torchvision:NAME and timm:NAME"),
        ("convnet:width=0", r"net.width: .* greater than or equal to 1, got '0'; also"),
        ("convnet:depth=9", r"16"),
        ("torchvision:bla", r"one of torchvision's classifiers, such as torchvision:resnet18, got 'bla'"),
        ("torchvision:fcn_resnet50", r"one of torchvision's classifiers"),
        (
            "torchvision:squeezenet1_1",
            r"net torchvision:squeezenet1_1 does not take images of 3x16x16 \(.*\); take another",
        ),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_network(text, COLOUR, 0)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"net timm:resnet18 needs timm, which is not installed; pip install"):
        open_network("timm:resnet18", COLOUR, 0)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(256, 7)
        self.two = nn.Linear(256, 7)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x.flatten(1)) + self.two(x.flatten(1))


def test_timm_by_its_own_list_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def create(name: str, *, pretrained: bool, num_classes: int, in_chans: int) -> nn.Module:
        made.append((name, pretrained, num_classes, in_chans))
        return Pair() if name == "pair" else nn.Sequential(nn.Flatten(), nn.Linear(256, 7 if name == "good" else 8))

    known = {"good", "bad", "pair"}
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(is_model=known.__contains__, create_model=create))
    assert open_network("timm:good", GREY, 0).foreign
    assert made == [("good", False, 7, 1)]
    with pytest.raises(ConfigError, match=r"one of timm's networks .*, got 'hf-hub:a/b'"):
        open_network("timm:hf-hub:a/b", GREY, 0)
    # Numbers that two layers share would be trained in one of them only.
    for name in ("bad", "pair"):
        with pytest.raises(ConfigError, match="expected a network that gives 7 logits an image alone"):
            open_network(f"timm:{name}", GREY, 0)
