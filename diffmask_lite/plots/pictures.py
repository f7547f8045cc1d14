"""Pictures as they are: undo a ViT's normalisation, and lay pictures out in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from .canvas import WIDTH, Drawing, as_array, as_picture, bare, described, in_house_style, new_figure, wrap


def displayable(images: Any, mean: Any = 0.5, std: Any = 0.5) -> ndarray:
    """Undo normalisation: images (B, C, H, W) or one (C, H, W) -> pictures (B, H, W, 3) in [0, 1].

    mean, std: those of the normalisation, one number or one for each of the C channels.
    A picture of other numbers than pixels in [0, 1] has no white of its own: of C channels that are neither 1 nor 3, or where a
    mean is above 1. Its first three bands, or its one, then go from their smallest to their largest number.
    """
    images = as_array(images)
    channels = images.shape[-3] if images.ndim in (3, 4) else 0
    mean, std = (np.reshape(as_array(v), (-1, 1, 1)).astype(images.dtype) for v in (mean, std))
    lengths = {len(mean), len(std)}
    if channels == 0 or lengths - ({1, channels} if channels in (1, 3) else {channels}):
        raise ValueError(
            f"Images must be (B, C, H, W) with 1 or 3 channels, or with a mean and a deviation for each channel, but these are "
            f"{images.shape}, with {len(mean)} and {len(std)}."
        )
    bands = (images * std + mean).reshape(-1, *images.shape[-3:])[:, : 1 if channels < 3 else 3]
    if channels not in (1, 3) or mean.max() > 1:
        low, high = (end(bands, axis=(2, 3), keepdims=True) for end in (np.min, np.max))
        bands = (bands - low) / np.maximum(high - low, 1e-12)
    pixels = np.clip(bands, 0, 1).transpose(0, 2, 3, 1)
    return pixels.repeat(3 // pixels.shape[-1], axis=-1)


@in_house_style
def image_grid(pictures: Any, titles: Sequence[Any] | None = None, columns: int = 6) -> Drawing:
    """Draw pictures (B, H, W, 3), `columns` in a row, each under its title."""
    pictures, side = [as_picture(picture) for picture in pictures], WIDTH / columns
    titles = [wrap(str(title), side) for title in ([""] * len(pictures) if titles is None else titles)]
    if len(titles) != len(pictures):
        raise ValueError(f"There are {len(pictures)} pictures but {len(titles)} titles; give each its own.")
    tall = side * pictures[0].shape[0] / pictures[0].shape[1] + 0.2 * max(len(t.splitlines()) for t in titles) + 0.1
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = new_figure(tall * rows, rows, columns, width=side * columns)
    for ax, picture, title in zip(axes.flat, pictures, titles, strict=False):
        ax.imshow(picture)
        ax.set_title(title)
    for ax in axes.flat:
        bare(ax)
    words = "; ".join(" ".join(title.split()) for title in titles if title)
    return described(figure, f"Pictures in a grid: {len(pictures)}. {words}")
