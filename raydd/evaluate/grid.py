"""The ablation grid of DC: one kind of network in every combination of some of its options."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from raydd.config.net import AnyNetConfig
from raydd.errors import ConfigError

Grid = Mapping[str, Sequence[str | int]]


def parse_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Read a grid from texts such as `width=32,64`, one for each option.

    Raises:
        ConfigError: When a text is not of this form, or an option or a value is given twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        values = [value.strip() for value in listed.split(",")]
        if not (key and equals and all(values)):
            raise ConfigError(f"--grid expects OPTION=VALUE,VALUE such as width=32,64, got {text!r}")
        if key in grid or len(set(values)) < len(values):
            what = f"the option {key}" if key in grid else f"a value of {key}"
            raise ConfigError(f"--grid takes every option once and every value once, got {what} twice in {text!r}")
        grid[key] = values
    return grid


def parse_nets(text: str) -> list[str]:
    """Read networks from text such as `convnet:width=32,depth=2,resnet18`, as results print them; colons may part options.

    Returns:
        One text a network, which `raydd.config.NetConfig` reads.
    """
    nets: list[str] = []
    for part in filter(None, text.split(",")):
        name, colon, options = part.partition(":")
        if nets and "=" in name:
            nets[-1] += ("," if ":" in nets[-1] else ":") + part.replace(":", ",")
        else:
            nets.append(name + colon + options.replace(":", ","))
    return nets


def expand(net: AnyNetConfig, grid: Grid) -> list[AnyNetConfig]:
    """Return a network in every combination of a grid's values, the last option varying fastest.

    Raises:
        ConfigError: When the network has no such option.
        pydantic.ValidationError: When an option cannot have a value.
    """
    known = sorted(type(net).model_fields.keys() - {"name"})
    unknown = next((key for key in grid if key not in known), None)
    if unknown is not None:
        has = f"only {', '.join(known)}" if known else "no options"
        raise ConfigError(f"--grid varies options of the network {net.name}, which has {has}; got {unknown!r}")
    given = net.model_dump()
    combinations = itertools.product(*grid.values())
    return [type(net).model_validate({**given, **dict(zip(grid, values, strict=True))}) for values in combinations]
