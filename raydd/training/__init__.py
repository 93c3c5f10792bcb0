"""Ordinary training of one network, alone or as one of several that share every batch; without Ray."""

from __future__ import annotations

from raydd.training.data import Data, SetData, ShardData, open_data, open_test
from raydd.training.loop import Alone, Group, Loop, Position
from raydd.training.networks import Network, open_network

__all__ = [
    "Alone",
    "Data",
    "Group",
    "Loop",
    "Network",
    "Position",
    "SetData",
    "ShardData",
    "open_data",
    "open_network",
    "open_test",
]
