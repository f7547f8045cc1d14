"""Pictures as they are: undo a ViT's normalisation, and lay pictures out in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from .canvas import WIDTH, Drawing, as_array, as_picture, bare, described, in_house_style, new_figure, wrap


def displayable(images: Any, mean: Any = 0.5, std: Any = 0.5) -> ndarray:
    """Undo normalisation: images (B, C, H, W) or one (C, H, W) -> pictures (B, H, W, 3) in [0, 1].

    mean, std: those of the normalisation, one number or one for each of the C = 1 or 3 channels.
    """
    images = as_array(images)
    if images.ndim not in (3, 4) or images.shape[-3] not in (1, 3):
        raise ValueError(f"Images must be (B, C, H, W) with 1 or 3 channels, but these have shape {images.shape}.")
    mean, std = (np.reshape(as_array(v), (-1, 1, 1)).astype(images.dtype) for v in (mean, std))
    pixels = np.clip(images * std + mean, 0, 1).reshape(-1, *images.shape[-3:]).transpose(0, 2, 3, 1)
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
