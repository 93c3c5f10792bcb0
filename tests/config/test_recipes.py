"""Recipes that come with raydd, templates, and methods of third parties."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
import yaml

import raydd.config.net as net_module
from raydd import nets
from raydd.config import APPS, DMConfig, MethodConfig, MethodSpec, config_from, load_config, load_model, methods
from raydd.config.load import parse_yaml
from raydd.config.template import template
from raydd.errors import ConfigError
from raydd.seeding import generator

CONFIGS = Path(__file__).resolve().parents[2] / "jobs" / "configs"


def _recipes(*, apps: bool) -> list[object]:
    found = [path for path in sorted(CONFIGS.rglob("*.yaml")) if (CONFIGS / "apps" in path.parents) == apps]
    return [pytest.param(path, id=str(path.relative_to(CONFIGS))) for path in found]


@pytest.mark.parametrize("path", _recipes(apps=False))
def test_every_recipe_is_valid(path: Path) -> None:
    config = load_config(str(path))
    assert not config.method.iterative or config.method.rounds > 0


@pytest.mark.parametrize("path", _recipes(apps=True))
def test_every_application_is_valid(path: Path) -> None:
    # Named `<kind>-<data>.yaml`.
    config = load_model(APPS[path.stem.partition("-")[0]], str(path))
    assert config.name == path.stem


def test_the_quickstart_is_among_them() -> None:
    config = load_config(str(CONFIGS / "quickstart.yaml"))
    assert (config.data.train, config.method.name, config.method.ipc) == ("digits", "frepo", 1)
    assert set(config.evaluate.baselines) == {"random", "whole"}


@pytest.mark.parametrize("method", list(methods()))
def test_a_template_names_every_key_there_is(method: str) -> None:
    text = template(method)
    raw = parse_yaml(text, "template")
    config = config_from(raw)
    assert (config.data.train, config.method.name) == ("digits", method)
    for section in ("data", "method", "net", "engine", "evaluate"):
        assert raw[section].keys() == type(getattr(config, section)).model_fields.keys()
    assert "  rounds: " in text
    assert yaml.safe_load(text)["name"] == f"digits-{method}-ipc1"


def test_a_template_of_no_method() -> None:
    with pytest.raises(ConfigError) as caught:
        template("best")
    assert str(caught.value) == f"METHOD must be one of {', '.join(methods())}, got 'best' (see `raydd methods`)"


class OursConfig(MethodConfig):
    default_net: ClassVar[str] = "frepo_convnet"
    scheduled: ClassVar[bool] = True

    name: Literal["ours"] = "ours"
    strength: float = 1.0


OURS = MethodSpec(config=OursConfig, implementation="ours:Ours", paper="Us, 2030", learns="much", slots="one")
DM = MethodSpec(config=DMConfig, implementation="evil:DM", paper="", learns="", slots="")


def one_layer(net: Any, shape: tuple[int, int, int], num_classes: int) -> torch.nn.Module:
    """Return a network of a third party: linear, with an option that raydd does not know."""

    class OneLayer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(math.prod(shape), num_classes, bias=net.bias)

        def forward(self, x: torch.Tensor, features: bool = False) -> torch.Tensor:
            return x.flatten(1) if features else self.linear(x.flatten(1))

    return OneLayer()


def test_third_parties_announce_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    points = EntryPoints([EntryPoint(name, f"{__name__}:one_layer", "raydd.nets") for name in ("one_layer", "convnet")])
    for module in (net_module, nets):
        monkeypatch.setattr(module, "entry_points", lambda group, **chosen: points.select(group=group, **chosen))
    net_module.announced.cache_clear()
    raw = {"name": "a", "data": {"train": "x"}, "method": {"name": "dm"}}
    try:
        config = config_from({**raw, "net": {"name": "one_layer", "bias": False}})
        assert config_from(config.model_dump(mode="json")) == config
        module = nets.build(config.net, (1, 8, 8), 10)
        state = nets.initialise(module, generator(0, "test"))
        assert {name: tuple(value.shape) for name, value in state.params.items()} == {"linear.weight": (10, 64)}
        assert type(config_from({**raw, "net": {"name": "convnet"}}).net).__name__ == "ConvNetConfig"
        with pytest.raises(ConfigError, match=r"resnet18_ap, one_layer, got 'two_layers'"):
            config_from({**raw, "net": {"name": "two_layers"}})
    finally:
        net_module.announced.cache_clear()


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Third parties announce `ours`, and a `dm` that would take the place of raydd's own."""
    points = [EntryPoint(name, f"{__name__}:{name.upper()}", "raydd.methods") for name in ("ours", "dm")]
    # The function `methods` hides the module of that name.
    module = sys.modules["raydd.config.methods"]
    monkeypatch.setattr(module, "entry_points", lambda group: points if group == "raydd.methods" else [])
    methods.cache_clear()
    yield
    methods.cache_clear()


@pytest.mark.usefixtures("announced")
def test_third_parties_announce_methods_and_cannot_replace_ours() -> None:
    assert list(methods())[-1] == "ours"
    assert methods()["dm"].implementation == "raydd.methods.dm:DM"
    raw = {"name": "a", "data": {"train": "x"}, "method": {"name": "ours", "strength": 2}, "net": {"width": 8}}
    config = config_from(raw)
    assert isinstance(config.method, OursConfig)
    assert (config.method.strength, config.net.name) == (2.0, "frepo_convnet")
    assert "strength: 1.0" in template("ours")
    with pytest.raises(ConfigError, match=r"^method\.strenght is not a known key"):
        config_from({**raw, "method": {"name": "ours", "strenght": 2}})


@pytest.mark.usefixtures("announced")
def test_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from raydd.cli.facts import methods as verb

    verb()
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("ours"))
    assert line == "ours       learns much; slot: one; Us, 2030"
