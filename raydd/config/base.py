"""What all sections of a config share. No torch, no ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict

from raydd.urls import without_secrets

Auto = Literal["auto"]
#: A path, a URL or a SOURCE. Configs are written beside results, so that no key may stand in one.
Url = Annotated[str, AfterValidator(without_secrets)]
ProtocolName = Literal["dc", "dd", "dsa", "fair", "frepo", "rtp"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)


class Section(BaseModel):
    """A frozen part of a config that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFacts:
    """What defaults may depend on: facts of the data set, as its index tells them.

    Attributes:
        name: The data set's name, such as `mnist`.
        channels: 1 or 3.
        size: Edge of the square images, in pixels.
        num_classes: Number of classes after `data.classes`.
        smallest_class: Number of images of the smallest class.
    """

    name: str
    channels: int
    size: int
    num_classes: int
    smallest_class: int

    @property
    def handwritten(self) -> bool:
        """Whether images show digits, which mirroring would change."""
        return self.name in {"digits", "mnist", "svhn", "usps"}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested plain data as dotted keys and values."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found
