"""Ways to make gates rank: terms for `fit(…, rank=1.0, ranking=…)` that give the order of the mask a meaning.

DiffMask asks for a set of patches that is enough. Which patch of the set matters most, nobody asks, so the order within a
mask is left to chance. Each function here is a term of the loss that asks, with one signature:

    (vit, images, logits, score, placeholder, generator) -> scalar

images (B, C, H, W); logits (B, classes): what the ViT says of them; score (B, N): the log-odds of the mask, with a gradient;
placeholder: what stands for a removed patch, or "drop"; generator: for all that is drawn at random.
`benchmarks/ranking_variants.py` compares them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import vit as see
from .attribution.fading import keep_slope
from .diffmask import kl_divergence
from .together import own_rows


def by_slope(
    vit: nn.Module, images: Tensor, logits: Tensor, score: Tensor, placeholder: Tensor | str, generator: torch.Generator
) -> Tensor:
    """Let the score follow how the prediction hangs on each patch: minus their correlation in an image, averaged over images.

    The prediction's slope along each patch's keep weight, `keep_slope`, is taken where all patches are kept to the same degree
    t, drawn anew for each image, so gates that learn from many images average over t. A correlation forgets how large slopes
    are: what they learn is the mean of the standardised slopes, near to the integral that `integrated_drop` takes of slopes as
    they are, but not the same. One forward and one backward pass.
    """
    share = own_rows(lambda rows: torch.rand(rows, 1, generator=generator), len(images)).clamp(min=0.02).to(images.device)
    slope = keep_slope(vit, images, logits.argmax(1), share.expand_as(score), placeholder)
    return -correlation(score, slope).mean()


def by_worth(
    vit: nn.Module,
    images: Tensor,
    logits: Tensor,
    score: Tensor,
    placeholder: Tensor,
    generator: torch.Generator,
    *,
    removal: str | None = None,
    pairs: int = 4,
) -> Tensor:
    """Let the score follow what patches are found to be `worth`: minus their correlation in an image, averaged over images.

    removal: another than the placeholder; with "drop", where the ViT knows it, half of the tokens are half of the cost.
    """
    value = worth(vit, images, logits.argmax(1), generator, placeholder if removal is None else removal, pairs)
    return -correlation(score, value).mean()


def top_m(
    vit: nn.Module, images: Tensor, logits: Tensor, score: Tensor, placeholder: Tensor, generator: torch.Generator
) -> Tensor:
    """Let the m patches of the highest score be enough, and be needed, for an m drawn anew for each image.

    The score is perturbed by Gumbel noise (Xie and Ermon 2019, arXiv 1901.10517) and the m best are kept. The gradient passes
    straight through the choice (Bengio et al. 2013, arXiv 1308.3432), as if it had been a sigmoid around the border between
    the m-th and the next. The loss is KL(p ‖ p(the m alone)) plus the probability of the predicted class without them.
    """
    count, patches = score.shape
    uniform = own_rows(lambda rows: torch.rand(rows, patches, generator=generator), count).clamp(1e-6, 1 - 1e-6)
    noisy = score - torch.log(-torch.log(uniform)).to(score)
    m = own_rows(lambda rows: torch.randint(1, patches, (rows, 1), generator=generator), count).to(score.device)
    ordered = noisy.detach().sort(dim=1, descending=True).values
    border = (ordered.gather(1, m - 1) + ordered.gather(1, m)) / 2  # between the m-th and the next
    soft = torch.sigmoid(noisy - border)
    keep = (noisy > border).to(soft) + soft - soft.detach()
    grid = see.anatomy(vit).grid
    alone, without = (see.predict(vit, images, z.unflatten(1, grid), placeholder) for z in (keep, 1 - keep))
    left = without.softmax(1).gather(1, logits.argmax(1, keepdim=True))
    return kl_divergence(logits, alone).mean() + left.mean()


def destroyed(
    vit: nn.Module, images: Tensor, logits: Tensor, score: Tensor, placeholder: Tensor, generator: torch.Generator
) -> Tensor:
    """Let the prediction go without what the mask keeps: the probability of its class on 1 − mask, averaged over images."""
    without = (-score).sigmoid().unflatten(1, see.anatomy(vit).grid)  # 1 − mask, with a gradient also where the mask is 1
    masked = see.predict(vit, images, without, placeholder)
    return masked.softmax(1).gather(1, logits.argmax(1, keepdim=True)).mean()


@torch.no_grad()
def worth(
    vit: nn.Module, images: Tensor, target: Tensor, generator: torch.Generator, removal: str | Tensor = "drop", pairs: int = 4
) -> Tensor:
    """Return a noisy look at what each patch is worth to a class, (B, N): half its mean effect on the probability.

    images: (B, C, H, W). target: a class for each image, (B,). generator: on the CPU. removal: see `vit.predict`.

    Half of an image's patches, drawn at random, are kept, and then the other half; the difference of the class's probability
    p speaks for each patch of the first half and against each of the second. The mean over `pairs` such draws estimates
    (E[p | kept] − E[p | removed]) / 2; RISE (Petsiuk et al. 2018) has the first term alone, and were all coalitions equally
    likely it would be half the Banzhaf value. A few draws are far too noisy to explain one image, but gates that learn from
    many images average them. Raises `ValueError` for less than one pair.

    No gradient is needed, so this works with every removal. `by_slope` asks the same by a gradient, with far less noise.
    """
    if pairs < 1:
        raise ValueError(f"worth compares pairs of halves, so pairs must be at least 1, but it is {pairs}.")
    body = see.anatomy(vit)
    total = images.new_zeros(len(images), body.patches, dtype=torch.float32)
    for _ in range(pairs):
        rank = own_rows(lambda rows: torch.rand(rows, body.patches, generator=generator), len(images)).argsort(1)
        rank = rank.to(images.device)
        half = rank < body.patches // 2  # (B, N)
        p = [
            see.predict(vit, images, keep.unflatten(1, body.grid), removal).float().softmax(1).gather(1, target[:, None])
            for keep in (half, ~half)
        ]
        total += (p[0] - p[1]) * (half.float() - 0.5)
    return total / pairs


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of a and b, both (B, N), over the patches of each image, (B,); 0 where one is constant."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))
