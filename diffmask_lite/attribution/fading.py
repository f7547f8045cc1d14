"""Attribution by tokens that fade: how does the prediction change as patches are dropped by degrees?

A patch's keep weight multiplies all attention that is paid to it (`vit.weigh_tokens`). At 1 nothing changes; at 0 the token is
gone. So the slope along the weight says what losing the patch would cost, for all patches in one backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..vit import anatomy
from ..vit.head import chosen_classes, log_odds_of
from ..vit.removal import predict_unchecked
from .common import Target, gradients, on_grid, require_input


def keep_slope(vit: nn.Module, images: Tensor, target: Target, keep: Tensor, removal: str | Tensor = "drop") -> Tensor:
    """Return the slope of a class's log-odds along the keep weight of each patch: ∂ log(p / (1 − p)) / ∂keep, (B, N).

    target: as for all methods, but by default what is predicted where the slope is taken; or what `chosen_classes` gave.
    keep: (B, N) in [0, 1], that place. removal: what a patch fades into, see `vit.predict`; by default nothing. Callers have
    looked at the input. The log-odds rank as p does, but still have a slope where p rounds to 1.
    """
    shape = anatomy(vit)
    with gradients(vit, images) as pixels:
        keep = keep.detach().clone().requires_grad_()
        logits = predict_unchecked(vit, pixels, keep.unflatten(1, shape.grid), removal).float()
        # Cloned, since autograd keeps it, which a tensor of inference mode would forbid.
        chosen = chosen_classes(logits, target, shape.multilabel).clone()
        odds = log_odds_of(logits, chosen)
        (slope,) = torch.autograd.grad(odds.sum(), keep)
    return torch.where(odds.isfinite()[:, None], slope, torch.nan)  # a logit of NaN can have a finite slope


def gradient_drop(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Estimate to first order what dropping a patch's token would cost: S_j = ∂ log-odds(y) / ∂z_j at z = 1.

    z_j weighs every attention to patch j (`vit.weigh_tokens`), so that z_j = 0 drops its token. This is `leave_one_out` by one
    forward and one backward pass, exact for small changes of z. The method is ours; `gradient_attention` is older and uses
    the gradients of attention itself.
    """
    shape = require_input(vit, images, target)
    return on_grid(keep_slope(vit, images, target, images.new_ones(len(images), shape.patches)), shape)


def integrated_drop(
    vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None, steps: int = 8
) -> Tensor:
    """Add up `gradient_drop` on the way from no patch to all: S_j = ∫₀¹ ∂ log-odds(y) / ∂z_j dt at z = (t, …, t).

    These are integrated gradients (Sundararajan et al. 2017), but tokens are dropped by degrees instead of pixels fading. The
    slope is steep near t = 0, so the `steps` midpoints are spaced evenly in √t: t = u², dt = 2u du.
    """
    shape = require_input(vit, images, target)
    with torch.no_grad():
        chosen = chosen_classes(predict_unchecked(vit, images), target, shape.multilabel)
    total = 0
    for step in range(steps):
        u = (step + 0.5) / steps
        share = images.new_full((len(images), shape.patches), u * u)
        total = total + keep_slope(vit, images, chosen, share) * (2 * u / steps)
    return on_grid(total, shape)
