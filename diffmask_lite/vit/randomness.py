"""Random numbers that are a function of (seed, purpose, step), never of what was drawn before.

So a resumed training draws what the uninterrupted one would have drawn, and two processes can each compute their part of one
global batch.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *where: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on (seed, where) alone, for example `stream(0, "noise", step)`, and on the kind of
    device: a GPU draws other numbers than a CPU."""
    digest = hashlib.blake2b(repr((seed, *where)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
