"""What is asked of the gates: objectives for `fit(…, objective=…)`.

`Constraint` is VISION DIFFMASK: the smallest mask that keeps the prediction. `Ranking` learns the order of the patches alone.
An objective of your own has `eps`, `alphas`, `config`, `start`, `terms` and `update`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attribution.fading import keep_slope
from ..diffmask import DiffMask
from ..gates import log_odds, log_open, sample
from ..vit.head import chosen_classes, kl_divergence, same_answer
from ..vit.removal import predict_unchecked
from .distributed import Draw

Terms = dict[str, Tensor]


@dataclass
class Step:
    """What one training step has at hand. Its B images are this process's share of the batch."""

    explainer: DiffMask
    images: Tensor  # (B, C, H, W)
    logits: Tensor  # (B, classes): the ViT's prediction on the whole images
    gates: Tensor  # (B, k + 1, N): logits of gates 0 … k, with gradients
    uniform: Tensor  # (B, k + 1, N): the noise of the gates, in [0, 1)
    draw: Draw  # for more random numbers
    indices: Sequence[int] = ()  # of the images in the data set

    @property
    def log_kept(self) -> Tensor:
        """Return the log-probability that a patch is kept, (B, N): one closed gate is a veto."""
        return log_open(self.gates).sum(1)

    def predict(self, z: Tensor) -> Tensor:
        """Return the ViT's logits (B, classes) on images masked by z (B, N) in [0, 1], with the explainer's placeholder."""
        keep = z.unflatten(1, self.explainer.shape.grid)
        return predict_unchecked(self.explainer.vit, self.images, keep, self.explainer.placeholder)


class Constraint:
    """Minimise the share of patches kept subject to KL(p(x) ‖ p(masked x)) ≤ eps: VISION DIFFMASK, eq. 5.

    The loss is sparsity + α_k (KL − eps), with one multiplier α_k ≥ 0 for each depth k. The gates descend on it, and α_k
    ascends: a violated constraint makes its own multiplier grow.
    eps: the KL allowed, in nats. alpha, alpha_lr, alpha_bounds: first value, step size and bounds of the multipliers. The lower
        bound matters. Where the constraint is slack for long, a multiplier that may fall to 0 leaves sparsity alone in the
        loss; every gate closes within a few dozen steps, and closed gates pass no gradient back.
    sparsity: "l0", the expected share of patches kept; or "log", its published form, the mean log-probability to be kept.
    shown: constrain the very mask that `explain` shows, 1 where the probability to be kept is above ½ and else 0, with the
        gradient passed straight through to the probability (Bengio et al. 2013, arXiv 1308.3432). It is for gates that rank
        already. Without it, as published, the ViT sees samples, and a patch that is kept by a tenth still tells it much.
    """

    def __init__(
        self,
        eps: float = 0.1,
        alpha: float = 1.0,
        alpha_lr: float = 0.3,
        alpha_bounds: tuple[float, float] = (0.1, 200.0),
        sparsity: str = "l0",
        shown: bool = False,
    ):
        if not eps > 0:
            raise ValueError(f"eps must be above 0, but it is {eps}.")
        if sparsity not in ("l0", "log"):
            raise ValueError(f'Unknown sparsity {sparsity!r}: use "l0" or "log".')
        self.eps, self.alpha, self.alpha_lr, self.alpha_bounds = eps, alpha, alpha_lr, alpha_bounds
        self.sparsity, self.shown = sparsity, shown

    def config(self) -> dict[str, Any]:
        """Return the settings, as JSON can hold them: a checkpoint is continued only under equal settings."""
        return {key: value for key, value in vars(self).items() if key != "alphas"}

    def start(self, depths: int, alphas: list[float] | None = None) -> None:
        """Begin a training with gates at so many depths; alphas: go on with these multipliers."""
        self.alphas = torch.full((depths,), float(self.alpha)) if alphas is None else torch.tensor(alphas)

    def mask(self, step: Step) -> Tensor:
        """Return the masks that are to meet the constraint, (B, N): one hard-concrete sample of the product of gates 0 … k."""
        if not self.shown:
            return sample(step.gates, step.uniform).prod(1)
        kept = step.log_kept.exp()
        return (kept > 0.5).to(kept) + kept - kept.detach()

    def terms(self, step: Step) -> Terms:
        """Return the loss of a step, and what `History` keeps of it; each a mean over the images."""
        log_kept, z = step.log_kept, self.mask(step)
        masked = step.predict(z)
        multilabel = step.explainer.shape.multilabel
        kl = kl_divergence(step.logits, masked, multilabel).mean()
        sparsity = log_kept.exp().mean() if self.sparsity == "l0" else log_kept.mean()
        agree = same_answer(step.logits, masked, multilabel).float().mean()
        loss = sparsity + self.alphas[step.gates.shape[1] - 1].item() * (kl - self.eps)
        return {"loss": loss, "kl": kl, "kept": (z > 0).float().mean(), "agree": agree, "sparsity": sparsity}

    def update(self, depth: int, kl: float) -> None:
        """Move α_k by the KL of the step, the mean over the whole batch."""
        self.alphas[depth] = (self.alphas[depth] + self.alpha_lr * (kl - self.eps)).clamp(*self.alpha_bounds)


def by_slope(step: Step, score: Tensor) -> Tensor:
    """Let the score (B, N) follow how the prediction depends on each patch: minus their correlation, averaged over images.

    The prediction's slope along each patch's keep weight, `keep_slope`, is taken where all patches are kept to the same degree
    t, drawn anew for each image, so gates that learn from many images average over t. t is the square of an even number: the
    slope says most where few patches are left, and `integrated_drop` spaces its steps as the square does. A correlation
    ignores the scale of an image's slopes. So gates learn the mean of standardised slopes, where `integrated_drop` integrates
    the raw ones. One forward and one backward pass.
    """
    share = step.draw.uniform(1).square().clamp(min=0.01).expand_as(score)
    placeholder = step.explainer.placeholder
    removal = placeholder.detach() if isinstance(placeholder, Tensor) else placeholder
    chosen = chosen_classes(step.logits, None, step.explainer.shape.multilabel)
    slope = keep_slope(step.explainer.vit, step.images, chosen, share, removal)
    return -correlation(score, slope).mean()


class Taught:
    """Let the score (B, N) follow a map that another method gives of the same image: minus their correlation.

    maps: (n, h, w), one for each image of the data set that `fit` is given. Where the method is dear and the gates are cheap,
    this is far less noisy than `by_slope` at the same cost, since each map serves in every epoch.
    """

    def __init__(self, maps: Tensor):
        if not maps.isfinite().all():
            raise ValueError("The maps to learn from hold NaN or infinite values; leave those images out.")
        self.maps = maps.detach().flatten(1).float()
        self.keywords = {"maps": hashlib.blake2b(self.maps.cpu().numpy().tobytes(), digest_size=8).hexdigest()}

    def __call__(self, step: Step, score: Tensor) -> Tensor:
        if not step.indices or max(step.indices) >= len(self.maps) or self.maps.shape[1] != score.shape[1]:
            raise ValueError(
                f"There are {len(self.maps)} maps of {self.maps.shape[1]} patches to learn from, not one for each image "
                "of the data set; make them from the very images that fit is given."
            )
        return -correlation(score, self.maps[list(step.indices)].to(score)).mean()


class Ranking:
    """Learn which patch comes before which, with neither constraint nor sparsity; `CONSTRAINED` goes on from there.

    term: a function of (step, score) that returns a scalar to minimise; score (B, N) is the log-odds of the mask.
    """

    eps = math.nan  # no KL is asked for

    def __init__(self, term: Callable[[Step, Tensor], Tensor] = by_slope):
        self.term = term

    def config(self) -> dict[str, Any]:
        options, inner = getattr(self.term, "keywords", {}), getattr(self.term, "func", self.term)  # of functools.partial
        return {"term": [getattr(inner, "__name__", type(inner).__name__), *sorted(map(list, options.items()))]}

    def start(self, depths: int, alphas: list[float] | None = None) -> None:
        self.alphas = torch.full((depths,), math.nan)

    def terms(self, step: Step) -> Terms:
        log_kept, none = step.log_kept, step.gates.new_tensor(math.nan)
        kept = (log_kept > math.log(0.5)).float().mean()
        loss = self.term(step, log_odds(log_kept))
        found = {"loss": loss, "kl": none, "kept": kept, "agree": none, "sparsity": log_kept.exp().mean()}
        inner = getattr(self.term, "func", self.term)
        return found | ({"correlation": -loss} if inner is by_slope or isinstance(inner, Taught) else {})

    def update(self, depth: int, kl: float) -> None:
        """There is no multiplier to move."""


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Return Pearson's correlation of a and b, both (B, N), over the patches of each image, (B,); 0 where one is constant."""
    return F.cosine_similarity(a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True))
