"""Many masks at a glance: honest and dishonest overlays, depths, seeds, a gallery, and the board of the game.

Shapes: picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1] on the ViT's patch grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from .canvas import (
    VERMILION,
    WIDTH,
    Drawing,
    as_array,
    as_p,
    as_picture,
    bare,
    described,
    draw_mask,
    in_house_style,
    likeliest,
    short,
)


@in_house_style
def gallery(
    pictures: Any, result: Any, check: Any, names: Sequence[str], truth: Any = None, columns: int = 4, luck: Any = None
) -> Drawing:
    """Draw images in pairs: the picture under the ViT's answer, and the kept patches under its answer to those alone.

    Above the right picture, in brackets: how many patches are kept. A changed answer has a frame, the sign ≠ and another
    colour. Above a wrong one, where truth (B,) is given, the truth stands in brackets. Of several labels the most probable
    stands there, and how many more there are.
    `result` and `check` are what `explain(images)` and `verify(images, result.keep)` returned.
    luck: the KL of random masks of the same size, (B,); it stands below beside the mask's own, bold where luck is as good.
    """
    keep, many = as_array(result.keep), result.multilabel
    before, after = as_p(result.logits, many), as_p(check.logits, many)
    if many and truth is not None:
        raise ValueError("truth is one class an image, and this ViT predicts labels; leave truth out.")
    if not np.allclose(as_array(check.kept), keep.mean((1, 2)), atol=1e-4):
        raise ValueError("The check is of another mask; pass explainer.verify(images, result.keep).")
    rows = -(-len(keep) // columns)
    height, width = as_picture(pictures[0]).shape[:2]
    lines = 0.42 if truth is None else 0.62
    lines += 0 if luck is None else 0.22
    tall = (WIDTH / columns / 2.4 * height / width + lines + 0.12) * rows
    figure = Drawing(figsize=(WIDTH, tall), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, rect=(0.012, 0, 0.976, 0.975))  # titles may be wider than pictures
    spaced = [1, 1, 0.2] * columns  # a gap after each pair, so that nobody reads across it
    grid = figure.add_gridspec(rows, len(spaced) - 1, width_ratios=spaced[:-1])
    changed = lost = 0
    for i in range(len(keep)):
        left, right = (figure.add_subplot(grid[i // columns, i % columns * 3 + j]) for j in (0, 1))
        old, new = before[i].argmax(), after[i].argmax()
        left.imshow(as_picture(pictures[i]), interpolation="nearest")
        bare(left)
        draw_mask(right, pictures[i], keep[i], edge=0.3)
        wrong = truth is not None and old != int(truth[i])
        title = f"{likeliest(before[i], names, many)}\n{before[i, old]:.2f}"
        left.set_title((f"({short(names[int(truth[i])])})\n" if wrong else "") + title, fontsize=11)
        same = bool(check.agree[i])
        title = f"{'' if same else '≠ '}{likeliest(after[i], names, many)}\n{after[i, new]:.2f} ({keep[i].sum()})"
        right.set_title(title, fontsize=11, color="black" if same else VERMILION, weight="normal" if same else "bold")
        if luck is not None:
            kl, theirs = float(check.kl[i]), float(luck[i])
            worse = theirs <= kl
            lost += worse
            style = {"fontsize": 11, "color": VERMILION if worse else "black", "weight": "bold" if worse else "normal"}
            left.set_xlabel(f"luck {theirs:.2f}", **style)
            right.set_xlabel(f"KL {kl:.2f}", **style)
        if not same:
            changed += 1
            box = Rectangle((0, 0), 1, 1, transform=right.transAxes, fill=False, color=VERMILION, linewidth=5, clip_on=False)
            right.add_patch(box)
    words = f"{len(keep)} images with the patches kept of each; the answer changed for {changed}"
    if luck is not None:
        words += f"; luck is as good for {lost}"
    if truth is not None:
        words += f", and was wrong before for {(before.argmax(1) != as_array(truth)).sum()}"
    return described(figure, words + ".")
