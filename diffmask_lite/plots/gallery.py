"""Many masks at a glance: honest and dishonest overlays, depths, seeds, a gallery, and the board of the game.

Shapes: picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1] on the ViT's patch grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy import ndarray

from .canvas import (
    GREEN,
    VERMILION,
    WIDTH,
    Drawing,
    answers,
    as_array,
    as_picture,
    bare,
    colourbar,
    described,
    in_house_style,
    new_figure,
    overlay,
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
            image = overlay(ax, picture, mask if way == WAYS[0] else spread, heat=True, edge=0.5 if way == WAYS[0] else 0)
            ax.set_title(way if way != "min–max" else f"{way}: {mask.min():.2f} … {mask.max():.2f}\n(not on the bar's scale)")
        line[0].set_ylabel(wrap(name, side))
        words.append(f"{name}: values from {mask.min():.2f} to {mask.max():.2f}")
    colourbar(figure, image, axes)  # of the first three columns
    return described(figure, f"Each mask drawn {', '.join(WAYS)}. {'; '.join(words)}.")


@in_house_style
def depths(picture: Any, products: Any, checks: Any) -> Drawing:
    """Draw the product of gates h_0 … h_k for each depth k, the patches it keeps below, and how the ViT takes it.

    products: (S, h, w), one a depth; checks: what `verify` returned of `products > 0.5`.
    """
    picture, products, kl = as_picture(picture), as_array(products), as_array(checks.kl)
    keeps = products > 0.5
    if not np.allclose(as_array(checks.kept), keeps.mean((1, 2)), atol=1e-4):
        raise ValueError("The checks are of other masks; pass explainer.verify(images, products > 0.5).")
    side = (WIDTH - 1.1) / len(products) * picture.shape[0] / picture.shape[1]
    figure, axes = new_figure(2 * side + 1.0, 2, len(products))
    edge = min(0.5, 2 / keeps.shape[1])
    words = []
    for k, (above, below) in enumerate(axes.T):
        image = overlay(above, picture, products[k], heat=True, edge=edge)
        overlay(below, picture, keeps[k], edge=edge)
        above.set_title(f"k = {k}")
        below.set_xlabel(f"{keeps[k].sum()} kept\nKL {kl[k]:.2f}" + ("" if checks.agree[k] else "\n≠"), fontsize=11)
        words.append(f"k = {k}: {keeps[k].sum()} of {keeps[k].size} kept, KL {kl[k]:.2f} nats")
    colourbar(figure, image, axes)
    return described(figure, f"The product of gates up to depth k, and the patches it keeps: {'; '.join(words)}.")


@in_house_style
def seed_masks(pictures: Any, masks: Mapping[str, Any]) -> Drawing:
    """Draw pictures and, under them, the soft masks (B, h, w) of several explainers, one row each; kept: above ½."""
    across = len(pictures)
    side = min((WIDTH - 1.6) / across, 1.2)
    tall = side * as_picture(pictures[0]).shape[0] / as_picture(pictures[0]).shape[1]
    figure, axes = new_figure((tall + 0.28) * (len(masks) + 1), len(masks) + 1, across, width=side * across + 1.6)
    for ax, picture in zip(axes[0], pictures, strict=True):
        ax.imshow(as_picture(picture), interpolation="nearest")
        bare(ax)
    for line, (name, mask) in zip(axes[1:], masks.items(), strict=True):
        for ax, picture, one in zip(line, pictures, as_array(mask), strict=True):
            image = overlay(ax, picture, one, heat=True, edge=min(0.5, 2 / len(one)))
            ax.set_title(f"{(one > 0.5).sum()} kept", fontsize=11, pad=2)
        line[0].set_ylabel(wrap(name, tall))
    colourbar(figure, image, axes)
    means = "; ".join(f"{name}: {', '.join(f'{m.mean():.2f}' for m in as_array(mask))}" for name, mask in masks.items())
    return described(figure, f"Soft masks of {across} images by {len(masks)} explainers. Mean of each mask: {means}.")


@in_house_style
def gallery(pictures: Any, result: Any, check: Any, names: Sequence[str], truth: Any = None, columns: int = 4) -> Drawing:
    """Draw images in pairs: the picture under the ViT's answer, and the kept patches under its answer to those alone.

    In brackets: how many patches are kept. A changed answer has a frame, the sign ≠ and another colour; a wrong one, where
    truth (B,) is given, names the truth.
    `result` and `check` are what `explain(images)` and `verify(images, result.keep)` returned.
    """
    keep, before, after = as_array(result.keep), softmax(result.logits), softmax(check.logits)
    if not np.allclose(as_array(check.kept), keep.mean((1, 2)), atol=1e-4):
        raise ValueError("The check is of another mask; pass explainer.verify(images, result.keep).")
    rows = -(-len(keep) // columns)
    height, width = as_picture(pictures[0]).shape[:2]
    lines = 0.42 if truth is None else 0.62
    tall = (WIDTH / columns / 2.4 * height / width + lines + 0.12) * rows
    figure = Drawing(figsize=(WIDTH, tall), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, rect=(0.012, 0, 0.976, 0.995))  # titles may be wider than pictures
    spaced = [1, 1, 0.2] * columns  # a gap after each pair, so that nobody reads across it
    grid = figure.add_gridspec(rows, len(spaced) - 1, width_ratios=spaced[:-1])
    changed = 0
    for i in range(len(keep)):
        left, right = (figure.add_subplot(grid[i // columns, i % columns * 3 + j]) for j in (0, 1))
        old, new = before[i].argmax(), after[i].argmax()
        left.imshow(as_picture(pictures[i]), interpolation="nearest")
        bare(left)
        overlay(right, pictures[i], keep[i], edge=0.3)
        wrong = truth is not None and old != int(truth[i])
        title = f"{short(names[old])}\n{before[i, old]:.2f}"
        left.set_title((f"is {short(names[int(truth[i])])}\nnot " if wrong else "") + title, fontsize=11)
        same = old == new
        title = f"{'' if same else '≠ '}{short(names[new])}\n{after[i, new]:.2f} ({keep[i].sum()})"
        right.set_title(title, fontsize=11, color="black" if same else VERMILION, weight="normal" if same else "bold")
        if not same:
            changed += 1
            box = Rectangle((0, 0), 1, 1, transform=right.transAxes, fill=False, color=VERMILION, linewidth=5, clip_on=False)
            right.add_patch(box)
    words = f"{len(keep)} images with the patches kept of each; the answer changed for {changed}"
    if truth is not None:
        words += f", and was wrong before for {(before.argmax(1) != as_array(truth)).sum()}"
    return described(figure, words + ".")


@in_house_style
def board(picture: Any, position: Any, names: Sequence[str], words: str = "", most: int = 5) -> Drawing:
    """Draw a position of the game: the patches that are on, and the ViT's likeliest classes before and after.

    position: a `game.Position`, or anything with its `keep`, `before`, `after`, `kl` and `rival`.
    """
    picture, keep = as_picture(picture), as_array(position.keep)
    pair = np.stack([softmax(position.before), softmax(position.after)])
    figure, axes = new_figure(4.0, 1, 2)
    left, right = axes[0]
    overlay(left, picture, keep)
    left.set_title(f"{keep.sum()} of {keep.size} patches; DiffMask kept {position.rival}")
    (height, width), (h, w) = picture.shape[:2], keep.shape
    left.set(xticks=(np.arange(w) + 0.5) * width / w, xticklabels=np.arange(w) + 1, xlabel="column")
    left.set(yticks=(np.arange(h) + 0.5) * height / h, yticklabels=np.arange(h) + 1, ylabel="row")
    left.tick_params(length=0, labelsize=11)
    answers(right, pair, names, most)
    right.set(xlabel="probability", title=f"KL {position.kl:.2f} nats")
    if words:
        figure.suptitle(wrap(words, WIDTH), fontsize=14)
    old, new = short(names[pair[0].argmax()]), short(names[pair[1].argmax()])
    return described(
        figure,
        f"{keep.sum()} of {keep.size} patches are left; DiffMask kept {position.rival}. The ViT says {old} "
        f"({pair[0].max():.2f}) of the whole image and {new} ({pair[1].max():.2f}) of them, KL {position.kl:.2f} nats. {words}",
    )


@in_house_style
def race(greedy: Mapping[str, Any], rivals: Mapping[str, tuple[int, float]], chance: Mapping[str, Any]) -> Drawing:
    """Draw KL against patches kept, one panel an image: the greedy path, DiffMask's mask, and the median of random sets.

    greedy: name -> KL with N, N − 1, …, 0 patches; rivals: name -> (patches kept, KL); chance: name -> {patches kept: KL}.
    All panels share one logarithmic axis from 0.001 nats upwards; a line that falls below it leaves through the bottom.
    """
    figure, axes = new_figure(3.4, 1, len(greedy))
    highest = max(max(as_array(kl).max(), *chance[name].values(), rivals[name][1]) for name, kl in greedy.items())
    words = []
    for ax, (name, kl) in zip(axes.flat, greedy.items(), strict=True):
        kl, (kept, theirs) = as_array(kl), rivals[name]
        sizes = np.arange(len(kl))[::-1]
        ax.plot(list(chance[name]), list(chance[name].values()), "--", color="0.35", linewidth=2, label="random, median")
        ax.plot(sizes[:-1], kl[:-1], color=GREEN, linewidth=2.5, label="greedy")
        ax.plot(kept, theirs, "*", color=VERMILION, markersize=18, markeredgecolor="black", label="DiffMask")
        ax.set(title=name, xlabel="patches kept", xlim=(0, len(kl) - 1), yscale="log", ylim=(1e-3, 2 * highest))
        ax.tick_params(labelsize=11)
        ax.label_outer()
        least = sizes[kl <= theirs].min()
        words.append(f"{name}: DiffMask {kept} patches with KL {theirs:.2f}, greedy {least} with no more")
    axes[0, 0].set_ylabel("KL (nats)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return described(figure, f"KL against the number of patches kept. {'; '.join(words)}.")
