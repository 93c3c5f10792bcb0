"""Keyed randomness: every draw comes from a generator named by (seed, purpose, indices).

No draw of raydd depends on a clock, a process id, a worker's rank or a global generator, so the same work gives the same
bits wherever and whenever it is done.
"""

from __future__ import annotations

import hashlib

import torch


def derive(seed: int, purpose: str, *indices: int | str) -> int:
    """Return the 63-bit child seed of (seed, purpose, indices).

    Args:
        seed: The run's root seed, any integer.
        purpose: What the draw is for, such as `"real"` or `"net"`.
        indices: Whatever tells this draw from others of its purpose, such as the round and the class.
    """
    # Lengths in front of the parts keep ("a", "bc") and ("ab", "c") apart.
    parts = [str(seed), purpose, *(f"{type(i).__name__}:{i}" for i in indices)]
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *indices: int | str) -> torch.Generator:
    """Return a fresh CPU generator for the draw named by (seed, purpose, indices).

    The generator lives on the CPU whatever device the work is done on, so that a GPU sees the same draws.
    """
    return torch.Generator().manual_seed(derive(seed, purpose, *indices))
