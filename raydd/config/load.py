"""YAML and `--set` in, models out, with errors that name the dotted key."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from raydd.config.run import Config
from raydd.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)

# Keys as users write them; pydantic adds names of types and validators to a location, which nobody wrote.
_KEY = re.compile(r"(?!(?:int|str|float|bool|function-before)\b)[a-z_][a-z0-9_]*")
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)$")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, except that `1e-3` is a number, as everyone expects, and a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise ConfigError(f"a key may stand once, got {twice!r} twice (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text; `where` names it in errors.

    Raises:
        ConfigError: When it is not YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"expected YAML in {where}, got {getattr(error, 'problem', None) or error}{line}") from None


def validate(model: type[Model], raw: Any, *, where: str) -> Model:
    """Build a model from plain data, telling the first mistakes in one line.

    Raises:
        ConfigError: Naming the dotted key, what was expected and what was got.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors()]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}{more} ({where})") from None


def _problem(error: Mapping[str, Any]) -> str:
    location = ".".join(str(part) for part in error["loc"] if isinstance(part, int) or _KEY.fullmatch(part))
    message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "must be")
    if error["type"] == "extra_forbidden":
        return f"{location} is not a known key; remove it or correct its spelling"
    if error["type"] == "missing":
        return f"{location} is required but missing"
    if error["type"] in ("model_type", "dict_type"):
        message = "must be a section with keys"
    got = "" if ", got " in message else f", got {error.get('input')!r}"
    named = bool(location) and message.startswith(location.split(".")[0] + ".")
    return f"{message}{got}" if named or not location else f"{location} {message}{got}"


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=c` overrides, whose values are YAML, to a raw config; returns a new one.

    Raises:
        ConfigError: When an override has no `=` or goes through something that is not a section.
    """
    result = _copy(raw)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set expects key=value such as method.ipc=10, got {override!r}")
        *sections, last = key.split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {key}: {section} is a value, not a section")
        target[last] = parse_yaml(value, f"--set {key}")
    return result


def _copy(raw: Any) -> Any:
    return {key: _copy(value) for key, value in raw.items()} if isinstance(raw, dict) else raw


def config_from(raw: Any, overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Build a config from plain data, or return one that is built already with overrides applied."""
    if isinstance(raw, Config):
        raw = raw.model_dump()
    if not isinstance(raw, dict):
        raise ConfigError(f"expected a mapping of sections in {where}, got {type(raw).__name__}")
    return validate(Config, apply_overrides(raw, overrides), where=where)


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config from a local path or any fsspec URL.

    Raises:
        ConfigError: When it cannot be read, is no YAML, or says what is not allowed.
    """
    import fsspec

    try:
        opened: Any = fsspec.open(path, "rt", encoding="utf-8")
        with opened as file:
            text = file.read()
    except UnicodeDecodeError:
        raise ConfigError(f"expected a YAML text file, got binary data in {path}") from None
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"cannot read the config {path}: {error}") from None
    return config_from(parse_yaml(text, path), overrides, where=path)


def dump_config(config: Config) -> str:
    """Return a config as YAML, in the order of its sections."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)
