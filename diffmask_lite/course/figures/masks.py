"""From a soft mask to a hard one: by hardness, and by threshold.

Shapes: picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1] on the ViT's patch grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from ...plots.canvas import (
    WIDTH,
    Drawing,
    as_array,
    as_picture,
    colourbar,
    described,
    draw_mask,
    in_house_style,
    new_figure,
    wrap,
)


def harden(mask: Any, hardness: float, threshold: float = 0.5) -> ndarray:
    """Move a soft mask (any shape, in [0, 1]) towards the hard one, `mask > threshold`; hardness runs from 0 to 1.

    A value's distance to the threshold, as a share u of the most it could be on its side, becomes u^(1 − hardness):
    order and side are kept, 0 gives the mask itself and 1 the hard mask, exactly.
    """
    if not 0 <= hardness <= 1:
        raise ValueError(f"Hardness runs from 0 (soft) to 1 (hard), but it is {hardness}.")
    mask = as_array(mask)
    keep = mask > threshold  # in the mask's own precision, as `explain` compares
    if hardness in (0, 1):
        return (keep if hardness else mask).astype(float)
    threshold, mask = float(np.asarray(threshold, mask.dtype)), mask.astype(float)
    room = np.where(keep, 1 - threshold, threshold)
    u = np.divide(np.abs(mask - threshold), room, out=np.zeros_like(mask), where=room > 0)
    return threshold + np.where(keep, 1, -1) * room * u ** (1 - hardness)


@in_house_style
def soft_to_hard(picture: Any, mask: Any, hardness: float = 1, threshold: float = 0.5, words: str = "") -> Drawing:
    """Draw the soft mask, the same hardened (see `harden`), and the picture through the latter; `words` go above."""
    picture, mask, hardened = as_picture(picture), as_array(mask), _hardened(mask, hardness, threshold)
    figure, axes = new_figure(2.6 * picture.shape[0] / picture.shape[1] + (0.8 if words else 0.4), 1, 3)
    image = draw_mask(axes[0, 0], picture, mask.astype(float), heat=True)
    draw_mask(axes[0, 1], picture, hardened, heat=True)
    draw_mask(axes[0, 2], picture, hardened)
    above = f"{(mask > threshold).sum()} of {mask.size} above {threshold:.2f}"
    titles = f"soft mask, mean {mask.mean():.2f}", f"hardness {hardness:.2f}, mean {hardened.mean():.2f}", above
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title)
    colourbar(figure, image, axes)
    if words:
        figure.suptitle(wrap(words, WIDTH), fontsize=12)
    return described(figure, f"A mask of patches: {'; '.join(titles)}. {words}")


@in_house_style
def soft_to_hard_strip(picture: Any, mask: Any, settings: Any = (0, 0.25, 0.5, 0.75, 1), threshold: Any = 0.5) -> Drawing:
    """Draw masks hardened to several settings, and the picture through each below: the static twin of both sliders.

    For several thresholds give them and one setting: `soft_to_hard_strip(picture, mask, 1, (0.1, 0.3, 0.5, 0.7, 0.9))`.
    """
    picture, name = as_picture(picture), "hardness" if np.ndim(threshold) == 0 else "threshold"
    settings, thresholds = np.broadcast_arrays(np.atleast_1d(settings), threshold)
    side = (WIDTH - 1.1) / len(settings) * picture.shape[0] / picture.shape[1]
    figure, axes = new_figure(2 * side + 0.5, 2, len(settings))
    words = []
    for (above, below), hardness, limit in zip(axes.T, settings.tolist(), thresholds.tolist(), strict=True):
        hardened = _hardened(mask, hardness, limit)
        image = draw_mask(above, picture, hardened, heat=True)
        draw_mask(below, picture, hardened)
        above.set_title(f"{hardness if name == 'hardness' else limit:g}")
        words.append(f"{hardened.mean():.2f} at {above.get_title()}")
    axes[0, 0].set_title(f"{name} {axes[0, 0].get_title()}")
    colourbar(figure, image, axes, "mask" if name == "hardness" else "hard mask")
    return described(figure, f"The mean of the mask by {name}: {', '.join(words)}.")


def _hardened(mask: Any, hardness: float, threshold: float) -> ndarray:
    mask = harden(mask, hardness, threshold)
    return mask > 0.5 if hardness == 1 else mask  # a bool mask is drawn with an outline
