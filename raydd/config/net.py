"""The networks a config may name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny

from raydd.config.base import Auto, DataFacts, Section

Norm = Literal["none", "batch", "layer", "instance", "group"]
Activation = Literal["relu", "sigmoid", "leaky_relu", "swish"]
Pooling = Literal["none", "max", "avg"]


class BlockNetConfig(Section):
    """What the two ConvNets of the field have in common: `depth` blocks of convolution, norm, activation and pooling."""

    name: str
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


class ConvNetConfig(BlockNetConfig):
    """ConvNet of the DC family: convolution, norm, activation, pooling; constant width."""

    name: Literal["convnet"] = "convnet"
    norm: Norm = "instance"


class FRePoConvNetConfig(BlockNetConfig):
    """ConvNet of FRePo: the norm stands before the convolution, the first block has none; width doubles with each block."""

    name: Literal["frepo_convnet"] = "frepo_convnet"
    norm: Norm = "batch"


NETS: dict[str, type[ConvNetConfig] | type[FRePoConvNetConfig]] = {
    "convnet": ConvNetConfig,
    "frepo_convnet": FRePoConvNetConfig,
}


def _read_net(value: Any) -> Any:
    """Read a network as YAML or the command line writes it: a mapping with a name, or `convnet:width=64,norm=batch`."""
    if isinstance(value, str) and value != "auto":
        name, _, options = value.partition(":")
        pairs = [part.partition("=") for part in options.split(",") if part]
        value = {"name": name, **{key: number for key, _, number in pairs}}
    if not isinstance(value, dict):
        return value
    name = value.get("name")
    if not isinstance(name, str) or name not in NETS:
        raise ValueError(f"net.name must be one of {', '.join(NETS)}, got {name!r} (see `raydd nets`)")
    return NETS[name].model_validate(value)


NetConfig = Annotated[SerializeAsAny[BlockNetConfig], BeforeValidator(_read_net)]
