"""Files of one photograph: its figure, pictures in the photograph's own size, and arrays."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image

from .. import plots
from ..datasets import Preprocessing, load_image
from ..plots.canvas import score_limits
from ..plots.overlays import heatmap, on_photograph
from ..vit import Anatomy

ENDINGS = {"report": ".png", "heatmap": ".heatmap.png", "overlay": ".overlay.png", "mask": ".mask.png", "array": ".npz"}


def figure(drawing: plots.Drawing) -> bytes:
    """Return a figure as PNG; a file's name above it may hold characters that the font lacks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plots.png(drawing)


def arrays(**named: ndarray | None) -> bytes:
    """Return arrays as one `.npz`, leaving out those that are None."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: values for name, values in named.items() if values is not None})
    return buffer.getvalue()


def picture(
    kind: str, path: Path, to_input: Preprocessing, shape: Anatomy, size: tuple[int, int], score: ndarray, mask: ndarray | None,
    keep: ndarray,
) -> bytes:  # fmt: skip
    """Return a PNG of the photograph's width and height: "overlay", "heatmap" (the colours alone) or "mask" (white is kept)."""
    part = under_patches(to_input.box(size), shape)
    values, limits = (score, score_limits(score)) if mask is None else (mask, (0, 1))
    if kind == "heatmap":
        drawn = Image.fromarray(heatmap(values, size, part, limits))
    elif kind == "mask":
        drawn = Image.fromarray(on_photograph(np.where(keep, 255, 0).astype(np.uint8), size, part))
    else:
        photo = load_image(path, to_input.channels)  # once more, rather than a batch of photographs in memory
        if not isinstance(photo, Image.Image):
            photo = plots.displayable(to_input.whole(photo), to_input.mean, to_input.std)[0]
        drawn = plots.overlay(photo, values, part, limits)
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()


def under_patches(box: tuple[float, ...], shape: Anatomy) -> tuple[float, float, float, float]:
    """Return the part of what the ViT sees that patches cover: pixels beyond the last whole patch belong to none."""
    left, top, right, bottom = box
    down, across = (count * side / whole for count, side, whole in zip(shape.grid, shape.patch, shape.size, strict=True))
    return left, top, left + (right - left) * across, top + (bottom - top) * down
