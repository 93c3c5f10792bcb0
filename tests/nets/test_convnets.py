from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from raydd.errors import ConfigError
from raydd.nets import NETS, NetConfig, apply, available, build, initialise


def config(name="convnet", **changes) -> NetConfig:
    norm = "batch" if name == "frepo_convnet" else "instance"
    return SimpleNamespace(
        **{"name": name, "width": 8, "depth": 3, "norm": norm, "act": "relu", "pool": "avg", **changes}
    )


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def network(net: NetConfig, shape=(3, 16, 16), classes=4, seed=0):
    module = build(net, shape, classes)
    return module, initialise(module, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("net", "shape", "classes", "params"),
    [
        (config(width=128), (3, 32, 32), 10, 320_010),  # the count that the DC family quotes
        (config(width=128), (1, 28, 28), 10, 317_706),  # padded to 32 pixels: two kernels of 9 x 128 fewer
        (config(width=128, depth=4), (3, 64, 64), 200, 3584 + 3 * 147_584 + 4 * 256 + 2048 * 200 + 200),
        (config("frepo_convnet", width=128), (3, 32, 32), 10, 1_561_610),
        (config("frepo_convnet", width=128, norm="none"), (3, 32, 32), 10, 1_560_842),
        (config(width=4, depth=1, norm="layer"), (2, 6, 8), 3, 4 * 2 * 9 + 4 + 2 * 4 * 6 * 8 + 4 * 3 * 4 * 3 + 3),
        (config(width=4, depth=2, norm="none", pool="none"), (1, 2, 2), 3, 4 * 9 + 4 + 4 * 4 * 9 + 4 + 4 * 4 * 3 + 3),
    ],
)
def test_parameter_count(net, shape, classes, params):
    assert count(build(net, shape, classes)) == params


@pytest.mark.parametrize(
    ("net", "shape", "features"),
    [
        (config(width=128), (3, 32, 32), 2048),
        (config(width=128), (1, 28, 28), 2048),
        (config(width=128), (1, 8, 8), 128),
        (config("frepo_convnet", width=128), (3, 32, 32), 8192),
        (config("frepo_convnet", width=128, depth=4), (3, 64, 64), 16384),
        (config("frepo_convnet", width=128, depth=5), (3, 128, 128), 32768),
        (config("frepo_convnet", width=128), (1, 28, 28), 512 * 3 * 3),
    ],
)
def test_feature_width(net, shape, features):
    module = build(net, shape, 10)
    with torch.device("meta"):
        assert module(torch.empty(2, *shape), features=True).shape == (2, features)
        assert module(torch.empty(2, *shape)).shape == (2, 10)


def kinds(module):
    return [type(layer).__name__ for layer in module.blocks]


def test_convnet_order():
    block = ["Conv2d", "InstanceNorm", "ReLU", "AvgPool2d"]
    assert kinds(build(config(), (3, 32, 32), 10)) == block * 3


def test_frepo_order_norm_stands_before_the_convolution_and_not_in_the_first_block():
    module = build(config("frepo_convnet"), (3, 32, 32), 10)
    first, block = ["Conv2d", "ReLU", "AvgPool2d"], ["BatchNorm2d", "Conv2d", "ReLU", "AvgPool2d"]
    assert kinds(module) == first + block * 2
    assert [layer.out_channels for layer in module.blocks if isinstance(layer, nn.Conv2d)] == [8, 16, 32]
    assert [layer.num_features for layer in module.blocks if isinstance(layer, nn.BatchNorm2d)] == [8, 16]


def test_evaluation_net_has_no_norm():
    assert kinds(build(config("frepo_convnet", norm="none"), (3, 32, 32), 10)) == ["Conv2d", "ReLU", "AvgPool2d"] * 3


def test_convnet_equals_its_equation():
    module, state = network(config(depth=2))
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    p, h = list(state.params.values()), x
    for weight, bias, gain, offset in (p[0:4], p[4:8]):
        h = F.conv2d(h, weight, bias, padding=1)
        mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), keepdim=True, correction=0)
        h = (h - mean) / (var + 1e-5).sqrt() * gain[:, None, None] + offset[:, None, None]
        h = F.avg_pool2d(h.clamp(min=0), 2)
    expected = h.reshape(3, -1) @ p[8].T + p[9]
    torch.testing.assert_close(apply(module, state.params, state.buffers, x), expected, rtol=1e-4, atol=1e-5)
    features = apply(module, state.params, state.buffers, x, features=True)
    torch.testing.assert_close(features, h.reshape(3, -1), rtol=1e-4, atol=1e-5)


def test_frepo_equals_its_equation_in_eval_mode():
    module, state = network(config("frepo_convnet", depth=2))
    state.buffers["blocks.3.running_mean"].fill_(0.25)
    state.buffers["blocks.3.running_var"].fill_(4.0)
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    p = list(state.params.values())
    h = F.avg_pool2d(F.conv2d(x, p[0], p[1], padding=1).clamp(min=0), 2)
    h = (h - 0.25) / (4 + 1e-5) ** 0.5
    h = F.avg_pool2d(F.conv2d(h, p[4], p[5], padding=1).clamp(min=0), 2)
    torch.testing.assert_close(
        apply(module, state.params, state.buffers, x, features=True), h.flatten(1), rtol=1e-4, atol=1e-5
    )


def test_grey_28_pixels_become_32():
    module, _ = network(config(), (1, 28, 28))
    with torch.device("meta"):
        assert module.blocks[0](torch.empty(1, 1, 28, 28)).shape[-2:] == (32, 32)


@pytest.mark.parametrize("name", ["convnet", "frepo_convnet"])
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance", "group"])
@pytest.mark.parametrize(("act", "pool"), [("sigmoid", "none"), ("leaky_relu", "max"), ("swish", "avg")])
def test_every_variant_runs(name, norm, act, pool):
    net = config(name, norm=norm, act=act, pool=pool, depth=2, width=4)
    module, state = network(net, (3, 10, 13))
    x = torch.randn(2, 3, 10, 13, generator=torch.Generator().manual_seed(0))
    out = apply(module, state.params, state.buffers, x, train=True)
    assert out.shape == (2, 4)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"depth": 4}, (1, 8, 8), r"^net.depth must be <= 3 for images of 8 pixels, got 4: .*; lower it"),
        ({"depth": 4}, (1, 64, 9), r"^net.depth must be <= 3 for images of 9 pixels, got 4"),
        ({"depth": 1}, (1, 1, 1), r"^net.depth must be <= 0 .*; set net.pool to none"),
        ({"depth": 0}, (1, 8, 8), r"^net.depth must be a number >= 1, got 0"),
        ({"depth": "auto"}, (1, 8, 8), r"^net.depth must be a number >= 1, got 'auto'"),
        ({"width": 0}, (1, 8, 8), r"^net.width must be >= 1, got 0"),
        ({"width": 6, "norm": "group"}, (1, 8, 8), r"^net.width must be a multiple of 4 with net.norm group, got 6"),
        ({"norm": "bach"}, (1, 8, 8), r"^net.norm must be one of none, batch, layer, instance, group, got 'bach'"),
        ({"act": "tanh"}, (1, 8, 8), r"^net.act must be one of relu, .*, got 'tanh'"),
        ({"pool": "min"}, (1, 8, 8), r"^net.pool must be one of none, max, avg, got 'min'"),
        ({"name": "resnet9000"}, (1, 8, 8), r"^net.name must be one of .*convnet.*, got 'resnet9000'"),
    ],
)
def test_the_impossible_is_refused(changes, shape, message):
    with pytest.raises(ConfigError, match=message):
        build(config(**changes), shape, 10)


def test_depth_limit_is_the_last_that_works():
    build(config(depth=3), (1, 8, 8), 10)
    build(config(depth=9, pool="none"), (1, 8, 8), 10)


def test_channels_last_gives_the_same_features_in_the_same_order():
    module, state = network(config())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    plain = apply(module, state.params, state.buffers, x, features=True)
    last = state.channels_last()
    assert last.params["blocks.0.weight"].is_contiguous(memory_format=torch.channels_last)
    fast = apply(module, last.params, last.buffers, x.contiguous(memory_format=torch.channels_last), features=True)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)


def test_second_derivatives_exist():
    """Gradient matching differentiates the gradient of the weights by the images."""
    module, state = network(config(depth=2, width=4), (3, 4, 4))
    state = state.to(dtype=torch.float64)
    weight = state.params["blocks.0.weight"].requires_grad_()

    def of_images(x):
        loss = apply(module, state.params, state.buffers, x).logsumexp(1).sum()
        return torch.autograd.grad(loss, weight, create_graph=True)[0].sin().sum()

    gen = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 4, generator=gen, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(of_images, (x,))


def test_a_network_runs_under_vmap():
    module = build(config(), (3, 16, 16), 4)
    states = [initialise(module, torch.Generator().manual_seed(i)) for i in range(3)]
    stacked = {name: torch.stack([s.params[name] for s in states]) for name in states[0].params}
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    together = torch.func.vmap(lambda p: apply(module, p, {}, x))(stacked)
    alone = torch.stack([apply(module, s.params, {}, x) for s in states])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_registry_lists_one_line_each():
    assert set(NETS) <= set(available())
    assert all(line and "\n" not in line for line in available().values())


def test_announced_network_is_built(monkeypatch):
    class Point:
        name, value = "tiny", "elsewhere:Tiny"

        def load(self):
            return lambda net, shape, classes: nn.Linear(shape[0], classes)

    found = [Point()]
    monkeypatch.setattr(
        "raydd.nets.entry_points", lambda group, name=None: [p for p in found if name in (None, p.name)]
    )
    assert available()["tiny"] == "announced by elsewhere:Tiny"
    module = build(config("tiny"), (7, 1, 1), 2)
    assert isinstance(module, nn.Linear)
    assert module.weight.shape == (2, 7)
    assert module.weight.is_meta
