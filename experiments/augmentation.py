"""Change training images a little each time they are seen: a whole batch at once, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def augmented(images: Tensor, draw: torch.Generator) -> Tensor:
    """Mirror half of the images, shift all by up to 4 pixels, turn, stretch and recolour half; (B, 3, S, S) -> the same."""
    device = images.device

    def drawn(low: float, high: float) -> Tensor:  # one number an image
        return low + (high - low) * torch.rand(len(images), generator=draw, device=device)

    size, warped, recoloured = images.shape[-1], drawn(0, 1) < 0.5, drawn(0, 1) < 0.5
    angle = torch.where(warped, drawn(-0.3, 0.3), 0.0)  # radians
    wide, tall = (torch.where(warped, drawn(-0.25, 0.25), 0.0).exp() for _ in range(2))
    mirror = torch.where(drawn(0, 1) < 0.5, -1.0, 1.0)
    across, down = ((drawn(-4.5, 4.5).round().clamp(-4, 4)) * 2 / size for _ in range(2))  # whole pixels blur nothing
    rows = [mirror * wide * angle.cos(), -tall * angle.sin(), across, mirror * wide * angle.sin(), tall * angle.cos(), down]
    places = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    images = F.grid_sample(images, places, padding_mode="reflection", align_corners=False)
    brightness, contrast, saturation = (
        torch.where(recoloured, drawn(low, high), middle).view(-1, 1, 1, 1)
        for low, high, middle in ((-0.5, 0.5, 0.0), (0.6, 1.4, 1.0), (0.5, 1.5, 1.0))
    )
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * saturation
    centre = images.mean((1, 2, 3), keepdim=True)
    return centre + (images - centre) * contrast + brightness
