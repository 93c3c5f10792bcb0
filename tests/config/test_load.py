from __future__ import annotations

from pathlib import Path

import fsspec
import pytest
import yaml

from raydd.config import Config, DMConfig, FRePoConfig, config_from, dump_config, load_config
from raydd.config.load import parse_yaml
from raydd.errors import ConfigError

LEAST = {"name": "a", "data": {"train": "digits"}, "method": {"name": "dm"}}
FULL = """
name: mnist-dm
seed: 7
data: {train: s3://b/mnist/train, test: s3://b/mnist/test, val_fraction: 0.1, classes: [3, five], zca: null}
net: {name: convnet, width: 64, depth: 3, norm: instance, act: relu, pool: avg}
method: {name: dm, ipc: 10, init: noise, rounds: 1e4, lr_syn: 1e-3, classes_per_slot: all, augment: color_crop}
engine: {workers: 4, min_workers: 2, gpus_per_worker: 0.5, checkpoint_every_s: 3e2, precision: tf32}
store: s3://b/runs
evaluate: {protocol: dsa, nets: [convnet, "convnet:width=32,norm=batch"], repeats: 3, baselines: [random, whole]}
"""


def test_yaml_becomes_the_models(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(FULL)
    config = load_config(str(path))
    assert isinstance(config.method, DMConfig)
    assert (config.name, config.seed, config.store) == ("mnist-dm", 7, "s3://b/runs")
    assert (config.data.classes, config.data.zca, config.data.val_fraction) == ([3, "five"], None, 0.1)
    assert (config.method.rounds, config.method.lr_syn, config.method.classes_per_slot) == (10_000, 0.001, "all")
    assert (config.engine.gpus_per_worker, config.engine.checkpoint_every_s) == (0.5, 300.0)
    assert [net.width for net in config.evaluate.nets] == [128, 32]
    assert config.evaluate.nets[1].norm == "batch"


@pytest.mark.parametrize("text", [FULL, yaml.safe_dump(LEAST), "{name: f, data: {train: x}, method: {name: frepo}}"])
def test_round_trip_through_yaml(text: str, tmp_path: Path) -> None:
    config = config_from(parse_yaml(text, "text"))
    path = tmp_path / "again.yaml"
    path.write_text(dump_config(config))
    again = load_config(str(path))
    assert again == config
    assert dump_config(again) == dump_config(config)
    assert again.hash("index") == config.hash("index")


def test_any_url_is_read() -> None:
    with fsspec.open("memory://configs/c.yaml", "wb") as file:
        file.write(FULL.encode())
    assert load_config("memory://configs/c.yaml").name == "mnist-dm"


@pytest.mark.parametrize(
    ("text", "number"), [("1e-3", 0.001), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5e1", 5.0), ("1_0e2", 1000.0)]
)
def test_exponents_are_numbers_without_a_dot(text: str, number: float) -> None:
    assert parse_yaml(f"x: {text}", "t") == {"x": number}


@pytest.mark.parametrize("text", ["e3", "1e", "1e3x", "s3e5"])
def test_what_only_looks_like_an_exponent_is_text(text: str) -> None:
    assert parse_yaml(f"x: {text}", "t") == {"x": text}


def test_overrides_reach_every_depth_and_are_yaml() -> None:
    given = {**LEAST, "net": {"width": 8}}
    said = ["method.lr_syn=1e-2", "data.classes=[1, 2]", "data.zca=null", "engine.workers=0", "net.depth=2", "seed=3"]
    config = config_from(given, [*said, "evaluate.nets=['convnet:width=4']", "name=b=c".replace("=c", "-c")])
    assert (config.method.lr_syn, config.data.classes, config.data.zca) == (0.01, [1, 2], None)
    assert (config.engine.workers, config.net.width, config.net.depth) == (0, 8, 2)
    assert (config.seed, config.name, config.evaluate.nets[0].width) == (3, "b-c", 4)
    assert given == {**LEAST, "net": {"width": 8}}, "what was given is not changed"


def test_later_overrides_win_and_may_hold_equals_signs() -> None:
    config = config_from(LEAST, ["seed=1", "seed=2", "store=memory://a=b"])
    assert (config.seed, config.store) == (2, "memory://a=b")


def test_overrides_change_a_built_config() -> None:
    config = config_from(LEAST)
    assert config_from(config) == config
    changed = config_from(config, ["method.ipc=10"])
    assert changed.method == config.method.model_copy(update={"ipc": 10})
    assert config.method.ipc == 1


def test_a_net_without_name_is_the_methods_own() -> None:
    dm = config_from({**LEAST, "net": {"width": 32}})
    frepo = config_from({**LEAST, "method": {"name": "frepo"}, "net": {"width": 32}})
    assert (dm.net.name, dm.net.norm, dm.net.width) == ("convnet", "instance", 32)
    assert (frepo.net.name, frepo.net.norm, frepo.net.width) == ("frepo_convnet", "batch", 32)
    built = config_from({**LEAST, "method": FRePoConfig(), "net": {"width": 32}})
    assert built.net.name == "frepo_convnet"


def test_configs_are_frozen() -> None:
    config = config_from(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValueError, match="frozen"):
        config.method.ipc = 2


def test_defaults_are_the_papers() -> None:
    dm, frepo = Config(**LEAST).method, config_from({**LEAST, "method": {"name": "frepo"}}).method
    assert (dm.rounds, dm.lr_syn, dm.momentum_syn, dm.real_batch, dm.init) == (20_000, "auto", 0.5, 256, "real")
    assert (frepo.rounds, frepo.lr_syn, frepo.real_batch, frepo.ridge) == (500_000, 3e-4, 1024, 1e-6)
    assert (frepo.pool_size, frepo.models_per_round, frepo.max_online_updates, frepo.lr_net) == (10, 1, 100, 3e-4)


def test_it_is_an_error_of_config_that_a_file_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    for content, told in [
        (b"\xff\xfe\x00", "expected a YAML text file, got binary data in"),
        (b"a\x00b", "expected YAML in"),
        (b"- 1\n", "expected a mapping of sections in .*, got list"),
        (b"", "expected a mapping of sections in .*, got NoneType"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=told):
            load_config(str(path))
    for url in (str(tmp_path / "none.yaml"), "memory://none/c.yaml"):
        with pytest.raises(ConfigError, match=f"^cannot read the config {url}: no such file; "):
            load_config(url)
    with pytest.raises(ConfigError, match="Is a directory; give the path"):
        load_config(str(tmp_path))
    with pytest.raises(ConfigError, match=r"expected a path, .* got .nope:"):
        load_config("nope://x/c.yaml")


def test_a_store_that_does_not_answer_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ConfigError, match=r"^cannot read the config s3://nobody/c\.yaml: .*credentials[^\n]*$"):
        load_config("s3://nobody/c.yaml")
