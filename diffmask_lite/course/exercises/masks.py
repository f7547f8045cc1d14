"""The checkers of notebook 04."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .verdict import Wrong, checker, expect


@checker
def check_agreement(agreement: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `agreement(a, b)`, two bool masks (B, h, w) → (B,): intersection over union, 1 where both are empty."""
    a = torch.tensor([[[1, 1, 0], [0, 0, 0]], [[1, 1, 1], [0, 0, 1]]]).bool()
    b = torch.tensor([[[0, 1, 1], [0, 0, 0]], [[1, 1, 1], [0, 0, 1]]]).bool()
    wanted = torch.tensor([1 / 3, 1.0])
    found = agreement(a, b)
    if isinstance(found, Tensor) and found.numel() == 1:
        raise Wrong("it should return one number for each image, (B,): keep the first dimension")
    share = torch.tensor([4 / 6, 1.0])
    if isinstance(found, Tensor) and found.shape == share.shape and torch.allclose(found.float(), share):
        raise Wrong("that is the share of patches on which the masks agree; patches that neither keeps should not count")
    expect(found, wanted, "for one image with 1 patch in common of 3 kept by either, and one with equal masks,")
    expect(agreement(a, ~a), torch.zeros(2), "for masks that share nothing")
    nothing = torch.zeros(2, 2, 3).bool()
    expect(agreement(nothing, nothing), torch.ones(2), "for two empty masks, which agree,")
    expect(agreement(nothing, a), torch.zeros(2), "for an empty mask and another")


@checker
def check_blend(blend: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `blend(picture, mask)`: picture (H, W, 3), mask (h, w) → mask · picture + (1 − mask) · grey, patch by patch."""
    picture = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(0))
    masks = {
        "a mask of ones, which changes nothing": torch.ones(2, 3),
        "a mask of zeros, which leaves grey": torch.zeros(2, 3),
        "a mask of ¼ everywhere (is it stretched to its own range?)": torch.full((2, 3), 0.25),
        "patches of 2 × 2 pixels, each with one value of its own": torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.25, 0.0]]),
    }
    for name, mask in masks.items():
        found = blend(picture, mask)
        if not isinstance(found, Tensor) or found.shape != picture.shape or found.dtype == torch.bool:
            expect(found, picture, f"for {name},")
        for y, x in ((y, x) for y in range(2) for x in range(3)):
            patch = slice(2 * y, 2 * y + 2), slice(2 * x, 2 * x + 2)
            z, got = mask[y, x], found[patch]
            wanted = z * picture[patch] + (1 - z) * 0.5
            if not torch.allclose(got.double(), wanted.double(), atol=1e-5):
                raise Wrong(
                    f"for {name}: the patch in row {y + 1}, column {x + 1}, whose mask is {z:.2f}, should have values from "
                    f"{wanted.min():.2f} to {wanted.max():.2f}, but has {got.min():.2f} to {got.max():.2f}, and one is off by "
                    f"{(got - wanted).abs().max():.2f}"
                )


@checker
def check_grow(grow: Callable[[Callable[[Tensor], Tensor], int, int], Tensor]) -> None:
    """Check `grow(cost, n, m)`: from no patch, add the one that makes `cost` smallest until m of n are kept → bool (n,)."""
    worth = torch.tensor([0.0, 3.0, 1.0, 2.0, 0.5])

    def alone(keep: Tensor) -> Tensor:  # each patch has its own worth
        return 10 - keep.float() @ worth

    def pair(keep: Tensor) -> Tensor:  # patch 4 is worth most, but only once patch 1 is there
        return alone(keep) - 5 * (keep[:, 1] & keep[:, 4])

    calls = []

    def counted(keep: Tensor) -> Tensor:
        calls.append(keep.clone())
        return alone(keep)

    expect(grow(alone, 5, 0), torch.zeros(5).bool(), "for m = 0")
    expect(grow(counted, 5, 2), torch.tensor([0, 1, 0, 1, 0]).bool(), "for m = 2 and patches worth 0, 3, 1, 2 and ½")
    if not calls:
        raise Wrong("`cost` was never called; it is the only thing that knows which patch is best")
    most = max(int(keep.sum(-1).max()) for keep in calls)
    if most > 2:
        raise Wrong(f"for m = 2, a set of {most} patches was tried: start from none and add, do not start from all and shrink")
    if len(calls) > 2:
        raise Wrong(f"for m = 2, `cost` was called {len(calls)} times: call it once a round, with all trials as one batch")
    expect(grow(alone, 5, 5), torch.ones(5).bool(), "for m = 5 of 5")
    expect(grow(pair, 5, 2), torch.tensor([0, 1, 0, 0, 1]).bool(), "where patch 4 is worth more once patch 1 is kept")
