"""`calibrate`: learn how far down their order gates keep each image, under the constraint of VISION DIFFMASK."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffmask import DiffMask
from ..gates import Cut, standardised

CUT_EPS = 0.09  # nats: the mean KL to which gates that rank are cut; of our larger ViT it keeps a fifth of the patches
SIZES = 16  # sizes of a mask that are asked about, spaced evenly in their square root
ENOUGH = 200  # images from which a cut of their own is learned; with fewer, all have the same


@torch.inference_mode(False)  # `_learn` needs gradients, whatever the caller's mode is
@torch.no_grad()
def calibrate(explainer: DiffMask, images: Tensor, eps: float = CUT_EPS, batch: int = 250, per_image: bool = True) -> float:
    """Set `explainer.cut` so that the hard masks of these images are small and have a mean KL of eps; return that KL.

    images: (n, C, H, W), best held out of `fit`; n ≥ 1,000 or so. eps: in nats.
    The cut of an image is a weighted sum of `Cut.features`. Its weights minimise the mean share of patches kept subject to a
    mean KL(p(x) ‖ p(masked x)) ≤ eps, by descent on the weights and ascent on a multiplier, as for gates. The ViT is asked
    about each image at `SIZES` sizes of its mask; between them share and KL are interpolated. At last one number, the same for
    all, is found by halving an interval of 6 standard deviations 12 times, so that the very masks meet eps; where even the
    lowest leaves more KL, it is taken. With fewer images than `ENOUGH`, or per_image=False, there is this number alone.
    """
    if not eps > 0:
        raise ValueError(f"eps must be above 0, but it is {eps}.")
    before, explainer.cut = explainer.cut, None
    try:
        found = [explainer.explain(part) for part in images.split(batch)]
        score, logits = (torch.cat([getattr(result, name) for result in found]) for name in ("score", "logits"))

        def kl_of(keep: Tensor) -> Tensor:  # (n,)
            parts = zip(images.split(batch), keep.split(batch), logits.split(batch), strict=True)
            return torch.cat([explainer.verify(*part).kl for part in parts])

        cut = Cut(0.0)
        if per_image and len(images) >= ENOUGH:
            sizes = (torch.linspace(0, 1, SIZES).square() * explainer.shape.patches).round().long().unique().to(score.device)
            place = score.flatten(1).argsort(1, descending=True).argsort(1).view_as(score)
            kl = torch.stack([kl_of(place < size) for size in sizes], 1)
            cut = _learn(score, logits, sizes, kl, eps, explainer.shape.multilabel)
        level = standardised(score) - cut(score, logits, explainer.shape.multilabel)[:, None, None]
        low, high = -3.0, 3.0
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if kl_of(level > middle).mean() <= eps else (low, middle)
        reached, before = kl_of(level > low).mean().item(), Cut(cut.offset + low, cut.weights)
    finally:
        explainer.cut = before  # after an interrupt, what it was
    return reached


@torch.enable_grad()
def _learn(
    score: Tensor, logits: Tensor, sizes: Tensor, kl: Tensor, eps: float, multilabel: bool = False, steps: int = 800
) -> Cut:
    """Return the cut that keeps least at a mean KL of eps; kl: (n, sizes), with each image's best patches kept."""
    score, logits, sizes, kl = (each.cpu() for each in (score, logits, sizes, kl))  # not every device has float64
    score, logits, kl = score.double(), logits.double(), kl.double()
    ordered = standardised(score).flatten(1).sort(1, descending=True).values
    border = torch.cat([ordered[:, :1] + 1, ordered, ordered[:, -1:] - 1], 1)
    border = ((border[:, :-1] + border[:, 1:]) / 2)[:, sizes]  # (n, sizes): the cut that keeps so many
    share = (sizes / score[0].numel()).double().expand_as(kl)
    feature = Cut.features(score, logits, multilabel)
    mean, scale = feature.mean(0), feature.std(0).clamp(min=1e-3)
    feature = (feature - mean) / scale
    weights, offset = feature.new_zeros(feature.shape[1], requires_grad=True), feature.new_tensor(0.8, requires_grad=True)
    learner, alpha = torch.optim.Adam([weights, offset], lr=0.02), 1.0
    for step in range(steps):
        for group in learner.param_groups:
            group["lr"] = 0.02 * (1 - step / steps)
        kept, lost = _at(feature @ weights + offset, border, torch.stack([share, kl])).mean(1)
        loss = kept + alpha * (lost - eps) + weights.square().sum() / len(score)
        learner.zero_grad()
        loss.backward()
        learner.step()
        alpha = max(0.0, alpha + 0.3 * (lost.item() - eps))
    weights = weights.detach() / scale
    return Cut((offset.detach() - weights @ mean).item(), tuple(weights.tolist()))


def _at(cut: Tensor, border: Tensor, values: Tensor) -> Tensor:
    """Return values (…, n, sizes), known at the borders (n, sizes), descending, at each image's cut (n,), interpolated."""
    cut = torch.minimum(torch.maximum(cut, border[:, -1]), border[:, 0])
    after = (border > cut[:, None]).sum(1, keepdim=True).clamp(1, border.shape[1] - 1)
    high, low = border.gather(1, after - 1)[:, 0], border.gather(1, after)[:, 0]
    near = ((high - cut) / (high - low).clamp(min=1e-9)).clamp(0, 1)
    first, second = (values.gather(-1, where.expand(*values.shape[:-1], 1))[..., 0] for where in (after - 1, after))
    return first + near * (second - first)
