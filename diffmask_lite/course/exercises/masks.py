"""The checkers of notebook 05."""

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


@checker
def check_shuffle(shuffle: Callable[[Tensor, Tensor, int], Tensor]) -> None:
    """Check `shuffle(images, order, size)`: images (B, C, H, W), order (N,) → patch n of the result is patch order[n]."""
    for (h, w), size, channels in (((2, 2), 2, 1), ((2, 3), 2, 3)):
        images = torch.arange(2.0 * channels * h * w * size**2).view(2, channels, h * size, w * size)
        order = torch.arange(h * w).roll(-1)  # 1, 2, …, 0: not its own inverse
        places = [(slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size)) for i in range(h) for j in range(w)]
        given = images.clone()
        found, where = shuffle(given, order, size), f"for a {h} × {w} grid of patches of {size} × {size} pixels"
        if not torch.equal(given, images):
            raise Wrong("it changed `images` itself; make a new tensor")
        wanted = _moved(images, order, places)
        if isinstance(found, Tensor) and found.shape == wanted.shape and not torch.equal(found, wanted):
            raise Wrong(f"{where} {_shuffled_wrong(found, images, order, places)}")
        expect(found, wanted, where)


def _moved(images: Tensor, order: Tensor, places: list[tuple[slice, slice]]) -> Tensor:
    out = images.clone()
    for place, source in enumerate(order.tolist()):
        out[:, :, *places[place]] = images[:, :, *places[source]]
    return out


def _shuffled_wrong(found: Tensor, images: Tensor, order: Tensor, places: list[tuple[slice, slice]]) -> str:
    if torch.equal(found, images):
        return "the image is as before"
    if torch.equal(found, _moved(images, order.argsort(), places)):
        return "patch n went to place order[n]; patch order[n] should come to place n"
    if not torch.equal(found.flatten(1).sort(1).values, images.flatten(1).sort(1).values):
        return "other pixels come out than went in, or they went into another image"
    known = {tuple(images[0, 0, *place].flatten().tolist()) for place in places}
    if any(tuple(found[0, 0, *place].flatten().tolist()) not in known for place in places):
        return "the patches are torn apart: cut the image so that the pixels of one patch stay together"
    return "whole patches come out, but in another order: they count row by row"
