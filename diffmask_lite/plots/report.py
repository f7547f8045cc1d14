"""One image on one page: the photograph, what the gates keep of it, and how the ViT takes that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .canvas import (
    VERMILION,
    WIDTH,
    Drawing,
    answers,
    as_array,
    as_p,
    as_picture,
    bare,
    colourbar,
    described,
    in_house_style,
    overlay,
    says,
    wrap,
)


@in_house_style
def explained(
    photograph: Any, picture: Any, result: Any, check: Any, names: Sequence[str], index: int = 0, heading: str = ""
) -> Drawing:
    """Draw image `index` of a batch: photograph, soft mask, hard mask, and the likeliest classes before and after.

    photograph: (H', W', 3) in [0, 1], the part of the original that the ViT sees, as finely as one likes; picture (H, W, 3):
    the same as the ViT sees it. `result` and `check` are what `explain(images)` and `verify(images, result.keep)` returned.
    heading: words above all, such as the file's name; they are never read as a formula.
    """
    photograph, picture = as_picture(photograph), as_picture(picture)
    mask, keep, kl = as_array(result.mask)[index], as_array(result.keep)[index], float(check.kl[index])
    if not np.isclose(float(check.kept[index]), keep.mean(), atol=1e-4):
        raise ValueError("The check is of another mask; pass explainer.verify(images, result.keep).")
    pair = as_p(np.stack([as_array(result.logits)[index], as_array(check.logits)[index]]), result.multilabel)
    agree, most = bool(check.agree[index]), min(5, pair.shape[1])
    (height, width), (h, w) = picture.shape[:2], keep.shape
    tall, bars = 2.6 * height / width + 0.6, 0.42 * most + 1.0
    figure = Drawing(figsize=(WIDTH, tall + bars + 0.5), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(tall, bars))
    left, middle, right = axes = [figure.add_subplot(grid[0, i]) for i in range(3)]
    below = figure.add_subplot(grid[1, :])
    left.imshow(photograph, interpolation="nearest")
    bare(left)
    edge = min(0.5, 6 / max(h, w))
    image = overlay(middle, picture, mask, heat=True, edge=edge)
    overlay(right, picture, keep, edge=edge)
    share = f"{keep.sum()} of {keep.size} kept ({keep.mean():.0%})"
    for ax, title, label in (
        (left, "photograph", "the part the ViT sees"),
        (middle, f"soft mask, mean {mask.mean():.2f}", f"{height} × {width} pixels for it"),
        (right, f"hard mask, above {float(result.threshold):g}", share),
    ):
        ax.set_title(title)
        ax.set_xlabel(label, fontsize=11)
    colourbar(figure, image, axes)
    answers(below, pair, names, most)
    before, after = (says(p, names, result.multilabel) for p in pair)
    words = f"The ViT {before}; of the patches kept alone it {after}\n" + ("" if agree else "changed; ") + f"KL {kl:.2f} nats"
    below.set_title(wrap(words, WIDTH - 1), color="black" if agree else VERMILION, parse_math=False)
    for label in below.get_yticklabels():
        label.set_parse_math(False)
    if heading:
        figure.suptitle(wrap(heading, 0.8 * WIDTH), fontsize=14, parse_math=False)  # `wrap` counts in letters of 12 points
    return described(figure, f"{heading} {', '.join(words.splitlines())}. {share}; the soft mask's mean is {mask.mean():.2f}.")
