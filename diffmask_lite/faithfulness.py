"""Is a mask true? Scores of hard masks against the ViT itself, and against a known ground truth."""

from __future__ import annotations

import torch
from torch import Tensor

from .diffmask import DiffMask


def pooled_iou(keep: Tensor, truth: Tensor) -> float:
    """Return |keep ∩ truth| / |keep ∪ truth| over all patches of all images together; both bool, of one shape.

    Pooling lets images with an empty truth count: each patch kept there enlarges the union. 1 if both are empty everywhere.
    """
    if keep.shape != truth.shape:
        raise ValueError(f"The masks have shape {tuple(keep.shape)}, but the truth has {tuple(truth.shape)}.")
    union = int((keep | truth).sum())
    return int((keep & truth).sum()) / union if union else 1.0


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
