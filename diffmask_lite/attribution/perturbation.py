"""Attribution by perturbation: what does the ViT say when some patches are missing? No gradients, many forward passes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..vit import Anatomy, anatomy, mean_patch
from ..vit.head import chosen_classes, log_p_of
from ..vit.inputs import require_removal
from ..vit.removal import predict_unchecked
from .common import Target, captum, on_grid, require_input, seeded

TOKENS = 4096  # patches in one forward pass on a CPU, which is slower per image with more; a GPU is given 32 times as many


def _at_once(images: Tensor, shape: Anatomy) -> int:
    """Return how many masks of every image to ask about in one forward pass."""
    tokens = TOKENS if images.device.type == "cpu" else 32 * TOKENS
    return max(1, tokens // (len(images) * shape.patches))


@torch.no_grad()
def occlusion(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Put the mean patch over one patch at a time: S_j = log p(y | x) − log p(y | x with patch j grey), in nats.

    The logarithm ranks as the probability itself does, but does not saturate. Captum computes it. Source: Zeiler and Fergus,
    "Visualizing and Understanding Convolutional Networks", ECCV 2014, arXiv 1311.2901, their square being one patch.
    """
    shape = require_input(vit, images, target)
    mean, chosen = mean_patch(vit), chosen_classes(predict_unchecked(vit, images), target, shape.multilabel)

    def ask(z: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return log_p_of(predict_unchecked(vit, x, z, mean).float(), y)

    method = captum().Occlusion(ask)
    found = method.attribute(
        images.new_ones(len(images), *shape.grid),
        sliding_window_shapes=(1, 1),
        baselines=0,
        additional_forward_args=(images, chosen),
        perturbations_per_eval=min(shape.patches, _at_once(images, shape)),
    )
    return on_grid(found.flatten(1), shape)


@torch.no_grad()
def leave_one_out(
    vit: nn.Module,
    images: Tensor,
    target: Target = None,
    generator: torch.Generator | None = None,
    removal: str | Tensor = "drop",
) -> Tensor:
    """Leave out one patch at a time: S_j = log p(y | x) − log p(y | x without patch j), in nats.

    By default the patch's token is dropped, so nothing stands in its place; `removal` as in `vit.predict`. The logarithm ranks
    as the probability itself does, but does not saturate.
    """
    shape = require_input(vit, images, target)
    require_removal(removal, shape, images)
    whole = predict_unchecked(vit, images)
    chosen = chosen_classes(whole, target, shape.multilabel)
    left = _masked(vit, images, ~torch.eye(shape.patches, dtype=torch.bool, device=images.device), chosen, removal)
    return on_grid(log_p_of(whole.float(), chosen)[:, None] - left, shape)


@torch.no_grad()
def random_keep(
    vit: nn.Module,
    images: Tensor,
    target: Target = None,
    generator: torch.Generator | None = None,
    samples: int = 128,
    removal: str | Tensor = "drop",
) -> Tensor:
    """Keep random halves of the patches, and average what the ViT says with a patch among them: S_j = mean_{m ∋ j} p(y | m).

    The other tokens are dropped, so each forward is half as long; `removal` as in `vit.predict`. `samples` masks come in
    pairs, a half and the other half, so each patch is kept equally often. All images share the masks, so the batch does not
    change a map. Source: after Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box Models",
    BMVC 2018, arXiv 1806.07421, whose masks fade pixels to grey.
    """
    if samples < 2:
        raise ValueError(f"random_keep needs at least one pair of masks, but samples is {samples}.")
    shape = require_input(vit, images, target)
    require_removal(removal, shape, images)
    generator = seeded(generator)
    order = torch.rand(samples // 2, shape.patches, generator=generator, device=generator.device).argsort(1)
    half = (order < shape.patches // 2).to(images.device)
    keep = torch.cat([half, ~half])  # (samples, N)
    chosen = chosen_classes(predict_unchecked(vit, images), target, shape.multilabel)
    p = _masked(vit, images, keep, chosen, removal).exp()  # (B, samples)
    return on_grid(p @ keep.to(p) / keep.sum(0), shape)


def _masked(vit: nn.Module, images: Tensor, keep: Tensor, chosen: Tensor, removal: str | Tensor) -> Tensor:
    """Return log p of the chosen classes (B,) with each mask of keep, bool (M, N), on each image: (B, M)."""
    shape, found = anatomy(vit), []
    for masks in keep.split(_at_once(images, shape)):
        m = len(masks)
        each = images.repeat_interleave(m, 0)
        logits = predict_unchecked(vit, each, masks.repeat(len(images), 1).unflatten(1, shape.grid), removal)
        found.append(log_p_of(logits.float(), chosen.repeat_interleave(m, 0)).view(-1, m))
    return torch.cat(found, 1)
