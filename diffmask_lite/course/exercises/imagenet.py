"""The checkers of notebook 09."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .verdict import Wrong, checker, expect


@checker
def check_share(share_of: Callable[[int, int, int, int], list[int]]) -> None:
    """Check `share_of(step, batch, rank, size)`: which places of the endless stream of images a process takes in a step."""
    for step, batch, size in ((0, 4, 1), (0, 4, 2), (3, 12, 3)):
        shares = [share_of(step, batch, rank, size) for rank in range(size)]
        for rank, share in enumerate(shares):
            if not isinstance(share, list | range):
                raise Wrong(f"it should return a list of whole numbers, but it returned {type(share).__name__}")
            if len(share) != batch // size:
                raise Wrong(
                    f"{size} processes share a batch of {batch}, so each takes {batch // size}, but process {rank} takes "
                    f"{len(share)}: batch is that of all processes together"
                )
        taken = [place for share in shares for place in share]
        wanted = list(range(step * batch, (step + 1) * batch))
        if len(set(taken)) < len(taken):
            raise Wrong(f"in step {step}, two of {size} processes take the same image {max(taken, key=taken.count)}")
        if sorted(taken) != wanted:
            raise Wrong(
                f"step {step} of {batch} images is places {wanted[0]} … {wanted[-1]}, but together they take {sorted(taken)}"
            )
        if taken != wanted:
            raise Wrong(
                f"each image is taken once, but process 0 takes {list(shares[0])}: give it the first part of the batch in one "
                "piece, so that its rows of the noise are one slice too"
            )


@checker
def check_mask_at(mask_at: Callable[[Tensor, int], Tensor]) -> None:
    """Check `mask_at(layers, k)`: layers (B, L + 2, h, w), the probability of each gate → the soft mask after k blocks."""
    layers = torch.rand(2, 6, 2, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5  # L = 4
    before = layers.clone()
    for k in (0, 2, 4):
        found = mask_at(layers, k)
        for more, words in ((-1, "h_0 … h_k"), (1, "h_0 … h_{k+2}")):
            wrong = layers[:, : k + 2 + more].prod(1)
            if isinstance(found, Tensor) and k < 4 and found.shape == wrong.shape and torch.allclose(found, wrong):
                raise Wrong(f"that is the product of the gates of {words}: k blocks show k + 2 hidden states, h_0 … h_{{k+1}}")
        if isinstance(found, Tensor) and found.shape == before[:, 0].shape and k and torch.equal(found, before[:, k + 1]):
            raise Wrong("that is one gate alone: a patch stays only if every gate so far keeps it")
        expect(found, before[:, : k + 2].prod(1), f"for k = {k} of 4 blocks,")
    if not torch.equal(layers, before):
        raise Wrong("it changed `layers` itself; make a new tensor instead")
