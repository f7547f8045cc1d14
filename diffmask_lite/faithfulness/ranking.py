"""Which patch comes first? Maps are ranked on the patch grid itself, and ties are broken by chance, the same chance for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from ..vit.randomness import stream


def stack_maps(maps: Mapping[str, Any], images: int, grid: tuple[int, int], kind: str = "map") -> dict[str, Tensor]:
    """Return each method's maps as (S, n, h, w) on the CPU, S being its seeds or draws; refuse those that do not fit.

    kind: "map" takes anything that can be ranked; "mask" takes bool alone.
    """
    if not isinstance(maps, Mapping) or not maps:
        raise ValueError(f'Give the {kind}s as a dictionary such as {{"rollout": {kind}s}}, with at least one method in it.')
    wanted = (images, *grid)
    stacked = {}
    for name, given in maps.items():
        found = torch.as_tensor(given).detach().cpu()
        if found.ndim not in (3, 4) or tuple(found.shape[-3:]) != wanted or len(found) == 0:
            raise ValueError(
                f'The {kind}s of "{name}" have shape {tuple(found.shape)}, but {images} images on a {grid[0]} × {grid[1]} '
                f"patch grid need {wanted}, or (S, {images}, {grid[0]}, {grid[1]}) for S seeds."
            )
        found = found.view(-1, *wanted)
        if kind == "mask" and found.dtype != torch.bool:
            raise ValueError(f'The masks of "{name}" must be bool, but they are {found.dtype}; use mask > 0.5.')
        if not found.isfinite().all():
            bad = (~found.isfinite()).any(0).flatten(1).any(1).nonzero().flatten().tolist()
            raise ValueError(f'The {kind}s of "{name}" hold NaN or infinite values at images {bad[:8]}; they cannot be ranked.')
        stacked[name] = found
    return stacked


def tie_orders(images: int, patches: int, draws: int = 5, seed: int = 0) -> Tensor:
    """Return random orders of the patches, int (draws, n, N): where patches tie, the one that stands first here goes first.

    They depend on the seed and the sizes alone, so all methods share them, and so do a map and its negative.
    """
    return torch.rand(draws, images, patches, generator=stream(seed, "ties")).argsort(-1)


def removal_order(maps: Tensor, ties: Tensor, lerf: bool = False) -> Tensor:
    """Return the patches in the order in which they are taken away, int (…, N): most relevant first, or least with `lerf`.

    maps (…, N) and ties (…, N) broadcast. Patches of equal relevance go in the order of `ties` in *both* directions. To reverse
    one order would reverse the ties as well, and then a map and its negative would not mirror each other.
    """
    maps, ties = torch.broadcast_tensors(maps if maps.dtype == torch.float64 else maps.float(), ties)
    by_chance = maps.gather(-1, ties)
    return ties.gather(-1, by_chance.argsort(dim=-1, stable=True, descending=not lerf))


def removal_ranks(maps: Tensor, ties: Tensor, lerf: bool = False) -> Tensor:
    """Return the place of each patch in `removal_order`, int16 (…, N): with c patches gone, those with rank ≥ c are left."""
    order = removal_order(maps, ties, lerf)
    places = torch.arange(order.shape[-1], dtype=torch.int16).expand(order.shape)
    return torch.empty_like(order, dtype=torch.int16).scatter_(-1, order, places)


def best(maps: Tensor, count: int | Tensor, seed: int = 0) -> Tensor:
    """Return the `count` most relevant patches of each image, bool (n, h, w); count may differ by image, int (n,)."""
    ties = tie_orders(len(maps), maps[0].numel(), 1, seed)[0]
    ranks = removal_ranks(maps.cpu().flatten(1), ties)
    return (ranks < torch.as_tensor(count).cpu().view(-1, 1)).view(maps.shape).to(maps.device)


def midranks(values: Tensor) -> Tensor:
    """Return ranks from 1 along the last axis, float64; tied values share the mean of their ranks."""
    return torch.from_numpy(rankdata(values.detach().cpu().double().numpy(), axis=-1))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return Spearman's rank correlation along the last axis, ties sharing their mean rank; 0 where a side is constant."""
    a, b = (ranks - ranks.mean(-1, keepdim=True) for ranks in (midranks(a), midranks(b)))
    return F.cosine_similarity(a, b, dim=-1, eps=1e-12)
