"""Hard masks: are the patches they keep enough, and are they needed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from ..diffmask import DiffMask
from ..vit.inputs import require_images
from .curves import AGREE, KL, ask, long_table, named_removals, predictions
from .ranking import stack_maps
from .truth import pooled_iou


def mask_scores(
    vit: nn.Module,
    images: Tensor,
    masks: Mapping[str, Tensor],
    removal: str | Sequence[str] = ("drop",),
    *,
    explainer: DiffMask | None = None,
    seed: int = 0,
    batch: int = 128,
    logits: Tensor | None = None,
) -> pd.DataFrame:
    """Score the very masks that are shown, name -> bool (n, h, w) or (S, n, h, w); a table like `Evaluation.scores`.

    The other arguments are those of `evaluate`.

    Metrics: "sufficiency", KL(p(x) ‖ p(kept patches alone)) in nats; "comprehensiveness", KL(p(x) ‖ p(all but them));
    "agreement", 1 where the kept patches alone give the same class; "kept", the share of patches kept. Only masks that keep
    equally many patches can be ranked by one of these alone.
    """
    shape = require_images(vit, images)
    removals = named_removals(removal, vit, explainer)
    stacked = stack_maps(masks, len(images), shape.grid, kind="mask")
    keep = torch.cat(list(stacked.values())).flatten(2)  # (K, n, N)
    methods = [(name, s) for name, group in stacked.items() for s in range(len(group))]
    which = torch.arange(len(images)).repeat(2 * len(keep))
    whole = predictions(vit, images, batch, logits)
    tables = []
    for name, how in removals.items():
        answers = ask(vit, images, whole, which, torch.cat([keep, ~keep]).flatten(0, 1), how, batch, seed)
        alone, without = answers.view(3, 2, *keep.shape[:2]).unbind(1)  # each (3, K, n)
        values = {
            "sufficiency": alone[KL], "comprehensiveness": without[KL], "agreement": alone[AGREE], "kept": keep.double().mean(2)
        }  # fmt: skip
        tables += [long_table(value.numpy(), methods, removal=name, metric=metric) for metric, value in values.items()]
    return pd.concat(tables, ignore_index=True)[["method", "seed", "removal", "image", "metric", "value"]]


def hard_mask_scores(
    explainer: DiffMask, images: Tensor, truth: Tensor | None = None, threshold: float = 0.5, batch: int = 500
) -> dict[str, float]:
    """Explain images (n, C, H, W) and score the very masks that `explain` shows, with what the ViT says of them.

    Returns "kl" (mean, nats), "agreement" (share), "kept" (share of patches); with truth, bool (n, h, w), also "iou" and
    "truth kept", the share of patches in the truth.
    """
    keeps, checks = [], []
    for part in images.split(batch):
        result = explainer.explain(part, threshold)
        keeps.append(result.keep)
        checks.append(explainer.verify(part, result.keep, result.logits))
    keep = torch.cat(keeps)
    scores = {
        "kl": torch.cat([check.kl for check in checks]).mean().item(),
        "agreement": torch.cat([check.agree for check in checks]).float().mean().item(),
        "kept": keep.float().mean().item(),
    }
    if truth is not None:
        scores |= {"iou": pooled_iou(keep, truth.to(keep.device)), "truth kept": truth.float().mean().item()}
    return scores
