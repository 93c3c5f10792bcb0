"""YAML and `--set` in, models out, with errors that name the dotted key."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from raydd.config.run import Config
from raydd.config.sweep import SweepConfig
from raydd.errors import ConfigError, StoreError
from raydd.urls import parse_url

Model = TypeVar("Model", bound=BaseModel)

# Keys as users write them; pydantic adds names of types and validators to a location, which nobody wrote.
_KEY = re.compile(r"(?!(?:int|str|float|bool|function-before)\b)[a-z_][a-z0-9_]*(?:\.[a-z_][a-z0-9_]*)*")
MOST_BYTES = 1 << 20
MOST_PARTS = 100_000
_UNKNOWN = ("extra_forbidden", "invalid_key")
_DETAIL = re.compile(r", (?:unable to|got a number).*")
VAL_FRACTION = 0.1  # of a sweep that says none
_FLOAT = re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:[eE][-+]?\d+)$")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, except that `1e-3` is a number, as everyone expects, and a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise ConfigError(
                f"a key may stand once, got {twice!r} twice in the section at line {node.start_mark.line + 1}"
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text; `where` names it in errors.

    Raises:
        ConfigError: When it is not YAML.
    """
    try:
        loaded = yaml.load(text, Loader=_Loader)
        if _parts(loaded, {}) > MOST_PARTS:
            raise ConfigError(f"expected a config of at most {MOST_PARTS} values, got aliases that stand for more")
        return loaded
    except ConfigError as error:
        raise ConfigError(f"{error} ({where})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Not only YAML's own errors: 2024-13-45 looks like a date to it, and fails as one.
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        cause = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"expected YAML in {where}, got what cannot be read as such: {cause}{line}") from None


def _parts(value: Any, known: dict[int, int]) -> int:
    """Return how many values there are when every alias is written out, but those that hold themselves."""
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = 1
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_parts(each, known) for each in inner)
    return known[id(value)]


def validate(model: type[Model], raw: Any, *, where: str) -> Model:
    """Build a model from plain data, telling the first mistakes in one line.

    Raises:
        ConfigError: Naming the dotted key, what was expected and what was got.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = _problems(error.errors())
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{problems[0]}{more} ({where})") from None


def _problems(errors: Iterable[Mapping[str, Any]]) -> list[str]:
    """Tell each wrong key once."""
    by_key: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for error in errors:
        by_key.setdefault(_key(error), []).append(error)
    # A section that is wrong inside is also not the `auto` that it might have been; that is no mistake of its own.
    wrong = [key for key in by_key if not any(other[: len(key)] == key for other in by_key if other != key)]
    return [_problem(".".join(key), by_key[key]) for key in wrong]


def _key(error: Mapping[str, Any]) -> tuple[str, ...]:
    *sections, last = error["loc"] or ("",)
    known = [str(part) for part in sections if isinstance(part, int) or _KEY.fullmatch(part)]
    # A key that nobody knows may look like anything.
    if error["type"] in _UNKNOWN or isinstance(last, int) or _KEY.fullmatch(last):
        known.append(str(last))
    return tuple(known)


def _problem(key: str, errors: list[Mapping[str, Any]]) -> str:
    kind, value = errors[0]["type"], errors[0].get("input")
    if kind in _UNKNOWN:
        return f"{key} is not a known key; remove it or correct its spelling"
    if kind == "missing":
        return f"{key} is required but missing"
    message = next((str(e["msg"]) for e in errors if e["type"] == "value_error"), "").removeprefix("Value error, ")
    if not message:
        message = "must be " + " or ".join(dict.fromkeys(_wanted(error) for error in errors))
    if ", got " not in message:
        message = f"{message}, got {_short(value)}"
    section, dot, rest = message.partition(".")
    if dot and section in ("app", "data", "engine", "evaluate", "method", "methods", "net", "sweep"):
        # The message names the key, as seen from the top.
        return message if key.split(".")[0] in ("", section) else f"{key}.{rest}"
    return f"{key} {message}" if key else message


def _wanted(error: Mapping[str, Any]) -> str:
    """Return what one alternative would have been, such as `a valid integer`."""
    if error["type"] in ("model_type", "dict_type"):
        return "a section with keys"
    message = str(error["msg"]).removeprefix("Input should be ")
    for said, short in (("greater than or equal to", ">="), ("less than or equal to", "<="), ("greater than", ">")):
        message = message.replace(said, short)
    return _DETAIL.sub("", message.replace("less than", "<"))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=c` overrides, whose values are YAML, to a raw config; returns a new one.

    Raises:
        ConfigError: When an override has no `=` or goes through something that is not a section.
    """
    result = copy.deepcopy(raw)
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


def config_from(raw: Any, overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Build a config from plain data, or return one that is built already with overrides applied."""
    return model_from(Config, raw, overrides, where=where)


def model_from(model: type[Model], raw: Any, overrides: Sequence[str] = (), *, where: str) -> Model:
    """Build a config of some kind from plain data, or return one that is built already with overrides applied."""
    if isinstance(raw, model):
        raw = raw.model_dump()
    if not isinstance(raw, dict):
        raise ConfigError(f"expected a mapping of sections in {where}, got {type(raw).__name__}")
    return validate(model, apply_overrides(raw, overrides), where=where)


def load_config(path: str, overrides: Sequence[str] = ()) -> Config:
    """Read a run's YAML config from a local path or any fsspec URL.

    Raises:
        ConfigError: When it cannot be read, is no YAML, or says what is not allowed.
    """
    return load_model(Config, path, overrides)


def load_model(model: type[Model], path: str, overrides: Sequence[str] = ()) -> Model:
    """Read a config of some kind; see `load_config`."""
    return model_from(model, read_config(path), overrides, where=path)


def read_config(path: str) -> Any:
    """Read what a YAML config says, as plain data.

    Raises:
        ConfigError: When it cannot be read, is too large, or is no YAML.
    """
    data = _read(path)
    if len(data) > MOST_BYTES:
        raise ConfigError(
            f"expected a config of at most {MOST_BYTES} bytes at {path}, got more; give the YAML file itself"
        )
    try:
        return parse_yaml(data.decode(), path)
    except UnicodeDecodeError:
        raise ConfigError(f"expected a YAML text file, got binary data in {path}") from None


def _read(path: str) -> bytes:
    if "://" not in path:
        try:
            with Path(path).open("rb") as file:
                return file.read(MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            raise _unreadable(path, error) from None
    import fsspec
    from botocore.exceptions import BotoCoreError

    try:
        scheme, url = parse_url(path)
    except StoreError as error:
        raise ConfigError(f"cannot read the config: {error}") from None
    try:
        opened: Any = fsspec.open(url if scheme else f"file://{url}", "rb")
        with opened as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError, ImportError, BotoCoreError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: str, error: Exception) -> ConfigError:
    missing = isinstance(error, FileNotFoundError)
    cause = "no such file" if missing else (getattr(error, "strerror", None) or " ".join(str(error).split()))
    return ConfigError(f"cannot read the config {path}: {cause}; give the path or URL of a YAML file")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepBase:
    """What a sweep says.

    Attributes:
        raw: The config without its section `sweep`, as plain data in which keys that the user left out are left out.
        config: The same as a model.
        sweep: The section.
        notes: What was chosen for the user, for people.
    """

    raw: dict[str, Any]
    config: Config
    sweep: SweepConfig
    notes: tuple[str, ...]


def sweep_base(said: Any, overrides: Sequence[str] = (), *, where: str = "config") -> SweepBase:
    """Read a config with a section `sweep`.

    Args:
        said: A config, or plain data.
        overrides: Changes such as `sweep.trials=20`.
        where: Names it in errors.

    Raises:
        ConfigError: When it says what is not allowed, has no section `sweep`, or leaves nothing to score trials on.
    """
    if isinstance(said, Config):
        section = {} if said.sweep is None else {"sweep": said.sweep.model_dump(exclude_unset=True)}
        said = {**said.model_dump(exclude_unset=True), **section}
    config = config_from(said, overrides, where=where)
    if config.sweep is None:
        raise ConfigError(f"sweep is required but missing: what is to be varied, under sweep.space ({where})")
    raw = {key: value for key, value in apply_overrides(said, overrides).items() if key != "sweep"}
    notes: tuple[str, ...] = ()
    if "val_fraction" not in config.data.model_fields_set:
        raw["data"] = {**raw["data"], "val_fraction": VAL_FRACTION}
        notes = (f"data.val_fraction is not set: {VAL_FRACTION:g} of the training split is kept for scores",)
    elif not config.data.val_fraction:
        raise ConfigError(
            "a sweep scores its trials on the validation part of the training split, so data.val_fraction must be > 0, "
            f"got 0; set it to {VAL_FRACTION:g} ({where})"
        )
    return SweepBase(raw=raw, config=config_from(raw, where=where), sweep=config.sweep, notes=notes)


def dump_config(config: BaseModel) -> str:
    """Return a config as YAML, in the order of its sections."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)
