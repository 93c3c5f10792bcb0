"""A network's numbers apart from its module: initialisation, application, and the flat form for checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raydd.errors import ConfigError

_PARAMS, _BUFFERS = "params.", "buffers."
# Standard deviation of a unit normal that is truncated at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


@dataclass(frozen=True, slots=True)
class NetState:
    """The numbers of one network.

    Attributes:
        params: Trainable tensors by the module's parameter names.
        buffers: BatchNorm's running statistics by the module's buffer names; empty for most networks.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def clone(self) -> NetState:
        """Return a detached copy that shares no memory."""
        return self._map(lambda t: t.detach().clone())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> NetState:
        """Return the same numbers on `device`, floating ones as `dtype`; shares memory where nothing changes."""
        return self._map(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def channels_last(self) -> NetState:
        """Return the same numbers with convolution kernels in channels_last memory format.

        The kernels' format decides that of all maps. Stored tensors forget it: call this after every load.
        """
        return self._map(lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors under flat names, for a checkpoint."""
        params = {_PARAMS + name: tensor for name, tensor in self.params.items()}
        return params | {_BUFFERS + name: tensor for name, tensor in self.buffers.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> NetState:
        """Return the state whose `tensors()` these are; they are not copied, and other names are left out."""
        params = {n.removeprefix(_PARAMS): t for n, t in tensors.items() if n.startswith(_PARAMS)}
        return cls(params, {n.removeprefix(_BUFFERS): t for n, t in tensors.items() if n.startswith(_BUFFERS)})

    def _map(self, change: Callable[[Tensor], Tensor]) -> NetState:
        params = {name: change(tensor) for name, tensor in self.params.items()}
        return NetState(params, {name: change(tensor) for name, tensor in self.buffers.items()})


def initialise(
    module: nn.Module, gen: torch.Generator, device: torch.device | str = "cpu", *, law: str | None = None
) -> NetState:
    """Draw a network's numbers, in the order of `named_parameters`, from `gen` alone.

    The law is the module's `init_law`: "torch" (the default), PyTorch's own for convolutions and linear layers, weights
    and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)); or "lecun", flax's, weights normal with variance 1/fan_in, truncated
    at two standard deviations, biases zero; or "xavier", DD's, weights normal with variance 2/(fan_in + fan_out), biases
    zero (Glorot & Bengio, AISTATS 2010). Norm layers start as the identity, running statistics at mean 0 and
    variance 1.

    Args:
        module: From `raydd.nets.build`; left as it is.
        gen: A CPU generator; it advances.
        device: Where the numbers go. They are drawn on the CPU, the same for every device.
        law: Another law than the module's own.

    Returns:
        Float32 parameters and buffers, with no gradient required.

    Raises:
        ConfigError: The module has a layer whose initialisation is not known.
    """
    owners = dict(module.named_modules())
    law = law or getattr(module, "init_law", "torch")
    params = {}
    for name, parameter in module.named_parameters():
        owner, _, leaf = name.rpartition(".")
        params[name] = _draw(owners[owner], leaf, parameter.shape, law, gen).to(device)
    return NetState(params, fresh_buffers(module, device))


def fresh_buffers(module: nn.Module, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Return a network's buffers before any training: running statistics at mean 0 and variance 1."""
    return {name: _buffer(name, buffer).to(device) for name, buffer in module.named_buffers()}


# The dtype that `compute_in` says.
_half: torch.dtype | None = None


def apply(
    module: nn.Module,
    params: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    features: bool = False,
    train: bool = False,
) -> Tensor:
    """Run a network on these numbers.

    Args:
        module: From `raydd.nets.build`; only its train or eval mode changes.
        params: As in `NetState`; gradients flow into those that ask for them.
        buffers: As in `NetState`. With `train` BatchNorm updates these tensors **in place**; otherwise they are only
            read.
        x: Float images `(N, C, H, W)` on the device of the parameters.
        features: Give the flattened input of the classifier instead of the logits.
        train: BatchNorm uses the batch's statistics instead of the running ones.

    Returns:
        Logits `(N, classes)`, or features `(N, d)`.
    """
    if module.training != train:
        module.train(train)
    options = {"features": True} if features else {}
    if _half is None:
        return torch.func.functional_call(module, (params, buffers), (x,), options, tie_weights=False)
    # Casts are not kept between calls: gradients flow through them.
    with torch.autocast(x.device.type, _half, cache_enabled=False):
        found = torch.func.functional_call(module, (params, buffers), (x,), options, tie_weights=False)
    return found.float()


def compute_in(dtype: torch.dtype | None) -> torch.dtype | None:
    """Let networks convolve and multiply in a half precision from now on; return what they did it in before.

    Weights, norms, what networks return, and all arithmetic outside of them stay float32.

    Args:
        dtype: Such as `torch.bfloat16`; None: as their numbers are.
    """
    global _half
    before, _half = _half, dtype
    return before


def computing_in() -> torch.dtype | None:
    """Return what `compute_in` said last."""
    return _half


def _draw(owner: nn.Module, leaf: str, shape: torch.Size, law: str, gen: torch.Generator) -> Tensor:
    if isinstance(owner, nn.Conv2d | nn.Linear):
        fan_in = owner.weight[0].numel()
        if law == "torch":
            bound = 1 / math.sqrt(fan_in)
            return torch.empty(shape).uniform_(-bound, bound, generator=gen)
        if leaf == "bias":
            return torch.zeros(shape)
        if law == "xavier":
            fan_out = shape[0] * shape[2:].numel()
            return torch.empty(shape).normal_(0, math.sqrt(2 / (fan_in + fan_out)), generator=gen)
        return _lecun_normal(shape, fan_in, gen)
    if isinstance(owner, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
        return torch.ones(shape) if leaf == "weight" else torch.zeros(shape)
    raise ConfigError(f"a network must be made of convolutions, linear layers and norms, got {type(owner).__name__}")


def _lecun_normal(shape: torch.Size, fan_in: int, gen: torch.Generator) -> Tensor:
    """Draw from the truncated normal by inverting its distribution function, one uniform number a weight."""
    edge = math.erf(2 / math.sqrt(2))
    uniform = torch.empty(shape).uniform_(-edge, edge, generator=gen)
    return uniform.erfinv_().mul_(math.sqrt(2) / (math.sqrt(fan_in) * _TRUNCATED_STD))


def _buffer(name: str, buffer: Tensor) -> Tensor:
    if name.rpartition(".")[2] == "running_var":
        return torch.ones(buffer.shape, dtype=buffer.dtype)
    return torch.zeros(buffer.shape, dtype=buffer.dtype)
