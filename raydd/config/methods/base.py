"""What every method says of itself without torch: its section of a config, and its announcement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import Field

from raydd.config.base import DataFacts, Section


class MethodConfig(Section):
    """What every method's section has.

    Class attributes tell what the rest of raydd must know of a method before it is imported:
    `default_net` and `default_protocol` name the paper's; `scheduled` says that a schedule depends on `rounds`, so that
    `rounds` cannot be raised afterwards; `iterative` is false for coresets, which have no rounds; `batches_slots` says that
    BatchNorm sees the classes of a slot in one batch, so that it needs all of them in one slot.
    """

    default_net: ClassVar[str] = "convnet"
    default_protocol: ClassVar[str] = "dsa"
    scheduled: ClassVar[bool] = False
    iterative: ClassVar[bool] = True
    batches_slots: ClassVar[bool] = False

    name: str
    ipc: int = Field(1, ge=1, description="images per class")
    rounds: int = Field(0, ge=0, description="updates of the variables")

    @property
    def variant(self) -> str | None:
        """Where the class is that does what this config asks for, as `package.module:Class`; None: where announced."""
        return None

    def resolved(self, facts: DataFacts) -> Self:
        """Return a copy in which every `auto` is replaced by the paper's value for this data set."""
        return self

    def default_zca(self, facts: DataFacts) -> str | None:
        """Return the whitening that the paper uses on this data set."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSpec:
    """A method's announcement, free of torch.

    Attributes:
        config: Its config model; the method's name is the default of the model's field `name`.
        implementation: Where its class is, as `package.module:Class`.
        paper: Authors, venue and year.
        learns: What its variables are, in a few words.
        slots: What one of its slots is, in a few words.
        small: Options with which it is quick to test, beside `ipc` 2 and `rounds` 12, on five classes of 4 to 9 images of
            8 pixels; the battery of `tests/methods/test_common.py` runs a third party's method with them.
    """

    config: type[MethodConfig]
    implementation: str
    paper: str
    learns: str
    slots: str
    small: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The name in `method.name`."""
        return str(self.config.model_fields["name"].default)
