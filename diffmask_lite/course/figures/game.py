"""The board of the game "Beat the mask", and a race against a greedy opponent.

Shapes: picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1] on the ViT's patch grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...plots.canvas import (
    GREEN,
    VERMILION,
    WIDTH,
    Drawing,
    answers,
    as_array,
    as_picture,
    described,
    draw_mask,
    in_house_style,
    new_figure,
    short,
    softmax,
    wrap,
)


@in_house_style
def board(picture: Any, position: Any, names: Sequence[str], words: str = "", most: int = 5) -> Drawing:
    """Draw a position of the game: the patches that are on, and the ViT's likeliest classes before and after.

    All boards of one image have the same classes in the same order.

    position: a `game.Position`, or anything with its `keep`, `before`, `after`, `kl` and `rival`.
    """
    picture, keep = as_picture(picture), as_array(position.keep)
    pair = np.stack([softmax(position.before), softmax(position.after)])
    figure, axes = new_figure(4.0, 1, 2)
    left, right = axes[0]
    draw_mask(left, picture, keep)
    left.set_title(f"{keep.sum()} of {keep.size} patches; DiffMask kept {position.rival}")
    (height, width), (h, w) = picture.shape[:2], keep.shape
    left.set(xticks=(np.arange(w) + 0.5) * width / w, xticklabels=np.arange(w) + 1, xlabel="column")
    left.set(yticks=(np.arange(h) + 0.5) * height / h, yticklabels=np.arange(h) + 1, ylabel="row")
    left.tick_params(length=0, labelsize=11)
    answers(right, pair, names, most, steady=True)
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
