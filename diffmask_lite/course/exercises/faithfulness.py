"""The checkers of notebook 05."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

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
