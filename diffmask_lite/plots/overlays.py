"""A map on the photograph that it explains, pixel for pixel: what other programs can show, without axes or words."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from numpy import ndarray
from PIL import Image, ImageDraw

from .canvas import GREY, as_array, as_picture, colours_of, require_map

DIM = 0.6  # brightness of what the ViT does not see
COLOURS = 0.5  # how much of a map's colours, and how much of the photograph in grey, is seen where they lie over it


def overlay(
    photo: Any, map: Any, crop: tuple[float, float, float, float], limits: tuple[float, float] = (0, 1),
    interpolation: str = "nearest",
) -> Image.Image:  # fmt: skip
    """Lay a map (h, w) over the whole photograph, at its own resolution; what the ViT does not see is darker, with a frame.

    A bool mask leaves the patches kept as they are, and fades all others to grey.
    photo: a PIL image or (H, W, 3) in [0, 1]. crop: the part that the patches cover, (left, top, right, bottom) in pixels of
    the photo, as `preprocess(vit).box(photo.size)` says. limits: the values at the ends of the colours, (0, 1) for a mask,
    (−m, m) for scores, whose colours are orange above 0 and purple below.
    interpolation: "nearest" alone. A map has one number a patch. What smoothing puts between two patches, nobody measured: it
    draws detail and borders that the explanation does not have.
    Raises `ValueError` for values outside the limits, and for smoothing.
    """
    if interpolation != "nearest":
        raise ValueError(
            f"interpolation={interpolation!r} would draw detail that nobody measured; a map has one number a patch."
        )
    if not isinstance(photo, Image.Image):
        photo = Image.fromarray((255 * as_picture(photo)).round().astype(np.uint8))
    photo = photo.convert("RGB")
    if as_array(map).dtype == bool:
        faded = Image.blend(photo, Image.new("RGB", photo.size, (round(255 * GREY),) * 3), 0.8)
        kept = Image.fromarray(on_photograph(255 * as_array(map).astype(np.uint8), photo.size, crop))
        lay = Image.composite(photo, faded, kept)
    else:
        colours = Image.fromarray(heatmap(map, photo.size, crop, limits)[..., :3])
        lay = Image.blend(photo.convert("L").convert("RGB"), colours, COLOURS)
    seen = [np.flatnonzero(places >= 0) for places in _patches(photo.size, crop, as_array(map).shape)]
    top, bottom, left, right = (int(end) for places in seen for end in (places[0], places[-1] + 1))
    picture, line = photo.point([round(DIM * level) for level in range(256)] * 3), max(1, min(photo.size) // 300)
    frame = (left - line, top - line, right + line - 1, bottom + line - 1)
    ImageDraw.Draw(picture).rectangle(frame, outline="white", width=line)
    picture.paste(lay.crop((left, top, right, bottom)), (left, top))
    return picture


def heatmap(map: Any, size: tuple[int, int], crop: tuple[float, float, float, float], limits: tuple[float, float]) -> ndarray:
    """Return a map's colours on a photograph of (width, height) pixels: uint8 (H, W, 4), transparent where no patch is."""
    values = require_map(map, limits)
    colours = matplotlib.colormaps[colours_of(limits)](Normalize(*limits)(values.astype(float)), bytes=True)
    return on_photograph(colours, size, crop)


def on_photograph(values: ndarray, size: tuple[int, int], crop: tuple[float, float, float, float]) -> ndarray:
    """Spread values of patches (h, w, …) over the pixels of a photograph, (H, W, …); 0 where there is no patch."""
    rows, columns = _patches(size, crop, values.shape)
    spread = values[rows][:, columns]
    spread[rows < 0], spread[:, columns < 0] = 0, 0
    return spread


def _patches(size: tuple[int, int], crop: tuple[float, float, float, float], grid: tuple[int, ...]) -> tuple[ndarray, ndarray]:
    """Return the patch's row of each row of pixels, and its column of each column; −1 outside the crop."""
    left, top, right, bottom = crop
    found = []
    for length, low, high, count in ((size[1], top, bottom, grid[0]), (size[0], left, right, grid[1])):
        place = np.floor((np.arange(length) + 0.5 - low) / (high - low) * count).astype(int)  # of the pixel's middle
        place[(place < 0) | (place >= count)] = -1
        if (place < 0).all():
            raise ValueError(f"The crop {crop} lies outside the photograph of {size[0]} × {size[1]} pixels.")
        found.append(place)
    return found[0], found[1]
