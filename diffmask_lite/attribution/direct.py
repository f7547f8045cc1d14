"""Attribution by what attention carries from each patch to the class: one forward pass, no gradient; see `vit.direct`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..vit import guest
from ..vit.direct import observe_carried
from ..vit.head import chosen_classes, log_odds_slope
from .common import Target, on_grid, require_input


@torch.no_grad()
def direct(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Add up what attention writes of a patch straight into the class: S_j = Σ_l Σ_h Σ_i a_ij (W_O v_j) · u_i.

    i runs over the tokens that the head reads, u_i is the direction in which the log-odds of the class rise, the scale of the
    last norm held fixed. What patches tell one another first is not counted.
    Source: direct logit attribution, Elhage et al. 2021; Gandelsman et al., ICLR 2024, arXiv 2310.05916.
    """
    shape = require_input(vit, images, target)
    with guest(vit), observe_carried(vit) as carried:
        logits = vit(images)
    wanted = log_odds_slope(logits, chosen_classes(logits, target, shape.multilabel))
    return on_grid(carried.terms(wanted).sum((1, 2)), shape, logits)


@torch.no_grad()
def direct_paths(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Add up what attention carries of a patch to the class, through other tokens too, and what takes its place if it goes.

    S_j = Σ_l Σ_h Σ_i a_ij (v_j − Σ_k a_ik v_k) · W_O u_li, where u_li follows token i through the attention of all later
    blocks; see `vit.direct.Carried.paths`. It is `gradient_drop` with attention and the scales of norms held fixed, MLPs left
    out, and no gradient. The method is ours.
    """
    shape = require_input(vit, images, target)
    with guest(vit), observe_carried(vit) as carried:
        logits = vit(images)
    wanted = log_odds_slope(logits, chosen_classes(logits, target, shape.multilabel))
    return on_grid(carried.paths(wanted).sum(1), shape, logits)
