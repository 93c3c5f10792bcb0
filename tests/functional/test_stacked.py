import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raydd.augment import per_image
from raydd.config import NETS
from raydd.errors import ConfigError
from raydd.functional import stacked
from raydd.functional.fold import GroupProduct, fold, fold_images, fold_states, unfold_states
from raydd.functional.losses import centred_labels
from raydd.functional.recipe import TrainRecipe
from raydd.functional.stacked import train_group
from raydd.functional.train import train
from raydd.nets import apply, build, initialise
from raydd.nets.layers import BlockNet

SGD = TrainRecipe(optimiser="sgd", lr=0.05, momentum=0.9, weight_decay=5e-4, epochs=2, batch=2)
DROP = replace(SGD, epochs=4, schedule="drop", drop_epoch=2, final=0.1)
ADAM = TrainRecipe(optimiser="adam", lr=1e-3, updates=5, batch=2, loss="mse", shuffle=False, schedule="cosine")
LARGE = {"vgg11": 32, "resnet18": 16, "resnet18_ap": 16}
EVERY = [
    (name, norm)
    for name, model in NETS.items()
    for norm in (get_args(model.model_fields["norm"].annotation) if "norm" in model.model_fields else (None,))
    if norm != "auto"
]


def network(name="convnet", edge=16, **choices):
    fields = NETS[name].model_fields
    small = {key: value for key, value in {"width": 8, "depth": 2}.items() if key in fields}
    return build(NETS[name](**{**small, **choices}), (3, edge, edge), 4)


def setting(module, count=3, images=5, edge=16, dtype=torch.float64):
    states = [initialise(module, torch.Generator().manual_seed(i)).to(dtype=dtype) for i in range(count)]
    gen = torch.Generator().manual_seed(count)
    x = torch.randn(count, images, 3, edge, edge, generator=gen, dtype=dtype)
    return states, x, torch.randint(4, (count, images), generator=gen)


def apart(module, states, x, y, recipe, seeds, augment=None):
    return [
        train(module, *each, recipe, seed=seed, augment=augment)
        for *each, seed in zip(states, x, y, seeds, strict=True)
    ]


def furthest(ours, theirs):
    return max(
        (a.tensors()[name] - b.tensors()[name]).abs().max().item()
        for a, b in zip(ours, theirs, strict=True)
        for name in b.tensors()
    )


def equal(ours, theirs):
    return furthest(ours, theirs) == 0


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_every_network_trains_stacked_as_alone(name, norm):
    choices = {} if norm is None else {"norm": norm}
    module = network(name, LARGE.get(name, 16), **choices)
    assert fold(module, 2) is not None
    if name in LARGE:
        # One update of millions of numbers, in the precision that is quick.
        states, x, y = setting(module, count=2, images=2, edge=LARGE[name], dtype=torch.float32)
        recipe, near = replace(SGD, epochs=1), 2e-5
    else:
        states, x, y = setting(module, count=2)
        recipe, near = SGD, 1e-9
    alone = apart(module, states, x, y, recipe, (7, 8))
    assert furthest(alone, states) > 1e-2
    assert furthest(train_group(module, states, x, y, recipe, seeds=(7, 8)), alone) < near


@pytest.mark.parametrize("choices", [{"act": "sigmoid"}, {"act": "swish", "pool": "max"}, {"pool": "none"}])
def test_every_choice_of_the_convnet_trains_stacked_as_alone(choices):
    module = network(**choices)
    states, x, y = setting(module)
    alone = apart(module, states, x, y, DROP, range(3))
    assert furthest(train_group(module, states, x, y, DROP, seeds=range(3)), alone) < 1e-9


def test_soft_labels_and_adam():
    module = network(norm="none")
    states, x, y = setting(module)
    soft = torch.stack([centred_labels(labels, 4) for labels in y]).double()
    alone = apart(module, states, x, soft, ADAM, range(3))
    assert furthest(train_group(module, states, x, soft, ADAM, seeds=range(3)), alone) < 1e-7


def test_each_network_keeps_its_own_augmentation():
    module, augment = network(), per_image("dsa:color_crop_cutout_flip_scale_rotate")
    states, x, y = setting(module)
    alone = apart(module, states, x, y, SGD, range(3), augment)
    together = train_group(module, states, x, y, SGD, seeds=range(3), augment=augment)
    assert furthest(together, alone) < 1e-9
    assert furthest(together, apart(module, states, x, y, SGD, (2, 1, 0), augment)) > 1e-3


def test_images_may_be_common_and_inputs_stay_as_they_are():
    module = network(norm="batch")
    states, x, y = setting(module)
    before = [state.clone() for state in states]
    common, labels = x[:1].expand_as(x), y[:1].expand_as(y)
    alone = apart(module, states, common, labels, SGD, range(3))
    assert furthest(train_group(module, states, common, labels, SGD, seeds=range(3)), alone) < 1e-9
    assert equal(states, before)


def test_one_network_is_trained_as_ever_to_the_last_bit():
    module = network()
    states, x, y = setting(module, count=1, dtype=torch.float32)
    states = [state.channels_last() for state in states]
    (alone,) = apart(module, states, x, y, SGD, (5,))
    (grouped,) = train_group(module, states, x, y, SGD, seeds=(5,))
    assert equal([grouped], [alone])


def test_what_comes_back_is_like_what_went_in():
    module = network(norm="batch")
    states, x, y = setting(module, dtype=torch.float32)
    trained = train_group(module, states, x, y, SGD, seeds=range(3))
    for state in trained:
        assert {n: t.shape for n, t in state.tensors().items()} == {n: t.shape for n, t in states[0].tensors().items()}
        assert state.buffers["blocks.1.num_batches_tracked"].item() == 6
        assert state.params["blocks.4.weight"].is_contiguous(memory_format=torch.channels_last)
    assert equal(unfold_states(fold_states(states), 3), states)


def test_as_many_are_stacked_as_a_step_may_see_pixels(monkeypatch):
    widths = []
    monkeypatch.setattr(stacked, "fold", lambda module, count: widths.append(count) or fold(module, count))
    monkeypatch.setattr(stacked, "MOST_PIXELS", 2 * 2 * 16 * 16)
    module = network()
    states, x, y = setting(module, count=5)
    alone = apart(module, states, x, y, SGD, range(5))
    assert furthest(train_group(module, states, x, y, SGD, seeds=range(5)), alone) < 1e-9
    assert widths == [2, 2]
    monkeypatch.setattr(stacked, "MOST_PIXELS", 1)
    assert equal(train_group(module, states, x, y, SGD, seeds=range(5)), alone)


def test_a_network_of_foreign_make_is_trained_one_by_one():
    class Foreign(BlockNet):
        """Sees all channels at once, which no rule could tell."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
            self.classifier = nn.Linear(4 * 14 * 14, 4)

        def forward(self, x, features=False):
            return super().forward(x - x.mean(1, keepdim=True), features)

    class Odd(nn.Module):
        """A layer in a network of ours."""

        def forward(self, x):
            return x - x.mean(1, keepdim=True)

    with torch.device("meta"):
        foreign, ours = Foreign(), network()
    ours.blocks.append(Odd())
    for module in (foreign, ours):
        assert fold(module, 3) is None
        states, x, y = setting(module)
        alone = apart(module, states, x, y, SGD, range(3))
        assert equal(train_group(module, states, x, y, SGD, seeds=range(3)), alone)


def test_a_folded_network_is_its_networks_side_by_side():
    module = network("frepo_convnet", norm="layer")
    states, x, _ = setting(module, count=2)
    wide = fold(module, 2)
    numbers = fold_states(states)
    assert [p.shape for p in wide.parameters()] == [p.shape for p in numbers.params.values()]
    logits = apply(wide, numbers.params, numbers.buffers, fold_images(x))
    each = torch.cat([apply(module, s.params, s.buffers, images) for s, images in zip(states, x, strict=True)], 1)
    torch.testing.assert_close(logits, each)


@pytest.mark.parametrize(
    ("kernel", "padding", "edge"), [(3, 1, 5), (5, 2, 7), (3, 0, 4), (5, 0, 8), (3, 3, 6), (1, 0, 4)]
)
@pytest.mark.parametrize("biased", [True, False])
def test_products_of_matrices_are_the_convolution(kernel, padding, edge, biased):
    gen = torch.Generator().manual_seed(0)
    options = {"generator": gen, "dtype": torch.float64}
    x = torch.randn(2, 3 * 2, edge, edge + 1, **options).requires_grad_()
    weight = torch.randn(3 * 4, 2, kernel, kernel, **options).requires_grad_()
    bias = torch.randn(12, **options).requires_grad_() if biased else None
    expected = F.conv2d(x, weight, bias, padding=padding, groups=3)
    got = GroupProduct.apply(x, weight, bias, (padding, padding), 3)
    torch.testing.assert_close(got, expected)
    ins, out = [x, weight, *([bias] if biased else [])], torch.randn(expected.shape, **options)
    for ours, theirs in zip(torch.autograd.grad(got, ins, out), torch.autograd.grad(expected, ins, out), strict=True):
        torch.testing.assert_close(ours, theirs)
    # Images that need no gradient, as in a first layer.
    (alone,) = torch.autograd.grad(GroupProduct.apply(x.detach(), weight, bias, (padding, padding), 3), weight, out)
    torch.testing.assert_close(alone, torch.autograd.grad(F.conv2d(x, weight, bias, 1, padding, 1, 3), weight, out)[0])


def test_networks_train_through_products_of_matrices_as_alone(monkeypatch):
    """The path of a GPU, on the CPU."""
    called = []

    def product(x, weight, bias, stride, padding, groups):
        called.append(groups)
        return (
            GroupProduct.apply(x, weight, bias, padding, groups)
            if set(stride) == {1}
            else real(x, weight, bias, stride, padding, groups=groups)
        )

    module = network(norm="none")
    states, x, y = setting(module)
    alone = apart(module, states, x, y, SGD, range(3))
    real = F.conv2d
    monkeypatch.setattr("raydd.functional.fold.F", SimpleNamespace(conv2d=product, pad=F.pad, layer_norm=F.layer_norm))
    assert furthest(train_group(module, states, x, y, SGD, seeds=range(3)), alone) < 1e-9
    assert set(called) == {3}


def test_hostile_data_is_refused():
    module = network()
    states, x, y = setting(module)
    with pytest.raises(ConfigError, match=r"one label an image and at least one image, got 0 images, 0 labels"):
        train_group(module, states, x[:, :0], y[:, :0], SGD, seeds=range(3))
    with pytest.raises(ConfigError, match=r"'mse' takes soft labels .* got shape \(5,\): use centred_labels"):
        train_group(module, states, x, y, ADAM, seeds=range(3))


@pytest.mark.parametrize("norm", ["batch", "layer", "instance"])
def test_folding_does_not_load_the_compiler(norm, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    assert fold(network(norm=norm), 3) is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_on_a_gpu_every_network_trains_stacked_as_alone(name, norm):
    module = network(name, LARGE.get(name, 16), **({} if norm is None else {"norm": norm}))
    states, x, y = setting(module, count=4, edge=LARGE.get(name, 16), dtype=torch.float32)
    states, x, y = [state.to("cuda").channels_last() for state in states], x.cuda(), y.cuda()
    recipe, augment = replace(SGD, epochs=1), per_image("dsa:color_crop_cutout_flip_scale_rotate")

    def stack():
        return train_group(module, states, x, y, recipe, seeds=range(4), augment=augment)

    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        alone = apart(module, states, x, y, recipe, range(4), augment)
        assert furthest(alone, states) > 1e-2
        assert furthest(stack(), alone) < 2e-3
        # Poolings that overlap are not the same every time outside of deterministic mode.
        assert name == "alexcifarnet" or equal(stack(), stack())
