"""The networks that may be trained: raydd's own, torchvision's, and, where it is installed, timm's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from raydd.config import DataFacts, NetConfig
from raydd.errors import ConfigError
from raydd.nets import NetState, apply, build, initialise
from raydd.seeding import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network, and its numbers before training.

    Attributes:
        module: Says the shape of the computation.
        state: Its numbers, on the CPU.
        foreign: Whether it is not raydd's own: it may draw from the global generator in train mode (dropout).
    """

    module: nn.Module
    state: NetState
    foreign: bool

    def state_dict(self, state: NetState) -> dict[str, Tensor]:
        """Return numbers under the names that the module's own `load_state_dict` expects."""
        inner = self.module.net if isinstance(self.module, _Grey) else self.module
        named = {name.removeprefix("net.") if inner is not self.module else name: t for name, t in _flat(state).items()}
        return {name: named[name] for name in inner.state_dict()}


class _Grey(nn.Module):
    """Shows grey images to a network that wants three channels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def open_network(text: str, facts: DataFacts, seed: int) -> Network:
    """Build the network that a text names, with weights that depend on the seed alone.

    Args:
        text: `resnet18`, `convnet:width=64,norm=batch`; `torchvision:NAME` or `timm:NAME`, without pretrained weights and
            started by their own law.
        facts: The data; torchvision's networks see grey images as three equal channels.
        seed: Root of the draw.

    Raises:
        ConfigError: When there is no such network, it does not take such images, or timm is not installed.
    """
    library, colon, name = text.partition(":")
    shape = (facts.channels, facts.size, facts.size)
    if not colon or library not in ("torchvision", "timm"):
        net = _config(text).resolved(facts)
        module = build(net, shape, facts.num_classes)
        return Network(module=module, state=initialise(module, generator(seed, "net")), foreign=False)
    with torch.random.fork_rng(devices=[]):
        # These libraries draw from the global generator, which is put back as it was.
        torch.set_rng_state(generator(seed, "net").get_state())
        make = _from_torchvision if library == "torchvision" else _from_timm
        module = make(name, facts)
        state = NetState(dict(module.named_parameters()), dict(module.named_buffers())).clone()
        _try_out(text, module, state, shape, facts.num_classes)
    return Network(module=module, state=state, foreign=True)


def _config(text: str) -> Any:
    try:
        return TypeAdapter(NetConfig).validate_python(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["net", *(str(part) for part in first["loc"])])
        message = str(first["msg"]).removeprefix("Value error, ")
        message = message if message.startswith("net.") else f"{where}: {message}, got {first.get('input')!r}"
        raise ConfigError(f"{message}; also torchvision:NAME and timm:NAME") from None


def _from_torchvision(name: str, facts: DataFacts) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ConfigError(f"net must be one of torchvision's classifiers, such as torchvision:resnet18, got {name!r}")
    module = models.get_model(name, weights=None, num_classes=facts.num_classes)
    return _Grey(module) if facts.channels == 1 else module


def _from_timm(name: str, facts: DataFacts) -> nn.Module:
    try:
        # By name, since type checkers do not have it either.
        timm: Any = import_module("timm")
    except ImportError:
        raise ConfigError(f"net timm:{name} needs timm, which is not installed; pip install 'raydd[timm]'") from None
    if not timm.is_model(name):
        # Nothing but its own list: other names would be fetched from a hub.
        raise ConfigError(f"net must be one of timm's networks (timm.list_models()), got {name!r}")
    return timm.create_model(name, pretrained=False, num_classes=facts.num_classes, in_chans=facts.channels)


def _try_out(text: str, module: nn.Module, state: NetState, shape: tuple[int, int, int], num_classes: int) -> None:
    """Run a network once as it is trained, so that one that cannot be is refused before anything starts."""
    size = "x".join(map(str, shape))
    shared = len(dict(module.named_parameters(remove_duplicate=False))) != len(state.params)
    try:
        with torch.no_grad():
            out: Any = apply(module, state.params, state.clone().buffers, torch.zeros(2, *shape), train=True)
    except (RuntimeError, ValueError, AssertionError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"net {text} does not take images of {size} ({cause}); take another, or pack larger ones"
        ) from None
    if shared or not isinstance(out, Tensor) or out.shape != (2, num_classes):
        raise ConfigError(
            f"expected a network that gives {num_classes} logits an image alone, got {text}; take another"
        )


def _flat(state: NetState) -> dict[str, Tensor]:
    return {**state.params, **state.buffers}
