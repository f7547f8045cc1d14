"""Patches removed one by one, and masks beside luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ...plots.canvas import (
    VERMILION,
    WIDTH,
    Drawing,
    as_array,
    as_picture,
    bare,
    colourbar,
    described,
    draw_mask,
    in_house_style,
    new_figure,
    outline,
    wrap,
)

GREY_BARS = "#a0a0a0"


@in_house_style
def removal_steps(picture: Any, orders: Mapping[str, Any], p: Mapping[str, Any]) -> Drawing:
    """Draw what is left of a picture as patches go one by one, a row an order; under each the probability that is left.

    orders: name -> patches in the order in which they go, int (N,); p: name -> (N + 1,), before any and after each.
    """
    picture, words = as_picture(picture), []
    patches = len(next(iter(orders.values())))
    grid = _square(patches)
    side = WIDTH / (patches + 1)
    figure, axes = new_figure((side * picture.shape[0] / picture.shape[1] + 0.62) * len(orders), len(orders), patches + 1)
    for line, (name, order) in zip(axes, orders.items(), strict=True):
        ranks = as_array(order).argsort()
        for gone, (ax, value) in enumerate(zip(line, as_array(p[name]), strict=True)):
            draw_mask(ax, picture, (ranks >= gone).reshape(grid))
            ax.set_xlabel(f"{value:.2f}")
        line[0].set_title(name, loc="left")
        words.append(f"{name}: p goes {', '.join(f'{value:.2f}' for value in as_array(p[name]))}")
    return described(figure, f"A picture of which patches are removed one by one. {'; '.join(words)}.")


@in_house_style
def against_luck(masks: Mapping[str, Any], twins: Mapping[str, Any]) -> Drawing:
    """Draw the KL of each mask as a line over a histogram of the KLs of its random twins, a panel a mask.

    masks: name -> KL of the mask in nats; twins: name -> (draws,), the KL of random masks of the same size.
    """
    figure, axes = new_figure(2.7, 1, len(masks))
    top, words = max(max(as_array(kl).max(), float(masks[name])) for name, kl in twins.items()), []
    for ax, (name, mask) in zip(axes[0], masks.items(), strict=True):
        kl, own = as_array(twins[name]), float(mask)
        lower = (kl <= own).mean()
        ax.hist(kl, bins=np.linspace(0, 1.02 * top, 31), color=GREY_BARS, label=f"{len(kl)} random masks of the same size")
        ax.axvline(own, color=VERMILION, linewidth=2.5, label="the mask")
        ax.set(title=f"{name}: {own:.2f} nats", xlabel="KL, nats (0: nothing changed)", xlim=(0, 1.02 * top), yticks=[])
        ax.spines["left"].set_visible(False)
        words.append(f"{name}: mask {own:.2f} nats, random masks {kl.mean():.2f} on average, {lower:.0%} of them as low")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return described(figure, f"The KL of masks beside random masks of the same size. {'; '.join(words)}.")


def _square(patches: int) -> tuple[int, int]:
    side = round(patches**0.5)
    if side * side != patches:
        raise ValueError(f"A picture drawn patch by patch needs a square grid here, but there are {patches} patches.")
    return side, side


@in_house_style
def tiles(pictures: Any, maps: Any, outlined: Any, titles: Sequence[str]) -> Drawing:
    """Draw mosaics, and below each its map by the rank of each patch, with a line around the tile that the map points at.

    pictures (B, H, W, 3), maps (B, h, w), outlined: bool (B, h, w), titles: B words above the mosaics.
    """
    count, side = len(pictures), (WIDTH - 1.0) / len(pictures)
    figure, axes = new_figure(2 * side + 0.6, 2, count)
    for (above, below), picture, values, tile, title in zip(axes.T, pictures, maps, outlined, titles, strict=True):
        picture, values = as_picture(picture), as_array(values)
        above.imshow(picture, interpolation="nearest")
        bare(above)
        above.set_title(wrap(title, side))
        image = draw_mask(below, picture, rankdata(values).reshape(values.shape) / values.size, heat=True)
        outline(below, tile, picture.shape[:2], thickness=2)
    colourbar(figure, image, axes, label="rank in the map")
    return described(figure, f"Mosaics, and the tile that a map points at: {'; '.join(titles)}.")
