"""Every mistake is told in one line that names the dotted key."""

from __future__ import annotations

from typing import Any

import pytest

from raydd.config import NETS, config_from, methods
from raydd.config.load import parse_yaml
from raydd.errors import ConfigError, UserError

LEAST = {"name": "a", "data": {"train": "digits"}, "method": {"name": "dm"}}
UNKNOWN = "is not a known key; remove it or correct its spelling"
IN_NETS = f"must be one of {', '.join(NETS)}, got"
IN_METHODS = f"must be one of {', '.join(methods())}, got"


def error(text: str) -> str:
    raw = parse_yaml(text, "c.yaml")
    assert isinstance(raw, dict)
    with pytest.raises(ConfigError) as caught:
        config_from({**LEAST, **raw}, where="c.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Seed: 3", f"Seed {UNKNOWN}"),
        ("sweep: {}", "sweep.space is required but missing"),
        ("1: 2", f"1 {UNKNOWN}"),
        ("method: {name: dm, ridge: 1}", f"method.ridge {UNKNOWN}"),
        ("method: {name: dm, learning-rate: 1}", f"method.learning-rate {UNKNOWN}"),
        ("engine: {workrs: 1}", f"engine.workrs {UNKNOWN}"),
        ("net: {wdth: 3}", f"net.wdth {UNKNOWN}"),
        ("net: convnet:wdth=3", f"net.wdth {UNKNOWN}"),
        ("evaluate: {nets: [convnet, 'convnet:wdth=3']}", f"evaluate.nets.1.wdth {UNKNOWN}"),
        ("data: {}", "data.train is required but missing"),
        ("data: digits", "data must be a section with keys, got 'digits'"),
        ("engine: null", "engine must be a section with keys, got None"),
        ("method: dm", "method must be a section with keys, got 'dm'"),
        ("net: 3", "net must be a section with keys or 'auto', got 3"),
        ("seed: -1", "seed must be >= 0, got -1"),
        ("seed: 9223372036854775808", "seed must be < 9223372036854775808, got 9223372036854775808"),
        ("seed: x", "seed must be a valid integer, got 'x'"),
        ("name: 3", "name must be a valid string, got 3"),
        ("name: ../up", "name must be letters, digits, dots, dashes and underscores, at most 100, starting with"),
        ("store: [x]", "store must be a valid string, got ['x']"),
        ("data: {train: digits, zca: dc}", "data.zca must be 'frepo' or 'rtp' or 'auto', got 'dc'"),
        ("data: {train: digits, classes: some}", "data.classes must be 'all' or a valid list, got 'some'"),
        ("data: {train: x, classes: [1.5]}", "data.classes.0 must be a valid integer or a valid string, got 1.5"),
        ("data: {train: digits, val_fraction: 1}", "data.val_fraction must be < 1, got 1"),
        ("data: {train: digits, size: 2}", "data.size must be >= 4, got 2"),
        ("data: {train: x, window: 0}", "data.window must be >= 1 or all, got 0"),
        ("data: {train: x, window: some}", "data.window must be 'all' or a valid integer, got 'some'"),
        ("data: {train: x, window_rounds: 0}", "data.window_rounds must be >= 1, got 0"),
        ("data: {train: x, cache: tape}", "data.cache must be 'memory' or 'disk' or 'auto', got 'tape'"),
        (
            "data: {train: x, cache: disk, window: 9}",
            "data.cache must be auto or memory where data.window bounds what is held (9), got disk",
        ),
        (
            "{data: {train: x, window: 9}, method: {name: herding}}",
            "data.window must be all for method.name herding, which looks at all images and has no rounds, got 9",
        ),
        ("method: {}", f"method.name {IN_METHODS} None (see `raydd methods`)"),
        ("method: {name: best}", f"method.name {IN_METHODS} 'best' (see `raydd methods`)"),
        ("method: {name: [dm]}", f"method.name {IN_METHODS} ['dm'] (see `raydd methods`)"),
        ("method: {name: dm, ipc: 0}", "method.ipc must be >= 1, got 0"),
        ("method: {name: dm, ipc: 1.5}", "method.ipc must be a valid integer, got 1.5"),
        ("method: {name: dm, lr_syn: 0}", "method.lr_syn must be > 0 or 'auto', got 0"),
        ("method: {name: dm, lr_syn: .nan}", "method.lr_syn must be a finite number or 'auto', got nan"),
        ("method: {name: dm, lr_syn: .inf}", "method.lr_syn must be a finite number or 'auto', got inf"),
        ("method: {name: dm, init: zero}", "method.init must be 'real' or 'noise', got 'zero'"),
        ("method: {name: dm, classes_per_slot: few}", "method.classes_per_slot must be a valid integer or 'all', got"),
        ("method: {name: dm, augment: crop_spin}", "method.augment must be one or more of color, crop, cutout, flip, "),
        ("method: {name: dm, augment: 3}", "method.augment must be a valid string or 'auto', got 3"),
        ("method: {name: frepo, flip: maybe}", "method.flip must be a valid boolean or 'auto', got 'maybe'"),
        ("method: {name: frepo, lr_syn_final: 2}", "method.lr_syn_final must be <= 1, got 2"),
        ("net: {name: resnet}", f"net.name {IN_NETS} 'resnet' (see `raydd nets`)"),
        ("net: {name: [convnet]}", f"net.name {IN_NETS} ['convnet'] (see `raydd nets`)"),
        ("net: {norm: nrm}", "net.norm must be 'none', 'batch', 'layer', 'instance' or 'group', got 'nrm'"),
        ("net: {depth: deep}", "net.depth must be a valid integer or 'auto', got 'deep'"),
        ("net: convnet:width", "net.width must be a valid integer, got ''"),
        ("engine: {workers: 2, min_workers: 3}", "engine.min_workers must be <= engine.workers (2), got 3"),
        ("engine: {checkpoint_every_s: 0}", "engine.checkpoint_every_s must be > 0, got 0"),
        ("evaluate: {protocol: own}", "evaluate.protocol must be '"),
        ("evaluate: {nets: convnet}", "evaluate.nets must be a valid list or 'auto', got 'convnet'"),
        ("evaluate: {nets: [convnet, vgg]}", f"evaluate.nets.1.name {IN_NETS} 'vgg'"),
        (
            "evaluate: {baselines: [best]}",
            "evaluate.baselines.0 must be 'random', 'random@bytes', 'herding', 'kcenter', 'forgetting', 'kmeans', "
            "'average', 'optimised' or 'whole', got 'best'",
        ),
        ("data: &d {train: *d}", "data.train must be a valid string, got {'train': {...}}"),
    ],
)
def test_the_key_and_what_was_expected_and_got(text: str, told: str) -> None:
    message = error(text)
    assert message.startswith(told)
    assert message.endswith(" (c.yaml)")
    assert "\n" not in message


def test_several_mistakes_are_counted_and_one_is_told() -> None:
    message = error("{seed: -1, engine: {workrs: 1}, net: {wdth: 1, norm: x}}")
    assert message == "seed must be >= 0, got -1 (and 3 more) (c.yaml)"


def test_a_long_value_is_cut() -> None:
    assert len(error(f"seed: {'x' * 10_000}")) < 200


def test_nothing_unsaid_is_accepted_from_python_either() -> None:
    for raw in (None, [], "dm", 3):
        with pytest.raises(UserError, match="expected a mapping of sections in config, got"):
            config_from(raw)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\nseed: 2", "a key may stand once, got 'seed' twice in the section at line 1 (c.yaml)"),
        ("net:\n  width: 1\n  width: 1", "a key may stand once, got 'width' twice in the section at line 2 (c.yaml)"),
        ("a: b: c", "mapping values are not allowed here at line 1"),
        ("x: 1\na: [", "but found '<stream end>' at line 2"),
        ("'a\x00'", "unacceptable character #x0000: special characters are not allowed"),
        ("? [a]\n: 2", "found unhashable key at line 1"),
        ("name: 2024-13-45", "month must be in 1..12"),
        ("seed: !!int x", "invalid literal for int()"),
        ("x: !!python/object/apply:os.system [exit]", "could not determine a constructor for the tag"),
        ("[" * 2000, "maximum recursion depth exceeded"),
    ],
)
def test_what_is_no_yaml(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "c.yaml")
    message = str(caught.value)
    assert told in message
    assert message.startswith(("expected YAML in c.yaml, got ", "a key may stand once"))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("method.ipc", "--set expects key=value such as method.ipc=10, got 'method.ipc'"),
        ("=3", "--set expects key=value such as method.ipc=10, got '=3'"),
        ("seed.x=3", "--set seed.x: seed is a value, not a section"),
        ("seed=[", "expected YAML in --set seed, got"),
        ("engine.workers=", "engine.workers must be a valid integer, got None"),
        ("enginge.workers=1", f"enginge {UNKNOWN}"),
        ("engine..workers=1", f"engine. {UNKNOWN}"),
    ],
)
def test_overrides(override: str, told: str) -> None:
    raw: dict[str, Any] = {**LEAST, "seed": 1}
    with pytest.raises(ConfigError) as caught:
        config_from(raw, [override])
    assert str(caught.value).startswith(told)
