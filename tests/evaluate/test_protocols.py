from __future__ import annotations

import math

import pytest
import torch

from raydd import config
from raydd.augment import dsa, frepo
from raydd.config import NETS
from raydd.evaluate import PROTOCOLS
from raydd.evaluate.protocols import DC, DD, DSA, FREPO, RTP


def test_every_protocol_a_config_may_name_is_there():
    assert tuple(PROTOCOLS) == config.PROTOCOLS
    assert all(name == protocol.name and protocol.summary for name, protocol in PROTOCOLS.items())


def test_dsa_trains_1001_epochs_and_drops_the_rate_once():
    recipe = DSA.recipe(600)
    # 600 images in batches of 256 are 3 updates an epoch; epochs 0 to 501 at the full rate, 502 to 1000 at a tenth.
    assert (recipe.batch, recipe.shuffle, recipe.num_updates(600)) == (256, True, 3003)
    assert [recipe.lr_at(step, 600) for step in (0, 1505)] == [0.01, 0.01]
    assert [recipe.lr_at(step, 600) for step in (1506, 3002)] == pytest.approx([0.001, 0.001])
    assert recipe.drop_step(600) == 1506
    assert (recipe.optimiser, recipe.momentum, recipe.weight_decay, recipe.loss) == ("sgd", 0.9, 5e-4, "cross_entropy")


def test_dsa_takes_a_small_set_as_one_batch():
    recipe = DSA.recipe(10)
    assert (recipe.batch, recipe.num_updates(10)) == (10, 1001)


@pytest.mark.parametrize(("data", "epochs"), [("cifar10", 300), ("fashion-mnist", 300), ("mnist", 1000)])
def test_dc_trains_longer_on_mnist_where_it_augments(data: str, epochs: int):
    protocol = DC.on(data)
    recipe = protocol.recipe(100)
    # As the authors count: epochs 0 to E, the rate falling at the end of epoch E // 2 + 1.
    assert (recipe.num_updates(100), recipe.drop_step(100)) == (epochs + 1, epochs // 2 + 2)
    assert [recipe.lr_at(step, 100) for step in (0, epochs)] == pytest.approx([0.01, 0.001])
    assert (recipe.momentum, recipe.weight_decay, recipe.loss) == (0.9, 5e-4, "cross_entropy")
    operations = protocol.operations(handwritten=True)
    assert operations == ("dc:crop_scale_rotate" if data == "mnist" else None)
    assert (protocol.augment(handwritten=True) is None) == (data != "mnist")
    assert protocol.net(NETS["convnet"](norm="batch")).norm == "instance"


@pytest.mark.parametrize("data", ["cifar10", "mnist"])
def test_dc_augments_for_a_convnet_with_batch_norm(data: str):
    protocol = DC.on(data, NETS["convnet"](norm="batch").model_dump())
    assert protocol.operations(handwritten=False) == "dc:crop_noise"
    assert protocol.recipe(10).num_updates(10) == 1001
    for net in (NETS["convnet"](norm="group"), NETS["resnet18"](norm="batch")):
        assert DC.on(data, net.model_dump()) is DC.on(data)
    assert DSA.on(data, NETS["convnet"](norm="batch").model_dump()) is DSA


def test_a_protocol_without_variants_is_the_same_on_all_data():
    assert all(DSA.on(data) is DSA for data in ("mnist", "cifar10"))


@pytest.mark.parametrize(
    ("images", "updates"),
    [
        # The paper's cells.
        (10, 1000),
        (100, 2000),
        (200, 20_000),
        (400, 5000),
        (500, 5000),
        (1000, 10_000),
        (2000, 40_000),
        (5000, 40_000),
        # Between and beyond them.
        (3, 1000),
        (11, 2000),
        (150, 20_000),
        (201, 5000),
        (501, 10_000),
        (10_000, 40_000),
    ],
)
def test_frepo_counts_updates_by_the_size_of_the_set(images: int, updates: int):
    recipe = FREPO.recipe(images)
    assert recipe.num_updates(images) == updates
    assert recipe.batch == min(images, 500)
    assert not recipe.shuffle


def test_frepo_warms_up_then_falls_to_one_percent():
    recipe = FREPO.recipe(100)
    assert recipe.lr_at(0, 100) == 0
    assert recipe.lr_at(250, 100) == pytest.approx(1.5e-4)
    assert recipe.lr_at(500, 100) == pytest.approx(3e-4)
    # Half way down the cosine: the mean of 1 and 0.01.
    assert recipe.lr_at(1250, 100) == pytest.approx(3e-4 * 0.505)
    assert recipe.lr_at(2000, 100) == pytest.approx(3e-6)
    assert (recipe.optimiser, recipe.loss, recipe.weight_decay) == ("adam", "mse", 0.0)


def test_rtp_trains_300_epochs_without_decay():
    recipe = RTP.recipe(1150)
    # 1150 images in batches of 640 are 2 updates an epoch.
    assert (recipe.batch, recipe.num_updates(1150), recipe.shuffle) == (640, 600, True)
    assert {recipe.lr_at(step, 1150) for step in range(600)} == {0.01}
    assert (recipe.optimiser, recipe.momentum, recipe.weight_decay, recipe.loss) == ("sgd", 0.9, 0.0, "cross_entropy")


@pytest.mark.parametrize(
    ("data", "operations"),
    [("cifar10", "dsa:flip_rotate"), ("cifar100", "dsa:flip_rotate")]
    + [(data, None) for data in ("mnist", "fashion-mnist", "svhn", "tiny-imagenet", "anything")],
)
def test_rtp_augments_cifar_only(data: str, operations: str | None):
    assert RTP.on(data).operations(handwritten=data in ("mnist", "svhn")) == operations
    assert RTP.on(data).training == RTP.training


def test_dd_learns_by_the_learned_steps_alone():
    assert (DD.learned_steps, DD.init, DD.augmentation) == (True, "xavier", None)
    assert not any(protocol.learned_steps or protocol.init for protocol in (DC, DSA, FREPO, RTP))


@pytest.mark.parametrize("protocol", [DSA, FREPO], ids=lambda p: p.name)
def test_the_whole_set_is_trained_on_with_a_cosine_to_zero(protocol):
    recipe = protocol.whole_recipe(60_000, 20)
    # 1,200,000 images in batches of 256.
    assert (recipe.batch, recipe.num_updates(60_000), recipe.shuffle) == (256, math.ceil(1_200_000 / 256), True)
    assert recipe.lr_at(recipe.num_updates(60_000), 60_000) == pytest.approx(0)
    assert (recipe.optimiser, recipe.loss, recipe.lr) == (
        protocol.training.optimiser,
        protocol.training.loss,
        protocol.training.lr,
    )
    assert protocol.whole_recipe(1000, 20).num_updates(1000) == 1000


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
def test_norms(norm: str):
    net = NETS["convnet"](norm=norm, width=16, depth=2)
    assert FREPO.net(net) == net.model_copy(update={"norm": "none"})
    assert DSA.net(net).norm == ("instance" if norm == "batch" else norm)


def test_targets_by_hand():
    hard = torch.tensor([2, 0])
    soft = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]])
    assert DSA.targets(hard, 3) is hard
    assert DSA.targets(soft, 3).tolist() == [1, 0]
    assert FREPO.targets(soft, 3) is soft
    # C = 40: (1 - 1/40) / sqrt(40 / 10) and (-1/40) / 2.
    centred = FREPO.targets(torch.tensor([1]), 40)
    assert centred[0, 1] == pytest.approx(0.4875)
    assert centred[0, 0] == pytest.approx(-0.0125)


def test_handwriting_is_never_mirrored(monkeypatch: pytest.MonkeyPatch):
    for family in (dsa, frepo):
        monkeypatch.setattr(family, "per_image", lambda strategy: strategy)
    assert DSA.augment(handwritten=False) == "color_crop_cutout_flip_scale_rotate"
    assert DSA.augment(handwritten=True) == "color_crop_cutout_scale_rotate"
    assert FREPO.augment(handwritten=False) == "flip_color_crop_rotate_translate_cutout"
    assert FREPO.augment(handwritten=True) == "color_crop_rotate_translate_cutout"


def test_fashion_is_mirrored_but_by_frepo():
    operations = [protocol.on("fashion-mnist").operations(handwritten=False) for protocol in (DSA, FREPO)]
    assert operations == ["dsa:color_crop_cutout_flip_scale_rotate", "frepo:color_crop_rotate_translate_cutout"]


@pytest.mark.parametrize("protocol", [DSA, FREPO], ids=lambda p: p.name)
def test_augmentation_keeps_shape_and_is_keyed(protocol):
    augment = protocol.augment(handwritten=False)
    assert augment is not None
    x = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    first, again = (augment(x, torch.Generator().manual_seed(5)) for _ in range(2))
    assert first.shape == x.shape
    assert torch.equal(first, again)
