"""What `auto` comes to, by the papers' tables, and what names a result."""

from __future__ import annotations

import pytest

from raydd.config import Config, DataFacts, config_from
from raydd.errors import ConfigError

ALL_SIX = "color_crop_cutout_flip_scale_rotate"
NO_FLIP = "color_crop_cutout_scale_rotate"


def facts(
    name: str = "cifar10", size: int = 32, channels: int = 3, classes: int = 10, smallest: int = 5000
) -> DataFacts:
    return DataFacts(name=name, channels=channels, size=size, num_classes=classes, smallest_class=smallest)


def config(method: str = "dm", *overrides: str) -> Config:
    return config_from({"name": "a", "data": {"train": "x"}, "method": {"name": method}}, overrides)


@pytest.mark.parametrize(
    ("size", "depth"),
    [(8, 2), (15, 2), (16, 3), (28, 3), (32, 3), (47, 3), (48, 4), (64, 4), (95, 4), (96, 5), (128, 5)],
)
def test_depth_by_size(size: int, depth: int) -> None:
    assert config("dm").resolved(facts(size=size)).net.depth == depth
    assert config("dm", "net.depth=1").resolved(facts(size=size)).net.depth == 1


@pytest.mark.parametrize(
    ("name", "augment"),
    [("digits", NO_FLIP), ("mnist", NO_FLIP), ("svhn", NO_FLIP), ("usps", NO_FLIP)]
    + [("fashion-mnist", ALL_SIX), ("cifar10", ALL_SIX), ("tiny-imagenet", ALL_SIX), ("anything", ALL_SIX)],
)
def test_augmentation_of_dm(name: str, augment: str) -> None:
    assert config("dm").resolved(facts(name)).method.augment == augment
    assert config("dm", "method.augment=null").resolved(facts(name)).method.augment is None
    assert config("dm", "method.augment=crop").resolved(facts(name)).method.augment == "crop"


@pytest.mark.parametrize(
    ("name", "ipc", "flip"),
    [("mnist", 1, False), ("fashion-mnist", 10, False), ("svhn", 1, False), ("imagenet", 1, False)]
    + [("cifar10", 1, True), ("cifar10", 50, True), ("cifar100", 1, True), ("cifar100", 10, False)]
    + [("tiny-imagenet", 1, True), ("tiny-imagenet", 10, False), ("imagewoof", 10, True)],
)
def test_flip_of_frepo(name: str, ipc: int, flip: bool) -> None:
    assert config("frepo", f"method.ipc={ipc}").resolved(facts(name)).method.flip is flip
    asked = config("frepo", f"method.ipc={ipc}", f"method.flip={not flip}".lower())
    assert asked.resolved(facts(name)).method.flip is not flip


@pytest.mark.parametrize(
    ("method", "channels", "said", "zca"),
    [("frepo", 3, "auto", "frepo"), ("frepo", 1, "auto", None), ("dm", 3, "auto", None), ("random", 3, "auto", None)]
    + [("frepo", 3, "null", None), ("dm", 3, "frepo", "frepo")],
)
def test_whitening(method: str, channels: int, said: str, zca: str | None) -> None:
    resolved = config(method, f"data.zca={said}").resolved(facts(channels=channels))
    assert resolved.data.zca == zca


def test_network_and_protocol_are_the_methods_own() -> None:
    dm, frepo = (config(method).resolved(facts()) for method in ("dm", "frepo"))
    assert (dm.net.name, dm.net.norm, dm.evaluate.protocol) == ("convnet", "instance", "dsa")
    assert (frepo.net.name, frepo.net.norm, frepo.evaluate.protocol) == ("frepo_convnet", "batch", "frepo")
    assert config("dm", "evaluate.protocol=frepo").resolved(facts()).evaluate.protocol == "frepo"


def test_resolving_again_changes_nothing() -> None:
    for method in ("dm", "frepo", "random"):
        once = config(method).resolved(facts())
        assert once.resolved(facts()) == once


@pytest.mark.parametrize(("said", "meant"), [("10", 10), ("3", 3), ("all", 10), ("99", 10)])
def test_classes_a_slot(said: str, meant: int) -> None:
    assert config("dm", f"method.classes_per_slot={said}").resolved(facts()).method.classes_per_slot == meant


@pytest.mark.parametrize(
    ("method", "overrides", "told"),
    [
        ("dm", ["method.classes_per_slot=0"], "method.classes_per_slot must be >= 1 or all, got 0"),
        (
            "frepo",
            ["method.models_per_round=11"],
            r"method.models_per_round must be <= method.pool_size \(10\), got 11",
        ),
        ("dm", ["method.ipc=5001"], r"method.ipc must be <= the size of the smallest class \(5000\) .* got 5001"),
        ("random", ["method.ipc=5001"], r"method.ipc must be <= the size of the smallest class \(5000\) .* got 5001"),
        ("dm", ["net.norm=batch", "method.classes_per_slot=2"], "classes_per_slot must be all, got 2"),
    ],
)
def test_more_than_the_data_or_the_method_have(method: str, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config(method, *overrides).resolved(facts())


def test_what_is_allowed_at_the_edge() -> None:
    config("dm", "method.ipc=5000").resolved(facts())
    config("dm", "method.ipc=6000", "method.init=noise").resolved(facts())
    config("dm", "net.norm=batch", "method.classes_per_slot=all").resolved(facts())
    for method in ("dc", "dsa", "mmd"):
        # No batch of theirs is of a slot's classes.
        assert config(method, "net.norm=batch", "method.classes_per_slot=2").resolved(facts()).net.norm == "batch"
    config("frepo", "method.models_per_round=10").resolved(facts())


@pytest.mark.parametrize(
    "override", ["seed=1", "data.val_fraction=0.1", "data.classes=[0]", "data.zca=frepo", "data.window=9"]
)
@pytest.mark.parametrize("method", ["dm", "frepo"])
def test_the_hash_covers_seed_and_data(method: str, override: str) -> None:
    before = config(method, "data.zca=null")
    assert config(method, "data.zca=null", override).hash("i") != before.hash("i")
    assert before.hash("j") != before.hash("i")


@pytest.mark.parametrize(
    "override",
    ["net.width=64", "net.act=sigmoid", "method.ipc=2", "method.lr_syn=0.5", "method.real_batch=8"]
    + ["data.statistics=fit", "engine.cpus_per_worker=2", "engine.deterministic=false", "engine.precision=tf32"],
)
def test_the_hash_covers_what_decides_the_bits(override: str) -> None:
    before = config("dm", "net.width=128")
    assert config("dm", "net.width=128", override).hash("i") != before.hash("i")


@pytest.mark.parametrize(
    "override",
    ["name=b", "store=s3://b/other", "data.train=elsewhere", "data.test=elsewhere", "data.cache=disk"]
    + ["engine.workers=8", "engine.min_workers=1", "engine.gpus_per_worker=1", "engine.checkpoint_every=7"]
    + ["engine.checkpoint_every_s=1", "engine.keep_checkpoints=9", "engine.step_timeout_s=5"]
    + ["engine.start_timeout_s=1", "engine.replace_timeout_s=1", "evaluate.repeats=1", "evaluate.protocol=frepo"]
    + ["evaluate.nets=[convnet]", "evaluate.baselines=[]", "evaluate.whole_epochs=1"],
)
def test_the_hash_leaves_out_where_and_how_it_is_done(override: str) -> None:
    assert config("dm", override).hash("i") == config("dm").hash("i")


def test_rounds_of_a_window_belong_to_the_hash_where_there_is_one() -> None:
    one, other = "data.window_rounds=7", "data.window_rounds=8"
    assert config("dm", one).hash("i") == config("dm", other).hash("i")
    assert "window_rounds" not in config("dm").identity("i")["data"]
    assert config("dm", "data.window=9", one).hash("i") != config("dm", "data.window=9", other).hash("i")


def test_rounds_belong_to_the_hash_where_a_schedule_depends_on_them() -> None:
    assert config("dm", "method.rounds=5").hash("i") == config("dm").hash("i")
    assert config("frepo", "method.rounds=5").hash("i") != config("frepo").hash("i")


def test_the_hash_is_of_values_not_of_how_they_were_said() -> None:
    said = config("dm", "method.lr_syn=1", "method.rounds=2e4", "net.width=128", "net.norm=instance")
    left_out = config("dm")
    assert said.resolved(facts()).hash("i") == left_out.resolved(facts()).hash("i")
    assert len(left_out.hash("i")) == 64
