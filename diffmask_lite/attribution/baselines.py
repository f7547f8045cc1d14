"""Maps that know nothing of the ViT. A method that does no better than these explains nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .common import Target, require_input, seeded


def random(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Draw every patch's score anew for each image, uniform in [0, 1)."""
    shape = require_input(vit, images, target)
    generator = seeded(generator)
    return torch.rand(len(images), *shape.grid, generator=generator, device=generator.device).to(images.device)


def centre(vit: nn.Module, images: Tensor, target: Target = None, generator: torch.Generator | None = None) -> Tensor:
    """Bet on the middle, where photographers put things: minus the distance to the image's centre, in patches."""
    shape = require_input(vit, images, target)
    down, across = (torch.arange(size, device=images.device) - (size - 1) / 2 for size in shape.grid)
    return -torch.hypot(down[:, None], across[None]).expand(len(images), -1, -1)


def blurred(maps: Tensor, sigma: float = 1.0) -> Tensor:
    """Return maps (B, h, w) smoothed by a Gaussian of standard deviation sigma, in patches: G_h S G_wᵀ.

    Rows of G have sum 1 also at the border, so a constant map stays what it is.
    """

    def gaussian(size: int) -> Tensor:
        place = torch.arange(size, dtype=maps.dtype, device=maps.device)
        return (-((place[:, None] - place) ** 2) / (2 * sigma**2)).softmax(1)

    return gaussian(maps.shape[1]) @ maps @ gaussian(maps.shape[2]).T
