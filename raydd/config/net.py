"""The networks a config may name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, SerializeAsAny

from raydd.config.base import Auto, DataFacts, Section

Norm = Literal["none", "batch", "layer", "instance", "group"]
Activation = Literal["relu", "sigmoid", "leaky_relu", "swish"]
Pooling = Literal["none", "max", "avg"]
ImageNorm = Literal["none", "batch", "instance"]


class AnyNetConfig(Section):
    """What every network's section has: its name. Some have a `norm`, few a `width` or a `depth`."""

    name: str

    def resolved(self, facts: DataFacts) -> Self:
        """Return the same network with every `auto` fixed for images of `facts.size` pixels."""
        return self

    def renormed(self, norms: Mapping[str, str]) -> Self:
        """Return the same network with its norm replaced, as a protocol of evaluation asks.

        Only the two ConvNets lose their norm (FRePo's cross-architecture table keeps those of VGG and ResNet).

        Args:
            norms: What each norm is replaced by; those left out stay.
        """
        norm = getattr(self, "norm", None)
        new = norms.get(norm, norm) if norm is not None else None
        return self if new in (norm, "none") else self.model_copy(update={"norm": new})


class BlockNetConfig(AnyNetConfig):
    """What the two ConvNets of the field have in common: `depth` blocks of convolution, norm, activation and pooling."""

    norm: Norm
    width: int = Field(128, ge=1)
    depth: int | Auto = Field(
        "auto", description="number of blocks; auto: 2 below 16 px, 3 below 48, 4 below 96, else 5"
    )
    act: Activation = "relu"
    pool: Pooling = "avg"

    def resolved(self, facts: DataFacts) -> Self:
        """Return the same network with its depth fixed for images of `facts.size` pixels."""
        if self.depth != "auto":
            return self
        depth = 2 + sum(facts.size >= size for size in (16, 48, 96))
        return self.model_copy(update={"depth": depth})

    def renormed(self, norms: Mapping[str, str]) -> Self:
        """Replace the norm, by none as well; see the base class."""
        return self.model_copy(update={"norm": norms.get(self.norm, self.norm)})


class ConvNetConfig(BlockNetConfig):
    """ConvNet of the DC family: convolution, norm, activation, pooling; constant width."""

    name: Literal["convnet"] = "convnet"
    norm: Norm = "instance"


class FRePoConvNetConfig(BlockNetConfig):
    """ConvNet of FRePo: the norm stands before the convolution, the first block has none; width doubles with each block."""

    name: Literal["frepo_convnet"] = "frepo_convnet"
    norm: Norm = "batch"


class MLPConfig(AnyNetConfig):
    """MLP of DC: two hidden layers of `width` with ReLU."""

    name: Literal["mlp"] = "mlp"
    width: int = Field(128, ge=1)


class LeNetConfig(AnyNetConfig):
    """LeNet-5 of DD and DC, with ReLU and max pooling."""

    name: Literal["lenet"] = "lenet"


class AlexNetConfig(AnyNetConfig):
    """AlexNet of DC for small images; RTP's has instance norm and average pooling."""

    name: Literal["alexnet"] = "alexnet"
    norm: ImageNorm = "none"
    pool: Literal["max", "avg"] = "max"


class AlexCifarNetConfig(AnyNetConfig):
    """AlexCifarNet of DD, with local response normalisation."""

    name: Literal["alexcifarnet"] = "alexcifarnet"


class VGG11Config(AnyNetConfig):
    """VGG11 of DC, with one linear layer."""

    name: Literal["vgg11"] = "vgg11"
    norm: ImageNorm = "instance"


class ResNet18Config(AnyNetConfig):
    """ResNet18 of DC, with the stem for small images."""

    name: Literal["resnet18"] = "resnet18"
    norm: Literal["batch", "instance"] = "instance"


class ResNet18APConfig(AnyNetConfig):
    """ResNet18 with average pooling instead of strides, which DC learns images with."""

    name: Literal["resnet18_ap"] = "resnet18_ap"
    norm: Literal["batch", "instance"] = "instance"


_ALL = (
    ConvNetConfig,
    FRePoConvNetConfig,
    MLPConfig,
    LeNetConfig,
    AlexNetConfig,
    AlexCifarNetConfig,
    VGG11Config,
    ResNet18Config,
    ResNet18APConfig,
)
NETS = {str(net.model_fields["name"].default): net for net in _ALL}


class AnnouncedNetConfig(AnyNetConfig):
    """A third party's network: what else stands in its section is handed to its builder as it is."""

    model_config = ConfigDict(extra="allow")


@cache
def announced() -> frozenset[str]:
    """Return the names of the networks that third parties announce by the entry-point group `raydd.nets`."""
    return frozenset(entry_points(group="raydd.nets").names) - NETS.keys()


def read_net(value: Any) -> Any:
    """Read a network as YAML or the command line writes it: a mapping with a name, or `convnet:width=64,norm=batch`."""
    if isinstance(value, str) and value != "auto":
        name, _, options = value.partition(":")
        pairs = [part.partition("=") for part in options.split(",") if part]
        value = {"name": name, **{key: number for key, _, number in pairs}}
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if isinstance(name, str) and name in announced():
        return AnnouncedNetConfig.model_validate(value)
    if not isinstance(name, str) or name not in NETS:
        known = ", ".join([*NETS, *sorted(announced())])
        raise ValueError(f"net.name must be one of {known}, got {name!r} (see `raydd nets`)")
    return NETS[name].model_validate(value)


NetConfig = Annotated[SerializeAsAny[AnyNetConfig], BeforeValidator(read_net)]
