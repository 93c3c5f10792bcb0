"""What the configs of DD and RTP have in common."""

from __future__ import annotations

from pydantic import Field

from raydd.config.methods.base import MethodConfig


class UnrolledConfig(MethodConfig):
    """A method whose gradient goes through the whole training of sampled networks."""

    inits_per_round: int = Field(1, ge=1, description="networks that give a gradient in a round; published: 1")
    chunk: int = Field(1024, ge=1, description="real images in one pass; bounds memory, and is part of the numerics")
