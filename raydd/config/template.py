"""A complete, commented config for `raydd config METHOD`, written from the models themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from raydd.config.load import config_from
from raydd.config.methods import methods
from raydd.errors import ConfigError

QUICK = {
    "dc": {"rounds": 200, "real_batch": 64},
    "dsa": {"rounds": 200, "real_batch": 64},
    "dm": {"rounds": 200, "real_batch": 64},
    "mmd": {"rounds": 200, "real_batch": 64},
    "optimised": {"candidates": 5, "judges": 500},
    "dd": {"ipc": 1, "rounds": 300, "inner_epochs": 10, "lr_inner": 0.1, "lr_syn": 0.05, "real_batch": 256},
    "rtp": {"rounds": 100, "inner_steps": 20, "lr_net": 0.05, "lr_syn": 1.0, "real_batch": 16},
    "frepo": {"rounds": 200, "lr_syn": 5e-3, "real_batch": 256},
}


def template(method: str) -> str:
    """Return YAML that runs as it stands, on scikit-learn's digits.

    Raises:
        ConfigError: When there is no such method.
    """
    if method not in methods():
        raise ConfigError(f"METHOD must be one of {', '.join(methods())}, got {method!r} (see `raydd methods`)")
    raw = {
        "name": f"digits-{method}-ipc1",
        "data": {"train": "digits"},
        "method": {"name": method, **QUICK.get(method, {})},
        "net": {"width": 32},
    }
    config = config_from(raw)
    return "\n".join([f"# {methods()[method].paper}", *_lines(config, 0)]) + "\n"


def _lines(model: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(value, depth + 1)
        else:
            comment = f"  # {field.description}" if field.description else ""
            yield f"{indent}{name}: {_scalar(value)}{comment}"


def _scalar(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
