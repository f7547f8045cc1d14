"""One image on one page: the photograph, what a method says of it, and how the ViT takes the patches that are kept."""

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
    colours_of,
    described,
    draw_mask,
    in_house_style,
    says,
    score_limits,
    short,
    wrap,
)


@in_house_style
def explained(
    photograph: Any, picture: Any, result: Any, check: Any, names: Sequence[str], index: int = 0, heading: str = "", *,
    method: str = "diffmask", target: int | None = None, part: str = "the part the ViT sees", rule: str = "",
) -> Drawing:  # fmt: skip
    """Draw image `index` of a batch: photograph, soft mask, hard mask, and the likeliest classes before and after.

    photograph: (H', W', 3) in [0, 1], the part of the original that the ViT sees, as finely as one likes; picture (H, W, 3):
    the same as the ViT sees it. `result` and `check` are what `explain(images)` and `verify(images, result.keep)` returned.
    heading: words above all, such as the file's name; they are never read as a formula.
    method: its name; where `result.mask` is None, its scores are drawn instead. target: the class that was explained, by
    default the predicted one. part: which part of the photograph the ViT sees. rule: what the hard mask keeps, by default what
    lies above the threshold.
    """
    photograph, picture = as_picture(photograph), as_picture(picture)
    keep, kl = as_array(result.keep)[index], float(check.kl[index])
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
    if result.mask is None:
        soft, scores = f"scores of {method}", as_array(result.score)[index].astype(float)
        limits = score_limits(scores)
        image = draw_mask(middle, picture, scores, heat=True, edge=edge, cmap=colours_of(limits), limits=limits)
        colourbar(figure, image, axes, "score: higher is more relevant")
    else:
        mask = as_array(result.mask)[index]
        soft = f"soft mask, mean {mask.mean():.2f}"
        colourbar(figure, draw_mask(middle, picture, mask, heat=True, edge=edge), axes)
    draw_mask(right, picture, keep, edge=edge)
    share = how_many(keep, result.threshold)
    rule = rule or f"above {float(result.threshold):g}"
    for ax, title, label in (
        (left, "photograph", part),
        (middle, soft, f"the ViT gets {height} × {width} px"),
        (right, f"hard mask, {rule}", share),
    ):
        ax.set_title(wrap(title, 2.4))
        ax.set_xlabel(wrap(label, 2.4), fontsize=11)
    answers(below, pair, names, most, target=target)
    before, after = (says(p, names, result.multilabel) for p in pair)
    words = f"The ViT {before}; of the patches kept alone it {after}\n" + ("" if agree else "changed; ") + f"KL {kl:.2f} nats"
    if target is not None:
        p, q = pair[:, target]
        words = f"Explained: {short(names[target])}, {p:.2f}; of the patches kept alone {q:.2f}\n{words}"
    below.set_title(wrap(words, WIDTH - 1), color="black" if agree else VERMILION, parse_math=False)
    for label in below.get_yticklabels():
        label.set_parse_math(False)
    if heading:
        figure.suptitle(wrap(heading, 0.8 * WIDTH), fontsize=14, parse_math=False)  # `wrap` counts in letters of 12 points
    return described(figure, f"{heading} {', '.join(words.splitlines())}. {share}; {soft}; {part}.")


def how_many(keep: Any, threshold: float | None) -> str:
    """Say how many patches a hard mask (h, w) keeps, and what it means if gates keep all or none at a threshold."""
    keep = as_array(keep)
    words = f"{keep.sum()} of {keep.size} kept"
    if threshold is None or 0 < keep.sum() < keep.size:
        return f"{words} ({keep.mean():.0%})"
    if keep.any() and threshold >= 0.5:
        return f"{words}: this mask leaves nothing out"
    return f"{words}: {'all lie' if keep.any() else 'none lies'} above {threshold:g}"
