"""The one diagram of the course: how DiffMask explains a prediction, and how the explanation is tested."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from ...plots.canvas import (
    BLUE,
    GREEN,
    MAP,
    ORANGE,
    WIDTH,
    Drawing,
    as_array,
    as_picture,
    bare,
    described,
    draw_mask,
    in_house_style,
)

HEIGHT = 3.9  # inches
PARTS = ("vit", "gates", "mask", "removal", "test")
# part -> (words, centre x, centre y, width), in inches
BOXES = {
    "vit": [
        ("frozen ViT", 3.0, 3.15, 1.3),
        ("hidden states\n$h_0, h_1, …, h_{L+1}$", 4.85, 3.15, 1.6),
        ("$p(x)$", 8.2, 3.15, 0.9),
    ],
    "gates": [("one gate per state:\n$z_i$ from $[h_0\\,; h_i]$", 4.85, 1.95, 1.75)],
    "mask": [("product of\nall: $z$", 2.75, 1.95, 1.3)],
    "removal": [("the same\nfrozen ViT", 4.85, 0.6, 1.3)],
    "test": [("$p(\\mathrm{masked}\\ x)$", 8.2, 0.6, 1.35), ("KL: did the\nanswer change?", 8.2, 1.88, 1.45)],
}
# part -> arrows (from x, from y, to x, to y)
ARROWS = {
    "vit": [(1.65, 3.15, 2.3, 3.15), (3.7, 3.15, 4.0, 3.15), (5.7, 3.15, 7.7, 3.15)],
    "gates": [(4.85, 2.83, 4.85, 2.3)],
    "mask": [(3.93, 1.95, 3.45, 1.95), (2.05, 1.95, 1.5, 1.95)],
    "removal": [(0.85, 1.4, 0.85, 1.22), (1.5, 0.6, 4.15, 0.6)],
    "test": [(5.55, 0.6, 7.45, 0.6), (8.2, 2.85, 8.2, 2.25), (8.2, 0.92, 8.2, 1.52)],
}


@in_house_style
def pipeline(picture: Any, mask: Any, part: str | None = None, cmap: str = MAP) -> Drawing:
    """Draw how DiffMask goes from an image to a mask, and how the mask is tested; `part` alone in colour, by default all.

    picture (H, W, 3), mask (h, w) in [0, 1]. part: "vit", "gates", "mask", "removal" or "test".
    cmap: the mask's colours.
    """
    if part is not None and part not in PARTS:
        raise ValueError(f"Unknown part {part!r}: use {', '.join(map(repr, PARTS))}.")
    picture, mask = as_picture(picture), as_array(mask).astype(float)
    figure = Drawing(figsize=(WIDTH, HEIGHT))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    bare(ax)
    colours = {"vit": BLUE, "gates": ORANGE, "mask": ORANGE, "removal": BLUE, "test": GREEN}
    for name in PARTS:
        colour = colours[name] if part in (None, name) else "#b0b0b0"
        for words, x, y, width in BOXES[name]:
            _box(ax, words, x, y, width, colour)
        for start_x, start_y, end_x, end_y in ARROWS[name]:
            style = {"arrowstyle": "-|>", "mutation_scale": 14, "linewidth": 1.6, "color": colour}
            ax.add_patch(FancyArrowPatch((start_x, start_y), (end_x, end_y), **style, shrinkA=0, shrinkB=0))
    side, edge = 1.15, min(0.5, 3 / max(mask.shape))
    for name, y, words in (("vit", 3.15, "image $x$"), ("mask", 1.95, "mask"), ("removal", 0.65, "patches kept")):
        inset = figure.add_axes(((0.85 - side / 2) / WIDTH, (y - side / 2) / HEIGHT, side / WIDTH, side / HEIGHT))
        if name == "vit":
            inset.imshow(picture, interpolation="nearest")
            bare(inset)
        elif name == "mask":
            inset.imshow(mask, cmap=cmap, vmin=0, vmax=1, interpolation="nearest")
            inset.set(xticks=[], yticks=[])  # with a frame, since a mask may be white at its edge
            inset.spines[:].set(visible=True, color="#909090")
        else:
            draw_mask(inset, picture, mask > 0.5, edge=edge)
        if part not in (None, name):
            inset.images[0].set_alpha(0.35)
        ax.text(1.5, y + 0.42, words, fontsize=11, color="black" if part in (None, name) else "#909090")
    ax.text(
        2.9,
        0.78,
        "all other patches removed",
        fontsize=11,
        ha="center",
        color="black" if part in (None, "removal") else "#909090",
    )
    words = (
        "The frozen ViT reads the image and predicts p(x). There is one gate for each hidden state of a patch. The "
        "product of the gates is the mask. The ViT then sees only the patches kept, and KL compares its two predictions."
    )
    return described(figure, words + (f" Highlighted: {part}." if part else ""))


def _box(ax: Axes, words: str, x: float, y: float, width: float, colour: str) -> None:
    height = 0.36 + 0.28 * words.count("\n")
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.06", facecolor="white", edgecolor=colour, linewidth=2)
    )
    ax.text(x, y, words, ha="center", va="center", fontsize=11.5, color="black" if colour != "#b0b0b0" else "#909090")
