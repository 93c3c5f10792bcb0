"""MLP, LeNet, AlexNet, AlexCifarNet, VGG11 and both ResNets."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from raydd.config import NETS, DataFacts
from raydd.errors import ConfigError
from raydd.nets import NETS as LINES
from raydd.nets import apply, build, initialise
from raydd.nets.layers import LocalResponseNorm
from raydd.nets.resnet import Residual

OTHERS = ["mlp", "lenet", "alexnet", "alexcifarnet", "vgg11", "resnet18", "resnet18_ap"]


def config(name, size=32, channels=3, **options):
    facts = DataFacts(name="toy", channels=channels, size=size, num_classes=10, smallest_class=1)
    return NETS[name](**options).resolved(facts)


def count(name, shape, classes=10, **options) -> int:
    return sum(p.numel() for p in build(config(name, **options), shape, classes).parameters())


def conv(inputs, outputs, kernel) -> int:
    return outputs * (inputs * kernel**2 + 1)


def images(n, channels, size, seed=0, dtype=torch.float32):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def state_of(module, seed=0):
    return initialise(module, torch.Generator().manual_seed(seed))


def test_every_network_of_the_config_is_built_and_described():
    assert NETS.keys() == LINES.keys()


# Parameters

ALEXNET = conv(3, 128, 5) + conv(128, 192, 5) + conv(192, 256, 3) + conv(256, 192, 3) + conv(192, 192, 3)
VGG = (
    conv(3, 64, 3)
    + conv(64, 128, 3)
    + conv(128, 256, 3)
    + conv(256, 256, 3)
    + conv(256, 512, 3)
    + 3 * conv(512, 512, 3)
)


@pytest.mark.parametrize(
    ("name", "options", "shape", "params"),
    [
        ("mlp", {}, (1, 28, 28), 785 * 128 + 129 * 128 + 129 * 10),
        ("mlp", {"width": 7}, (3, 4, 4), 49 * 7 + 8 * 7 + 8 * 10),
        ("lenet", {}, (1, 28, 28), 61_706),  # LeNet-5's published count
        ("lenet", {}, (3, 32, 32), 61_706 + 2 * 6 * 25),
        ("alexnet", {}, (3, 32, 32), ALEXNET + 3073 * 10),
        ("alexnet", {"norm": "batch"}, (3, 32, 32), 1_872_202 + 2 * (128 + 192 + 256 + 192 + 192)),
        ("alexnet", {"norm": "instance"}, (3, 64, 64), ALEXNET + 2 * 960 + (192 * 64 + 1) * 10),
        ("alexcifarnet", {}, (3, 32, 32), conv(3, 64, 5) + conv(64, 64, 5) + 4097 * 384 + 385 * 192 + 193 * 10),
        ("vgg11", {"norm": "batch"}, (3, 32, 32), 9_231_114),  # VGG11 on CIFAR as commonly quoted
        ("vgg11", {}, (3, 96, 96), 9_231_114),
        ("vgg11", {"norm": "none"}, (3, 32, 32), VGG + 513 * 10),
        ("resnet18", {}, (3, 32, 32), 11_173_962),  # ResNet18 on CIFAR as commonly quoted
        ("resnet18", {"norm": "batch"}, (3, 64, 64), 11_173_962),
        ("resnet18_ap", {}, (3, 32, 32), 11_173_962 + 512 * 15 * 10),
        ("resnet18_ap", {}, (1, 28, 28), 11_173_962 - 2 * 64 * 9 + 512 * 8 * 10),  # 3x3 pixels are left
    ],
)
def test_parameter_count(name, options, shape, params):
    assert count(name, shape, **options) == params


# Shapes


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64, 96, 128])
def test_every_size(name, channels, size):
    module = build(config(name, size, channels), (channels, size, size), 10)
    with torch.device("meta"):
        x = torch.empty(2, channels, size, size)
        assert module(x).shape == (2, 10)
        assert module(x, features=True).shape == (2, module.classifier.in_features)


@pytest.mark.parametrize(
    ("name", "size", "features"),
    [
        ("mlp", 28, 128),
        ("lenet", 28, 84),
        ("alexnet", 28, 192 * 16),
        ("alexnet", 64, 192 * 64),
        ("vgg11", 28, 512),
        ("vgg11", 64, 512),
        ("resnet18", 28, 512),
        ("resnet18_ap", 28, 512 * 9),
        ("resnet18_ap", 32, 512 * 16),
    ],
)
def test_feature_width(name, size, features):
    assert build(config(name, size, 1), (1, size, size), 10).classifier.in_features == features


@pytest.mark.parametrize(("name", "least"), [("lenet", 16), ("alexnet", 8), ("vgg11", 32), ("resnet18", 16)])
def test_images_that_are_too_small_are_refused(name, least):
    with pytest.raises(ConfigError, match=f"net.name {name} takes images of at least {least} pixels, got {least - 1}"):
        build(config(name), (3, least - 1, least - 1), 10)
    with torch.device("meta"):
        assert build(config(name), (3, least, least), 10)(torch.empty(2, 3, least, least)).shape == (2, 10)


@pytest.mark.parametrize("name", OTHERS)
def test_every_network_runs_and_differentiates_twice(name):
    """Gradient matching differentiates the gradient of the weights by the images."""
    size = 32 if name == "vgg11" else 16
    module = build(config(name), (3, size, size), 4)
    state = state_of(module)
    x, weight = images(2, 3, size).requires_grad_(), next(iter(state.params.values())).requires_grad_()
    out = apply(module, state.params, state.buffers, x, train=True)
    (first,) = torch.autograd.grad(out.logsumexp(1).sum(), weight, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    assert out.shape == (2, 4)
    assert second.isfinite().all()
    assert second.abs().max() > 0


# Arithmetic


@pytest.mark.parametrize("channels", [3, 4, 5])
def test_local_response_norm_is_torchs(channels):
    x = 30 * images(2, channels, 6)
    torch.testing.assert_close(LocalResponseNorm(4, 0.1, 0.75, 1.0)(x), F.local_response_norm(x, 4, 0.1, 0.75, 1.0))
    double = images(1, channels, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(LocalResponseNorm(4, 0.5, 0.75, 1.0), (double,))


def test_alexcifarnet_equals_its_layers():
    module = build(config("alexcifarnet"), (3, 32, 32), 10)
    state, x = state_of(module), images(2, 3, 32)
    p, response = list(state.params.values()), (4, 0.001 / 9, 0.75, 1.0)
    h = F.max_pool2d(F.conv2d(x, p[0], p[1], padding=2).relu(), 3, 2, 1)
    h = F.conv2d(F.local_response_norm(h, *response), p[2], p[3], padding=2).relu()
    h = F.max_pool2d(F.local_response_norm(h, *response), 3, 2, 1).flatten(1)
    h = F.linear(F.linear(h, p[4], p[5]).relu(), p[6], p[7]).relu()
    torch.testing.assert_close(apply(module, state.params, {}, x, features=True), h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(apply(module, state.params, {}, x), h @ p[8].T + p[9], rtol=1e-4, atol=1e-5)


def test_alexcifarnet_starts_as_dd_does():
    """Xavier: normal with variance 2 / (fan in + fan out), whatever the fans are; zero biases."""
    state = state_of(build(config("alexcifarnet"), (3, 32, 32), 10))
    for layer, fans in (("blocks.0", 3 * 25 + 64 * 25), ("blocks.4", 2 * 64 * 25), ("blocks.9", 4096 + 384)):
        weight = state.params[f"{layer}.weight"]
        assert weight.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.05)
        assert weight.abs().max() > 2.5 * weight.std()
        assert state.params[f"{layer}.bias"].eq(0).all()


def test_lenet_equals_its_layers():
    module = build(config("lenet"), (1, 28, 28), 10)
    state, x = state_of(module), images(2, 1, 28)
    p = list(state.params.values())
    h = F.max_pool2d(F.conv2d(x, p[0], p[1], padding=2).relu(), 2)
    h = F.max_pool2d(F.conv2d(h, p[2], p[3]).relu(), 2).flatten(1)
    for i in (4, 6):
        h = F.linear(h, p[i], p[i + 1]).relu()
    torch.testing.assert_close(apply(module, state.params, {}, x), h @ p[8].T + p[9], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"norm": "batch"}, {"norm": "instance", "pool": "avg"}])
def test_alexnet_order(options):
    norm = {"batch": ["BatchNorm2d"], "instance": ["InstanceNorm"]}.get(options.get("norm"), [])
    one, pool = ["Conv2d", *norm, "ReLU"], ["AvgPool2d" if options.get("pool") == "avg" else "MaxPool2d"]
    module = build(config("alexnet", **options), (1, 28, 28), 10)
    assert [type(layer).__name__ for layer in module.blocks] == (one + pool) * 2 + one * 3 + pool
    convolutions = [layer for layer in module.blocks if isinstance(layer, nn.Conv2d)]
    assert [c.kernel_size[0] for c in convolutions] == [5, 5, 3, 3, 3]
    assert [c.padding[0] for c in convolutions] == [4, 2, 1, 1, 1]  # 28 pixels become 32


def with_buffers(module):
    """Return a network's state with running statistics that are not the identity."""
    state = state_of(module)
    for name, buffer in state.buffers.items():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(len(name))) + 0.5)
    return state


@torch.no_grad()
def reference(plain, state):
    """Fill a network of torchvision, whose parameters and statistics come in the same order."""
    plain = plain.to_empty(device="cpu").eval()
    for theirs, ours in zip(plain.parameters(), state.params.values(), strict=True):
        theirs.copy_(ours)
    for theirs, ours in zip(plain.buffers(), state.buffers.values(), strict=True):
        theirs.copy_(ours)
    return plain


def test_vgg11_is_torchvisions_with_one_linear_layer():
    module = build(config("vgg11", norm="batch"), (3, 32, 32), 10)
    state, x = with_buffers(module), images(2, 3, 32)
    with torch.device("meta"):
        plain = nn.Sequential(torchvision.models.vgg11_bn().features, nn.Flatten(), nn.Linear(512, 10))
    expected = reference(plain, state)(x)
    torch.testing.assert_close(apply(module, state.params, state.buffers, x), expected, rtol=1e-4, atol=1e-4)


def test_resnet18_is_torchvisions_with_a_small_stem():
    module = build(config("resnet18", norm="batch"), (3, 32, 32), 10)
    state, x = with_buffers(module), images(2, 3, 32)
    with torch.device("meta"):
        plain = torchvision.models.resnet18(num_classes=10)
        plain.conv1, plain.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    expected = reference(plain, state)(x)
    torch.testing.assert_close(apply(module, state.params, state.buffers, x), expected, rtol=1e-4, atol=1e-4)


def test_average_pooling_block_equals_its_equation():
    block = Residual(4, 6, 2, "instance", average=True)
    first, _, _, _, second, _ = block.residual
    x = images(2, 4, 9)
    h = F.avg_pool2d(F.instance_norm(F.conv2d(x, first.weight, padding=1)).relu(), 2)
    h = F.instance_norm(F.conv2d(h, second.weight, padding=1))
    shortcut = F.instance_norm(F.avg_pool2d(F.conv2d(x, block.shortcut[0].weight), 2))
    assert h.shape == (2, 6, 4, 4)
    torch.testing.assert_close(block(x), (h + shortcut).relu(), rtol=1e-4, atol=1e-5)


# Configs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lenet", NETS["lenet"]()),
        ("vgg11:norm=batch", NETS["vgg11"](norm="batch")),
        ("alexnet:norm=instance,pool=avg", NETS["alexnet"](norm="instance", pool="avg")),
        ("mlp:width=64", NETS["mlp"](width=64)),
    ],
)
def test_configs_as_text(text, expected):
    from pydantic import TypeAdapter

    from raydd.config import NetConfig
    from raydd.evaluate.score import net_text

    read = TypeAdapter(NetConfig).validate_python(text)
    assert read == expected
    assert TypeAdapter(NetConfig).validate_python(net_text(read)) == expected


@pytest.mark.parametrize(
    ("name", "options"), [("lenet", {"width": 3}), ("resnet18", {"norm": "none"}), ("mlp", {"depth": 1})]
)
def test_what_a_network_does_not_have_is_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        NETS[name](**options)


def test_protocols_replace_norms_where_there_are_any():
    batch, none = {"batch": "instance"}, dict.fromkeys(("batch", "instance"), "none")
    assert NETS["lenet"]().renormed(batch) == NETS["lenet"]()
    assert NETS["resnet18"](norm="batch").renormed(batch) == NETS["resnet18"]()
    assert NETS["alexnet"]().renormed(batch) == NETS["alexnet"]()
    assert NETS["vgg11"](norm="batch").renormed(none) == NETS["vgg11"](norm="batch")
    assert NETS["convnet"]().renormed(none) == NETS["convnet"](norm="none")
