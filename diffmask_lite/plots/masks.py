"""Masks over pictures: soft and hard, beside what the ViT says of them, and layer by layer.

Shapes: picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1] on the ViT's patch grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .canvas import (
    GREY,
    MAP,
    VERMILION,
    WIDTH,
    Drawing,
    as_array,
    as_p,
    as_picture,
    bare,
    colourbar,
    described,
    draw_mask,
    in_house_style,
    new_figure,
    says,
    short,
    wrap,
)


@in_house_style
def explanations(
    pictures: Any,
    result: Any,
    check: Any,
    names: Sequence[str],
    truth: Any = None,
    rows: Sequence[int] | None = None,
    cmap: str = MAP,
    removed: Any = GREY,
) -> Drawing:
    """Draw one row an image: the picture, the soft mask and the patches kept, with the ViT's words before and after.

    pictures (B, H, W, 3); `result` and `check` are what `explain(images)` and `verify(images, result.keep)` returned;
    names: a word for each class; truth: labels (B,), to mark wrong predictions; rows: which images, by default all.
    cmap: colours of the soft mask; "gray" beside pictures whose colours mean something, such as the colour grid's.
    removed: the colour that stands in place of removed patches, RGB in 0 … 1, where it is not grey.
    """
    mask, keep, kl, many = as_array(result.mask), as_array(result.keep), as_array(check.kl), result.multilabel
    before, after = None if result.logits is None else as_p(result.logits, many), as_p(check.logits, many)
    if many and truth is not None:
        raise ValueError("truth is one class an image, and this ViT predicts labels; leave truth out.")
    if not np.allclose(as_array(check.kept), keep.mean((1, 2)), atol=1e-4):
        raise ValueError("The check is of another mask; pass explainer.verify(images, result.keep).")
    rows = range(len(mask)) if rows is None else rows
    height, width = as_picture(pictures[0]).shape[:2]
    figure, axes = new_figure((2.6 * height / width + 0.7) * len(rows), len(rows), 3)
    sentences = []
    for line, i in zip(axes, rows, strict=True):
        answer, wrong = "" if before is None else says(before[i], names, many), False
        if before is not None and truth is not None:
            wrong = before[i].argmax() != int(truth[i])
            answer += f"\nwrong: truth is {short(names[int(truth[i])])}" if wrong else ""
        after_words = says(after[i], names, many) + ("" if check.agree[i] else ", changed")
        line[0].imshow(as_picture(pictures[i]), interpolation="nearest")
        bare(line[0])
        image = draw_mask(line[1], pictures[i], mask[i], heat=True, cmap=cmap)
        draw_mask(line[2], pictures[i], keep[i], removed=removed)
        figures = f"KL {kl[i]:.2f} nats, {keep[i].mean():.0%} kept"
        line[0].set_title(wrap(answer, 2.7), color=VERMILION if wrong else "black")
        line[1].set_title(f"soft mask, mean {mask[i].mean():.2f}")
        line[2].set_title(wrap(f"{after_words}\n{figures}", 2.7), color="black" if check.agree[i] else VERMILION)
        answer, part = answer.replace("\n", ", "), f"on the {keep[i].sum()} of {keep[i].size} patches kept"
        sentences.append(f"Image {i}: {f'the ViT {answer}; ' if answer else ''}{part} it {after_words}, KL {kl[i]:.2f} nats.")
    colourbar(figure, image, axes)
    return described(figure, "What the ViT says before and after. " + " ".join(sentences))


@in_house_style
def layers(picture: Any, result: Any, index: int = 0, cmap: str = MAP) -> Drawing:
    """Draw the gate of each hidden state h_0 … h_{L+1} of image `index` alone; below it the product of all up to it.

    cmap: colours of the gates; "gray" beside pictures whose colours mean something, such as the colour grid's.
    """
    gates = as_array(result.layers)[index]  # (L + 2, h, w)
    products = np.cumprod(gates, axis=0)
    bands = -(-len(gates) // 8)  # more than 8 in a row would be too small to read
    across = -(-len(gates) // bands)
    side = (WIDTH - 1.2) / (across + 1.6) * gates.shape[1] / gates.shape[2]
    figure = Drawing(figsize=(WIDTH, bands * (2 * max(side, 0.7) + 0.6)), layout="constrained")  # room for labels
    grid = figure.add_gridspec(2 * bands, across + 1, width_ratios=[1.6] + [1] * across)
    axes = [figure.add_subplot(grid[:2, 0], title="picture")]
    axes[0].imshow(as_picture(picture), interpolation="nearest")
    bare(axes[0])
    for i in range(len(gates)):
        for row, (gate, label, title) in enumerate([(gates[i], "alone", f"$h_{{{i}}}$"), (products[i], "product", "")]):
            ax = figure.add_subplot(grid[2 * (i // across) + row, i % across + 1], title=title)
            image = draw_mask(ax, picture, gate, heat=True, edge=min(0.5, 2 / len(gate)), cmap=cmap)
            ax.set_ylabel("" if i % across else label)
            axes.append(ax)
    colourbar(figure, image, axes, "gate, or product")
    means = ", ".join(f"h_{i} {mean:.2f}" for i, mean in enumerate(gates.mean((1, 2))))
    return described(
        figure, f"The mean gate of each hidden state alone: {means}; of the product of all {products[-1].mean():.2f}."
    )
