"""Take patches away in the order of a map and watch the prediction: MoRF, LeRF, SRG, sufficiency, comprehensiveness.

MoRF, most relevant first: the probability of the predicted class should fall at once. LeRF, least relevant first: it should
stay. SRG = AUC(LeRF) − AUC(MoRF), 0 in expectation for a random order (Samek et al. 2017, arXiv 1509.06321; Blücher et al.
2024, arXiv 2401.06654). Sufficiency and comprehensiveness ask the same at a few shares (DeYoung et al. 2020, arXiv 1911.03429).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy import ndarray
from torch import Tensor, nn
from tqdm import tqdm

from ..diffmask import DiffMask
from ..vit import anatomy
from ..vit.head import chosen_classes, kl_divergence, p_of, same_answer
from ..vit.inputs import REMOVALS, require_finite, require_images, require_logits, require_target
from ..vit.randomness import stream
from ..vit.removal import predict_unchecked
from .ranking import removal_ranks, stack_maps, tie_orders

NAMED_REMOVALS = (*REMOVALS, "placeholder")  # of `evaluate`; the last is an explainer's own
MORF, LERF = range(2)  # most or least relevant first
P, KL, AGREE = range(3)  # the rows of what `ask` answers


@dataclass(frozen=True)
class Evaluation:
    """Per-image numbers; `statistics.summary` and `statistics.compare` turn them into means, intervals and differences."""

    scores: pd.DataFrame  # method, seed, removal, image, metric, value
    curves: pd.DataFrame  # method, seed, removal, image, order ("morf", "lerf"), share removed, p (of the predicted class)


def evaluate(
    vit: nn.Module,
    images: Tensor,
    maps: Mapping[str, Tensor],
    removal: str | Sequence[str] = ("drop",),
    *,
    explainer: DiffMask | None = None,
    steps: int = 16,
    shares: Sequence[float] = (0.05, 0.1, 0.2, 0.5),
    orders: int = 5,
    seed: int = 0,
    batch: int = 128,
    logits: Tensor | None = None,
    target: int | Tensor | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score attribution maps by what the ViT says as patches are taken away in their order.

    images: (n, C, H, W), normalised. maps: name -> (n, h, w), or (S, n, h, w) for S seeds or random draws of one method.
    Higher means more relevant; only the order of the values within an image counts.
    removal: one or several of "drop", "mean", "noise" and "placeholder", see `vit.predict`; the placeholder is that of
        `explainer`. The noise is one picture drawn from `seed`, so that methods differ in their order alone.
    steps: the curves have min(steps, N) + 1 points, both end points included.
    shares: of patches, rounded to whole ones, at least one. "sufficiency@10%" is KL(p(x) ‖ p(the best 10 % alone)) in nats,
        "comprehensiveness@10%" is KL(p(x) ‖ p(all but the best 10 %)) in nats. "agreement@10%" says whether the best 10 %
        alone give the same class.
    orders: ties are broken by so many random orders, and the scores are averaged over them.
    batch: images in one forward pass, which bounds memory.
    logits: the ViT's prediction on the whole images, (n, classes), if it is at hand; else one more pass over them finds it.
    target: the class whose p is watched, an int or one for each image, LongTensor (n,), as the maps were made for; by default
        each image's predicted class, or set of labels. KL and agreement are about the whole prediction all the same.

    The metrics of `scores` are "morf", "lerf" (areas under p of the class over the share removed, by trapezoids), "srg", and
    the three above. Raises `ValueError` on input that does not fit.
    """
    shape = require_images(vit, images)
    removals = named_removals(removal, vit, explainer)
    stacked = stack_maps(maps, len(images), shape.grid)
    if min(steps, orders, batch) < 1 or not all(0 < share < 1 for share in shares):
        raise ValueError("steps, orders and batch must be at least 1, and each of the shares between 0 and 1.")

    n, patches = len(images), shape.patches
    counts = np.linspace(0, patches, min(steps, patches) + 1).round().astype(int)
    sizes = {f"{100 * share:g}%": max(1, round(share * patches)) for share in shares}
    plan = {int(count): {MORF, LERF} for count in counts}  # patches removed -> the orders to ask about
    for size in sizes.values():
        plan.setdefault(size, set()).add(MORF)  # comprehensiveness: without the best
        plan.setdefault(patches - size, set()).add(LERF)  # sufficiency: the best alone

    flat = torch.cat(list(stacked.values())).flatten(2)[:, None]  # (K, 1, n, N), K counts methods times seeds
    ties = tie_orders(n, patches, orders, seed)  # (T, n, N)
    ranks = torch.stack([removal_ranks(flat, ties, lerf=order == LERF) for order in (MORF, LERF)])  # (2, K, T, n, N)
    methods = [(name, s) for name, group in stacked.items() for s in range(len(group))]
    require_target(target, shape, images)
    whole = predictions(vit, images, batch, logits)
    chosen = chosen_classes(whole, target, shape.multilabel)
    scores, curves = [], []
    bar = tqdm(total=len(removals) * len(plan), desc="removal", disable=not progress, file=sys.stdout, leave=False)
    with bar:
        for name, how in removals.items():
            found: dict[tuple[int, int], ndarray] = {}  # (order, patches removed) -> (3, K, n)
            for count, wanted in plan.items():
                keep = ranks[sorted(wanted)] >= count  # (1 or 2, K, T, n, N)
                which = torch.arange(n).expand(keep.shape[:-1])
                answers = ask(vit, images, whole, which.flatten(), keep.flatten(0, -2), how, batch, seed, chosen)
                answers = answers.view(3, *which.shape).mean(3)  # over the orders of ties: (3, 1 or 2, K, n)
                found |= {(order, count): answers[:, i].numpy() for i, order in enumerate(sorted(wanted))}
                bar.update()

            p = np.stack([[found[order, count][P] for count in counts] for order in (MORF, LERF)])  # (2, C, K, n)
            morf, lerf = area(p, counts / patches)
            values = {"morf": morf, "lerf": lerf, "srg": lerf - morf}
            values |= {f"sufficiency@{share}": found[LERF, patches - size][KL] for share, size in sizes.items()}
            values |= {f"comprehensiveness@{share}": found[MORF, size][KL] for share, size in sizes.items()}
            values |= {f"agreement@{share}": found[LERF, patches - size][AGREE] for share, size in sizes.items()}
            scores += [long_table(value, methods, removal=name, metric=metric) for metric, value in values.items()]
            for order, points in zip(("morf", "lerf"), p, strict=True):
                for count, value in zip(counts, points, strict=True):
                    curves.append(long_table(value, methods, "p", removal=name, order=order, share=count / patches))
    columns = ["method", "seed", "removal", "image"]
    return Evaluation(
        pd.concat(scores, ignore_index=True)[[*columns, "metric", "value"]],
        pd.concat(curves, ignore_index=True)[[*columns, "order", "share", "p"]],
    )


def area(p: ndarray, share: ndarray) -> ndarray:
    """Return the area under p (…, C, K, n) over the share removed (C,), by trapezoids: (…, K, n)."""
    middles = (p[..., 1:, :, :] + p[..., :-1, :, :]) / 2
    return (middles * np.diff(share)[:, None, None]).sum(-3)


def named_removals(removal: str | Sequence[str], vit: nn.Module, explainer: DiffMask | None) -> dict[str, str | Tensor]:
    """Return name -> what `vit.predict` takes, for one removal or several."""
    found: dict[str, str | Tensor] = {name: name for name in ([removal] if isinstance(removal, str) else removal)}
    if not found:
        raise ValueError(f"Name at least one removal: {', '.join(map(repr, NAMED_REMOVALS))}.")
    for name in found:
        if name not in NAMED_REMOVALS:
            raise ValueError(f"Unknown removal {name!r}: use {', '.join(map(repr, NAMED_REMOVALS))}.")
    if "placeholder" in found:
        if explainer is None:
            raise ValueError('Removal "placeholder" needs to know whose: pass explainer=, the DiffMask that owns it.')
        if explainer.vit is not vit:
            raise ValueError("The explainer belongs to another ViT than the one that is evaluated; pass explainer.vit.")
        own = explainer.placeholder  # a tensor, or "drop"
        found["placeholder"] = own.detach() if isinstance(own, Tensor) else own
    return found


@torch.no_grad()
def predictions(vit: nn.Module, images: Tensor, batch: int, logits: Tensor | None = None) -> Tensor:
    """Return the ViT's logits on the whole images, (n, classes): those at hand, if they fit, or else by asking."""
    if logits is None:
        logits = torch.cat([predict_unchecked(vit, part) for part in images.split(batch)])
    require_logits(logits, anatomy(vit), images)
    require_finite(logits)
    return logits


@torch.no_grad()
def ask(
    vit: nn.Module,
    images: Tensor,
    whole: Tensor,
    which: Tensor,
    keep: Tensor,
    removal: str | Tensor,
    batch: int,
    seed: int = 0,
    chosen: Tensor | None = None,
) -> Tensor:
    """Ask about R pairs of an image, which (R,), and the patches left of it, keep bool (R, N); return float64 (3, R).

    The rows are p of what is chosen (see `vit.head`), by default of what is predicted on the whole image; KL(p ‖ p(masked)) in
    nats; and 1 where both give the same answer. No pair is asked twice: methods often agree, all share the end points, and a
    map without ties has one order.
    """
    shape = anatomy(vit)
    # Sorted first by the number of patches left, so that dropped tokens leave batches of one length.
    key = torch.cat([keep.sum(1, keepdim=True), which[:, None], keep], dim=1)
    pairs, inverse = torch.unique(key, dim=0, return_inverse=True)
    which, keep = pairs[:, 1], pairs[:, 2:].bool().unflatten(1, shape.grid)
    whole = whole.cpu()  # answers are float64, which not every device has
    chosen = chosen_classes(whole, None, shape.multilabel) if chosen is None else chosen.cpu()
    answers = []
    for rows, kept in zip(which.split(batch), keep.split(batch), strict=True):
        if kept.all():
            logits = whole[rows]  # known already
        else:
            there = images.device
            logits = predict_unchecked(vit, images[rows.to(there)], kept.to(there), removal, stream(seed, "noise")).cpu()
        p, kl = p_of(logits.double(), chosen[rows]), kl_divergence(whole[rows], logits, shape.multilabel).clamp(min=0) + 0.0
        answers.append(torch.stack([p, kl.double(), same_answer(whole[rows], logits, shape.multilabel)]))
    answers = torch.cat(answers, dim=1)
    require_finite(torch.zeros(len(images)).double().index_add_(0, which, answers.sum(0)))  # one number an image
    return answers[:, inverse]


def long_table(value: ndarray, methods: Sequence[tuple[str, int]], column: str = "value", **constant: object) -> pd.DataFrame:
    """Return value (K, n), for K pairs of method and seed, as a table with one row a number."""
    images = value.shape[1]
    names, seeds = zip(*methods, strict=True)
    return pd.DataFrame(
        {
            "method": np.repeat(np.array(names, dtype=object), images),
            "seed": np.repeat(seeds, images),
            "image": np.tile(np.arange(images), len(methods)),
            column: value.ravel(),
            **constant,
        }
    )
