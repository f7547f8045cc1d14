"""Is a mask better than luck? Beside each stand its twins: random masks of the same size, and the mask itself, moved.

A mask that does not beat its random twin has not shown that it selects. The moved one also has the mask's shape: sets that lie
together keep less of an image than scattered ones, so it is the fairer control for masks that lie together.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from ..diffmask import DiffMask
from ..vit.inputs import require_images
from ..vit.randomness import stream
from .masks import mask_scores
from .ranking import stack_maps
from .statistics import compare

TWINS = ("random", "shifted")


def twins(masks: Tensor, draws: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Return the twins of hard masks, bool (n, h, w), drawn anew for each image: name -> bool (draws, n, h, w).

    "random" keeps as many patches, anywhere; "shifted" is the mask moved round the torus by at least one patch.
    """
    n, h, w = masks.shape
    draw = stream(seed, "twins")
    place = torch.rand(draws, n, h * w, generator=draw).argsort(-1).argsort(-1)
    random = place < masks.flatten(1).sum(1)[:, None].cpu()
    by = 1 + torch.randint(h * w - 1, (draws, n, 1, 1), generator=draw) if h * w > 1 else torch.zeros(draws, n, 1, 1).long()
    rows = (torch.arange(h)[:, None] + by // w) % h  # (draws, n, h, 1)
    columns = (torch.arange(w) + by % w) % w  # (draws, n, 1, w)
    shifted = masks.cpu()[torch.arange(n).view(1, n, 1, 1), rows, columns]
    return {"random": random.unflatten(-1, (h, w)), "shifted": shifted}


def luck(
    vit: nn.Module,
    images: Tensor,
    masks: Mapping[str, Tensor],
    removal: str = "drop",
    *,
    explainer: DiffMask | None = None,
    draws: int = 5,
    seed: int = 0,
    batch: int = 128,
    logits: Tensor | None = None,
) -> pd.DataFrame:
    """Compare hard masks with their `twins` on the same images: a row a method, twin and metric.

    masks: name -> bool (n, h, w), or (S, n, h, w) for S seeds. draws: of each twin; their mean is what luck gives. The other
    arguments are those of `evaluate`.
    Columns: method, twin, metric ("sufficiency", the KL of what is kept, in nats; "agreement"), the means "mask" and "luck",
    their paired "difference" with its 95 % interval "low", "high", "better": whether that interval lies on the better
    side of 0; and "kept", the mean share of patches, with "spread", its standard deviation over images.
    """
    shape, rows = require_images(vit, images), []
    for name, stacked in stack_maps(masks, len(images), shape.grid, kind="mask").items():
        drawn = [twins(mask, draws, seed + s) for s, mask in enumerate(stacked)]
        found = {"mask": stacked} | {twin: torch.cat([each[twin] for each in drawn]) for twin in TWINS}
        scores = mask_scores(vit, images, found, removal, explainer=explainer, seed=seed, batch=batch, logits=logits)
        scores.loc[scores["method"] != "mask", "seed"] //= draws
        keys = [column for column in scores if column != "value"]
        scores = scores.groupby(keys, sort=False)["value"].mean().reset_index()
        share = stacked.flatten(2).double().mean(2)
        for twin in TWINS:
            for metric, sign in (("sufficiency", -1), ("agreement", 1)):
                each = scores[scores["metric"] == metric].groupby("method")["value"].mean()
                apart = compare(scores, "mask", twin, metric, removal)
                rows.append(
                    {"method": name, "twin": twin, "metric": metric, "mask": each["mask"], "luck": each[twin]}
                    | {"difference": apart.mean, "low": apart.low, "high": apart.high}
                    | {"better": min(sign * apart.low, sign * apart.high) > 0}
                    | {"kept": share.mean().item(), "spread": share.std(1).mean().item()}
                )
    return pd.DataFrame(rows)
