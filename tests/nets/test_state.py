import math
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from raydd.errors import ConfigError
from raydd.nets import NetConfig, NetState, apply, build, initialise


def config(name="convnet", norm=None, **changes) -> NetConfig:
    norm = norm or {"convnet": "instance", "frepo_convnet": "batch"}[name]
    return SimpleNamespace(
        **{"name": name, "width": 8, "depth": 3, "norm": norm, "act": "relu", "pool": "avg", **changes}
    )


def network(net: NetConfig, seed=0):
    module = build(net, (3, 16, 16), 4)
    return module, initialise(module, torch.Generator().manual_seed(seed))


def test_building_and_initialising_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    network(config())
    network(config("frepo_convnet"))
    assert torch.equal(torch.get_rng_state(), before)


def test_building_allocates_nothing():
    assert all(p.is_meta for p in build(config(), (3, 16, 16), 10).parameters())


def test_same_generator_same_numbers():
    (_, a), (_, b), (_, c) = (network(config(), seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a.params[name], b.params[name]) for name in a.params)
    assert not torch.equal(a.params["blocks.0.weight"], c.params["blocks.0.weight"])


def test_torch_law_draws_what_pytorch_draws_in_its_order():
    with torch.random.fork_rng():
        torch.manual_seed(11)
        conv, linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 8 * 8, 4)
    _, state = network(config(depth=1), seed=11)
    for name, tensor in (("blocks.0", conv), ("classifier", linear)):
        torch.testing.assert_close(state.params[f"{name}.weight"], tensor.weight.detach(), rtol=1e-6, atol=0)
        torch.testing.assert_close(state.params[f"{name}.bias"], tensor.bias.detach(), rtol=1e-6, atol=0)


def test_lecun_law():
    _, state = network(config("frepo_convnet", width=64, depth=2))
    weight, fan_in = state.params["blocks.4.weight"], 64 * 9
    assert weight.shape == (128, 64, 3, 3)
    # The correction for the truncation brings the deviation back to sqrt(1/fan_in), and moves the edge out with it.
    assert weight.std().item() == pytest.approx(math.sqrt(1 / fan_in), rel=0.01)
    edge = 2 * math.sqrt(1 / fan_in) / 0.8796256610342398
    assert 0.99 * edge < weight.abs().max().item() <= edge * (1 + 1e-6)
    assert abs(weight.mean().item()) < 4 * weight.std().item() / math.sqrt(weight.numel())
    # A share of P(|z| < 1) / P(|z| < 2) of a unit normal lies within half of the edge.
    share = (weight.abs() < edge / 2).float().mean().item()
    assert share == pytest.approx(math.erf(1 / math.sqrt(2)) / math.erf(math.sqrt(2)), abs=0.01)
    assert state.params["blocks.4.bias"].eq(0).all()
    assert state.params["classifier.bias"].eq(0).all()


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "group"])
def test_norms_start_as_the_identity(norm):
    _, state = network(config(norm=norm))
    assert state.params["blocks.1.weight"].eq(1).all()
    assert state.params["blocks.1.bias"].eq(0).all()
    if norm == "batch":
        assert state.buffers["blocks.1.running_mean"].eq(0).all()
        assert state.buffers["blocks.1.running_var"].eq(1).all()
    else:
        assert state.buffers == {}


def test_unknown_layer_is_refused():
    with pytest.raises(ConfigError, match=r"convolutions, linear layers and norms, got Bilinear"):
        initialise(nn.Bilinear(2, 2, 2, device="meta"), torch.Generator())


@pytest.mark.parametrize(("name", "keep", "block"), [("frepo_convnet", 0.1, "blocks.3"), ("convnet", 0.9, "blocks.1")])
def test_momentum_is_the_share_of_the_new_batch(name, keep, block):
    """FRePo's running statistics are nearly those of the last batch; DC's are PyTorch's usual slow ones."""
    module, state = network(config(name, norm="batch"))
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    seen = []
    norm = module.get_submodule(block)
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    apply(module, state.params, state.buffers, x, train=True)
    hook.remove()
    mean, var = seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3))
    torch.testing.assert_close(state.buffers[f"{block}.running_mean"], (1 - keep) * mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(state.buffers[f"{block}.running_var"], keep + (1 - keep) * var, rtol=1e-4, atol=1e-6)
    assert norm.eps == 1e-5


def test_eval_mode_reads_buffers_only():
    module, state = network(config("frepo_convnet"))
    before = state.clone()
    x = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    trained = apply(module, state.params, state.clone().buffers, x, train=True)
    both = apply(module, state.params, state.buffers, x)
    one = apply(module, state.params, state.buffers, x[:1])
    assert all(torch.equal(state.buffers[name], before.buffers[name]) for name in before.buffers)
    torch.testing.assert_close(one, both[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trained, both, atol=1e-3)


def test_flat_tensors_survive_a_file():
    _, state = network(config("frepo_convnet"))
    again = NetState.from_tensors(load(save({**state.tensors(), "optimiser.step": torch.tensor(1)})))
    assert again.params.keys() == state.params.keys()
    assert again.buffers.keys() == state.buffers.keys()
    assert all(torch.equal(again.tensors()[name], tensor) for name, tensor in state.tensors().items())


def test_clone_shares_no_memory_and_no_tape():
    _, state = network(config("frepo_convnet"))
    state.params["blocks.0.weight"].requires_grad_()
    copy = state.clone()
    copy.params["blocks.0.weight"].zero_()
    copy.buffers["blocks.3.running_var"].zero_()
    assert state.params["blocks.0.weight"].ne(0).any()
    assert state.buffers["blocks.3.running_var"].eq(1).all()


def test_dtype_changes_floats_only():
    _, state = network(config("frepo_convnet"))
    double = state.to(dtype=torch.float64)
    assert double.params["blocks.0.weight"].dtype == torch.float64
    assert double.buffers["blocks.3.num_batches_tracked"].dtype == torch.int64
