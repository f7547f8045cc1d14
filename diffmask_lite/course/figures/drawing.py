"""Honest and dishonest ways to draw a mask, masks for classes, masks by depth, and masks by seed.

Shapes: picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1] on the ViT's patch grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from ...plots.canvas import (
    MAP,
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
    short,
    softmax,
    wrap,
)

WAYS = ("patch by patch", "bilinear", "Gaussian", "min–max")


def smoothed(mask: Any, height: int, width: int, way: str) -> ndarray:
    """Spread a mask (h, w) over height × width pixels: "patch by patch", "bilinear", "Gaussian" or "min–max".

    "Gaussian" blurs with a standard deviation of half a patch, after which no value needs to be the patch's own; "min–max"
    stays patch by patch but stretches the mask's own range to 0 … 1.
    """
    if way not in WAYS:
        raise ValueError(f"Unknown way {way!r} to draw a mask: use {', '.join(map(repr, WAYS))}.")
    mask = as_array(mask).astype(float)
    if way == "min–max":
        mask = (mask - mask.min()) / max(mask.max() - mask.min(), 1e-12)
    if way == "bilinear":  # between the centres of patches; beyond the outermost centres as at them
        from skimage.transform import resize  # not at the top: scikit-image takes half a second to import

        return resize(mask, (height, width), order=1, mode="edge", anti_aliasing=False).clip(0, 1)
    pixels = mask[np.arange(height) * mask.shape[0] // height][:, np.arange(width) * mask.shape[1] // width]
    if way == "Gaussian":
        from skimage.filters import gaussian

        return gaussian(pixels, (height / mask.shape[0] / 2, width / mask.shape[1] / 2), mode="nearest").clip(0, 1)
    return pixels


@in_house_style
def ways_to_draw(picture: Any, masks: Mapping[str, Any]) -> Drawing:
    """Draw each mask in four ways, one row a mask: as it is, smoothed twice, and stretched to its own range; see `smoothed`."""
    picture = as_picture(picture)
    height, width = picture.shape[:2]
    side = (WIDTH - 1.4) / len(WAYS)
    figure, axes = new_figure((side * height / width + 0.6) * len(masks), len(masks), len(WAYS))
    words = []
    for line, (name, mask) in zip(axes, masks.items(), strict=True):
        mask = as_array(mask).astype(float)
        for ax, way in zip(line, WAYS, strict=True):
            fine = height * 4, width * 4  # finer than the picture, or a smooth map would show the picture's pixels
            spread = smoothed(mask, *fine, way)
            image = draw_mask(ax, picture, mask if way == WAYS[0] else spread, heat=True, edge=0.5 if way == WAYS[0] else 0)
            ax.set_title(way if way != "min–max" else f"{way}: {mask.min():.2f} … {mask.max():.2f}\n(not on the bar's scale)")
        line[0].set_ylabel(wrap(name, side))
        words.append(f"{name}: values from {mask.min():.2f} to {mask.max():.2f}")
    colourbar(figure, image, axes)  # of the first three columns
    return described(figure, f"Each mask drawn {', '.join(WAYS)}. {'; '.join(words)}.")


@in_house_style
def for_classes(picture: Any, result: Any, check: Any, targets: Sequence[int], names: Sequence[str]) -> Drawing:
    """Draw masks of one picture for several classes: soft and hard beside each other, with p(class) before and after.

    targets: the class of each mask; names: a word for each class. `result` and `check` are what `explain(images, target)` and
    `verify(images, result.keep)` returned of that image, once for each class.
    """
    picture, mask, keep = as_picture(picture), as_array(result.mask), as_array(result.keep)
    if not np.allclose(as_array(check.kept), keep.mean((1, 2)), atol=1e-4):
        raise ValueError("The check is of other masks; pass explainer.verify(images, result.keep).")
    before, after = softmax(result.logits), softmax(check.logits)
    across, rows = min(len(targets), 2), -(-len(targets) // 2)  # two classes a row
    side = (WIDTH - 1.1) / (2 * across)
    figure, axes = new_figure((side * picture.shape[0] / picture.shape[1] + 0.75) * rows, rows, 2 * across)
    panels = axes.reshape(-1, 2)
    for ax in axes.flat:
        bare(ax)
    words = []
    for i, target in enumerate(targets):
        left, right = panels[i]
        name, p, q = short(names[target]), before[i, target], after[i, target]
        image = draw_mask(left, picture, mask[i], heat=True)
        draw_mask(right, picture, keep[i])
        left.set_title(f"for “{name}”")
        right.set_title(f"{keep[i].sum()} of {keep[i].size} kept")
        right.set_xlabel(f"p({name}): {p:.2f} → {q:.2f}", fontsize=11)
        words.append(f"for {name} {keep[i].sum()} patches, p from {p:.2f} to {q:.2f}")
    colourbar(figure, image, axes)
    return described(figure, f"Masks of one image for {len(targets)} classes: {'; '.join(words)}.")


@in_house_style
def depths(picture: Any, products: Any, checks: Any, cmap: str = MAP) -> Drawing:
    """Draw the product of gates h_0 … h_k for each depth k, the patches it keeps below, and how the ViT takes it.

    products: (S, h, w), one a depth; checks: what `verify` returned of `products > 0.5`. Depths in a row that keep the same
    patches share one panel, of the last of them. cmap: as for `plots.layers`.
    """
    picture, products, kl = as_picture(picture), as_array(products), as_array(checks.kl)
    keeps = products > 0.5
    if not np.allclose(as_array(checks.kept), keeps.mean((1, 2)), atol=1e-4):
        raise ValueError("The checks are of other masks; pass explainer.verify(images, products > 0.5).")
    ends = [k for k in range(len(keeps)) if k + 1 == len(keeps) or (keeps[k] != keeps[k + 1]).any()]
    side = min((WIDTH - 1.1) / len(ends), 1.5) * picture.shape[0] / picture.shape[1]
    figure, axes = new_figure(2 * side + 1.0, 2, len(ends), width=min(WIDTH, 2 * len(ends) + 1.1))
    edge = min(0.5, 2 / keeps.shape[1])
    words = []
    for start, k, (above, below) in zip([0, *(end + 1 for end in ends)], ends, axes.T, strict=False):
        image = draw_mask(above, picture, products[k], heat=True, edge=edge, cmap=cmap)
        draw_mask(below, picture, keeps[k], edge=edge)
        above.set_title(f"k = {k}" if start == k else f"k = {start} … {k}")
        below.set_xlabel(f"{keeps[k].sum()} kept\nKL {kl[k]:.2f}" + ("" if checks.agree[k] else "\n≠"), fontsize=11)
        words.append(f"{above.get_title()}: {keeps[k].sum()} of {keeps[k].size} kept, KL {kl[k]:.2f} nats")
    colourbar(figure, image, axes, "product of gates")
    return described(figure, f"The product of gates up to depth k, and the patches it keeps: {'; '.join(words)}.")


@in_house_style
def seed_masks(pictures: Any, masks: Mapping[str, Any]) -> Drawing:
    """Draw pictures and, under them, the soft masks (B, h, w) of several explainers, one row each; kept: above ½."""
    across = len(pictures)
    side = min((WIDTH - 1.6) / across, 1.3)
    tall = side * as_picture(pictures[0]).shape[0] / as_picture(pictures[0]).shape[1]
    figure, axes = new_figure((tall + 0.28) * (len(masks) + 1), len(masks) + 1, across, width=side * across + 1.6)
    for ax, picture in zip(axes[0], pictures, strict=True):
        ax.imshow(as_picture(picture), interpolation="nearest")
        bare(ax)
    for line, (name, mask) in zip(axes[1:], masks.items(), strict=True):
        for ax, picture, one in zip(line, pictures, as_array(mask), strict=True):
            image = draw_mask(ax, picture, one, heat=True, edge=min(0.5, 2 / len(one)))
            ax.set_title(f"{(one > 0.5).sum()} kept", fontsize=11, pad=2)
        line[0].set_ylabel(wrap(name, tall))
    colourbar(figure, image, axes)
    means = "; ".join(f"{name}: {', '.join(f'{m.mean():.2f}' for m in as_array(mask))}" for name, mask in masks.items())
    return described(figure, f"Soft masks of {across} images by {len(masks)} explainers. Mean of each mask: {means}.")
