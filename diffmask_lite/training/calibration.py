"""`calibrate`: say how far down their order gates that learned to rank keep."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffmask import DiffMask

CUT_EPS = 0.25  # nats: the mean KL at which gates that rank are cut, the shipped ones too


@torch.no_grad()
def calibrate(explainer: DiffMask, images: Tensor, eps: float, batch: int = 250) -> float:
    """Set `explainer.cut` so that the hard masks of these images have a mean KL of eps, and return that mean as it is then.

    images: (n, C, H, W), best held out of `fit`; n ≥ 500 or so. eps: in nats. The cut is found by halving an interval of 6
    standard deviations 12 times; each time the ViT is asked about the masks, with this explainer's removal. Where even the
    least cut in it leaves more KL than eps, that one is taken.

    This is for gates that rank. One cut in standard deviations keeps a similar share of every image. A mean KL alone could also
    be met by keeping all of some images and nothing of others.
    """
    if not eps > 0:
        raise ValueError(f"eps must be above 0, but it is {eps}.")
    before, explainer.cut = explainer.cut, 0.0
    try:
        found = [explainer.explain(part) for part in images.split(batch)]

        def kl(cut: float) -> float:
            parts = zip(images.split(batch), found, strict=True)
            checks = [explainer.verify(part, result.score > cut, result.logits).kl for part, result in parts]
            return torch.cat(checks).mean().item()

        low, high = -3.0, 3.0
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if kl(middle) <= eps else (low, middle)
        reached, before = kl(low), low
    finally:
        explainer.cut = before  # after an interrupt, what it was
    return reached
