"""The checkers of the notebooks on faithfulness: scores, truth, twins and intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ... import weights
from ...datasets import ColourGrid
from ...faithfulness import evaluate, image_auroc
from .verdict import Wrong, checker, expect


@checker
def check_srg(srg: Callable[[Callable[[Tensor], Tensor], Tensor], float]) -> None:
    """Check `srg(p_of, relevance)`: p_of takes bool (T, n) → (T,), relevance float (n,) → AUC(LeRF) − AUC(MoRF)."""
    worth = torch.tensor([0.1, 0.5, 0.0, 0.3, 0.1])
    calls: list[Tensor] = []

    def p_of(keep: Tensor) -> Tensor:
        calls.append(keep.clone())
        return (keep.float() @ worth) ** 2

    def areas(order: Tensor) -> tuple[float, float]:
        keep = order.argsort() >= torch.arange(6)[:, None]  # row c: without the first c of the order
        p = (keep.float() @ worth) ** 2
        return float(torch.trapezoid(p, dx=1 / 5)), float(p.mean())

    relevance = torch.tensor([0.2, 5.0, -1.0, 2.0, 0.1])
    (morf, morf_mean), (lerf, lerf_mean) = areas(relevance.argsort(descending=True)), areas(relevance.argsort())
    found = float(srg(p_of, relevance))
    mistakes = {
        "the sign is turned: LeRF minus MoRF, so that a good map has a positive score": morf - lerf,
        "that is the sum of both areas; take their difference": morf + lerf,
        "that is the area under LeRF alone": lerf,
        "that is the area under MoRF alone": morf,
        "that is a mean over the points; both end points bound one interval only, and count half": lerf_mean - morf_mean,
        "the area is over the *share* removed, which runs from 0 to 1: divide by n": 5 * (lerf - morf),
    }  # fmt: skip
    for hint, value in mistakes.items():
        if abs(found - value) < 1e-5:
            raise Wrong(hint)
    where = "for five patches of which one carries most"
    if not abs(found - (lerf - morf)) < 1e-5:
        raise Wrong(f"{where}, SRG should be {lerf - morf:.4f}, but it is {found:.4f}")
    sizes = {int(count) for keep in calls for count in keep.sum(-1).flatten()}
    if not {0, 5} <= sizes:
        raise Wrong("both end points belong to a curve: ask `p_of` about all patches, and about none")
    if len(calls) > 2:
        raise Wrong(f"`p_of` was called {len(calls)} times: ask about all steps of a curve as one batch")
    turned = float(srg(p_of, -relevance))
    if not abs(turned + found) < 1e-5:
        raise Wrong(f"the map's negative should have the negative score, {-found:.4f}, but has {turned:.4f}")


@checker
def check_paired(paired: Callable[..., tuple[float, float]]) -> None:
    """Check `paired(a, b, draws, rng)`: scores (n,) of two methods on the same images → the ends of a 95 % interval."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 300)  # what makes one image harder than another: far larger than the difference of the methods
    a, b = hard + 0.10 + rng.normal(0, 0.1, 300), hard + rng.normal(0, 0.1, 300)
    found = paired(a, b, 2000, np.random.default_rng(1))
    if not isinstance(found, tuple | list | np.ndarray) or len(found) != 2:
        raise Wrong(f"it should return two numbers, low and high, but it returned {found!r:.60}")
    low, high = map(float, found)
    gap = a - b
    spread = gap.std() / np.sqrt(len(gap))  # the standard error, known without any bootstrap
    apart = np.sqrt((a.var() + b.var()) / len(a))
    width = (high - low) / 2 / 1.96
    if not low < high:
        raise Wrong(f"low should be below high, but they are {low:.3f} and {high:.3f}")
    if abs((low + high) / 2 + gap.mean()) < spread and abs(gap.mean()) > 3 * spread:
        raise Wrong("the sign is turned: the difference is a − b")
    if abs(width / apart - 1) < 0.25:
        raise Wrong("that is as wide as if the methods had been scored on different images: draw the images once, for both")
    if abs(width / gap.std() - 1) < 0.25:
        raise Wrong("that is the spread of single images, not of their mean: draw n images and average, in each draw")
    if abs((high - low) / 2 / spread - 1) < 0.15:
        raise Wrong("that is about one standard error to each side; a 95 % interval goes from the 2.5 % to the 97.5 % quantile")
    if not 0.85 < width / spread < 1.15 or abs((low + high) / 2 - gap.mean()) > 0.5 * spread:
        wanted = gap.mean() - 1.96 * spread, gap.mean() + 1.96 * spread
        raise Wrong(f"for 300 images it should be about [{wanted[0]:.3f}, {wanted[1]:.3f}], but it is [{low:.3f}, {high:.3f}]")
    again = tuple(map(float, paired(a, b, 2000, np.random.default_rng(1))))
    if again != (low, high):
        raise Wrong("two calls with the same rng differ: take every random number from `rng`")
    if tuple(map(float, paired(a, b, 2000, np.random.default_rng(2)))) == (low, high):
        raise Wrong("another rng gives the very same interval: draw the images with `rng`")


@checker
def check_auroc(auroc: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `auroc(values, truth)`: float (n,) and bool (n,) → a scalar tensor; ties count one half."""
    values, truth = torch.tensor([0.9, 0.4, 0.7, 0.2, 0.7]), torch.tensor([1, 0, 1, 0, 0]).bool()
    flat = torch.full((5,), 0.3)
    constant = auroc(flat, truth)
    if isinstance(constant, Tensor) and constant.ndim == 0:
        if float(constant) == 1:
            raise Wrong("a constant map scores 1, and beats every honest one: a tie is not a win (≥ or > ?)")
        if float(constant) == 0:
            raise Wrong("a constant map scores 0, as if it were wrong in every pair: a tie is not a loss either")
    expect(constant, torch.tensor(0.5), "for a constant map")
    expect(auroc(values, truth), torch.tensor(5.5 / 6), "for 5 of 6 pairs in the right order and 1 tied")
    expect(auroc(-values, truth), torch.tensor(0.5 / 6), "for the same map turned round")
    expect(auroc(values * 1000, truth), torch.tensor(5.5 / 6), "for the same map times 1,000, which has the same order,")
    expect(auroc(truth.float(), truth), torch.tensor(1.0), "for the truth itself as the map")


@checker
def check_winner(winner: Callable[[Tensor], Tensor]) -> None:
    """Check `winner(truth)`: bool (B, 3, 3), six blue cells each → maps (B, 3, 3) of SRG above 0.15 and AUROC below ½.

    A map gives each grid the values 1 … 9, each once. Tokens are dropped, and the ViT then tells the share of blue cells.
    """
    grids = ColourGrid(1000, seed=7)
    six = (grids.cells.flatten(1).sum(1) == 6).nonzero().flatten()[:60]
    truth = grids.cells[six]
    maps = winner(truth.clone())
    if not isinstance(maps, Tensor) or maps.shape != truth.shape:
        shape = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise Wrong(f"it should return a map for each grid, a tensor {tuple(truth.shape)}, but it returned {shape}")
    maps = maps.float()
    if not torch.equal(maps.flatten(1).sort(1).values, torch.arange(1.0, 10.0).expand(len(maps), 9)):
        raise Wrong("in each grid the nine cells need the values 1 to 9, each once, so that no two go in a random order")
    auroc = float(image_auroc(maps, truth).mean())
    if not auroc < 0.5:
        raise Wrong(f"the AUROC is {auroc:.2f}: give most blue cells lower values than the others")
    scores = evaluate(weights.pretrained("grid")[0], grids.images[six], {"map": maps}, "drop", steps=9, progress=False).scores
    found = scores.groupby("metric")["value"].mean()
    if found["srg"] > 0.15:
        return
    if found["lerf"] < 0.3:
        raise Wrong(
            f"the SRG is {found['srg']:.2f}, and AUC(LeRF) is only {found['lerf']:.2f}: let the cells that go first leave the "
            "share of blue near 6/9, so mix both kinds at the low end of the map"
        )
    raise Wrong(
        f"the SRG is {found['srg']:.2f}, and AUC(MoRF) is {found['morf']:.2f}: let the cells of highest value change the share "
        "of blue at once"
    )


@checker
def check_twin(twin: Callable[[Tensor, torch.Generator], Tensor]) -> None:
    """Check `twin(keep, generator)`: bool (B, h, w) → a random mask of the same size for each image."""
    keep = torch.zeros(900, 4, 5).bool()
    keep.view(900, 20)[:, :6] = True
    keep[450:] = False
    keep.view(900, 20)[450:, 3:15] = True  # of other size in the second half
    found = twin(keep.clone(), torch.Generator().manual_seed(0))
    if not isinstance(found, Tensor) or found.shape != keep.shape or found.dtype != torch.bool:
        raise Wrong("it should return bool (B, h, w), as it was given")
    sizes = found.flatten(1).sum(1)
    if not torch.equal(sizes, keep.flatten(1).sum(1)):
        if sizes.sum() == keep.sum():
            raise Wrong("patches wander from one image to another: each image keeps as many as its own mask")
        raise Wrong(f"the first mask keeps 6 patches, but its twin keeps {int(sizes[0])}: the size has to be the same, exactly")
    if torch.equal(found, keep):
        raise Wrong("that is the mask itself: choose the patches at random")
    if (found[:450] == found[0]).all():
        raise Wrong("all images have the same random patches: draw a new set for each image")
    share = found[:450].float().mean(0).flatten()
    if (share - 0.3).abs().max() > 0.12:
        raise Wrong(
            f"each patch should be kept equally often, 30 % of the time here, but one is kept {share.max():.0%} and one "
            f"{share.min():.0%}"
        )
    pairs = (found[:450].flatten(1)[:, 1:] & found[:450].flatten(1)[:, :-1]).float().sum(1).mean()
    if pairs > 2.4:  # 1.5 on average for sets of 6 of 20
        raise Wrong("kept patches lie together more often than by chance: shuffle the patches, do not shift the mask")
    if not torch.equal(twin(keep.clone(), torch.Generator().manual_seed(0)), found):
        raise Wrong("two generators with the same seed give different twins: take every random number from `generator`")
    if torch.equal(twin(keep.clone(), torch.Generator().manual_seed(1)), found):
        raise Wrong("another seed gives the very same twins: draw with `generator`")
