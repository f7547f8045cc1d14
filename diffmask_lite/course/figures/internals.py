"""Inside a ViT: the sequence of patches, positions, attention by head, what each block adds, and patches taken away.

Shapes: picture (H, W, 3) in [0, 1]; h × w is the patch grid and N = h·w; L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from numpy import ndarray

from ...plots.canvas import (
    BLUE,
    GREEN,
    MAP,
    ORANGE,
    VERMILION,
    WIDTH,
    Drawing,
    as_array,
    as_picture,
    bare,
    described,
    in_house_style,
    new_figure,
    says,
    softmax,
    wrap,
)
from ...plots.evaluation import PURPLE

LOOKS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (VERMILION, "D"), (PURPLE, "v"), ("black", "x"))
Panels = Mapping[str, Mapping[str, Any]]  # title -> label -> values


@in_house_style
def patch_sequence(picture: Any, grid: tuple[int, int], across: int = 16) -> Drawing:
    """Draw a picture cut into h × w patches, and the same patches as a numbered sequence, `across` in a row."""
    cut = _cut(as_picture(picture), grid)  # (N, p, q, 3)
    count, tall, wide = cut.shape[:3]
    across = min(across, count)
    rows = -(-count // across)
    left = 2.4 * picture.shape[1] / picture.shape[0]
    side = (WIDTH - left) / across  # inches for each patch, a fifth of it left empty
    figure = Drawing(figsize=(WIDTH, max(2.5, rows * (side * tall / wide + 0.25))), layout="constrained")
    whole, sequence = figure.subplots(1, 2, width_ratios=[left, WIDTH - left])
    whole.imshow(as_picture(picture), interpolation="nearest", extent=(0, grid[1], grid[0], 0), aspect=tall / wide)
    whole.set_title(f"{grid[0]} × {grid[1]} patches")
    _edges(whole, grid)
    step = tall / wide + 0.25 / side  # from row to row, in widths of a patch
    for i, patch in enumerate(cut):
        x, y = i % across + 0.1, (i // across + 1) * step
        sequence.imshow(patch, interpolation="nearest", extent=(x, x + 0.8, y, y - 0.8 * tall / wide))
        sequence.text(x + 0.4, y - 0.84 * tall / wide, str(i + 1), ha="center", va="bottom", fontsize=11)
    sequence.set(xlim=(0, across), ylim=(rows * step + 0.05, 0))
    for ax in (whole, sequence):
        bare(ax)
    last = f"{count} patches of {tall} × {wide} pixels"
    return described(figure, f"A picture, and beside it the same as a sequence of {last}, row by row from the top left.")


@in_house_style
def position_similarity(similarity: Any, grid: tuple[int, int], patches: Sequence[int]) -> Drawing:
    """Draw the cosine similarity (N, N) of the positions of a few patches, numbered from 0, with those of all patches."""
    similarity = as_array(similarity)
    if similarity.shape != (grid[0] * grid[1],) * 2:
        raise ValueError(f"A {grid[0]} × {grid[1]} grid needs similarities (N, N), but these are {similarity.shape}.")
    figure, axes = new_figure((WIDTH - 1.2) / len(patches) * grid[0] / grid[1] + 0.3, 1, len(patches))
    words = []
    for ax, patch in zip(axes.flat, patches, strict=True):
        image = ax.imshow(similarity[patch].reshape(grid), cmap="PuOr_r", vmin=-1, vmax=1, extent=(0, grid[1], grid[0], 0))
        row, column = divmod(patch, grid[1])
        ax.plot(column + 0.5, row + 0.5, "k+", markersize=10, markeredgewidth=2)
        _edges(ax, grid)
        bare(ax)
        ax.set_title(f"patch {patch + 1}")
        others = np.delete(similarity[patch], patch)
        words.append(f"patch {patch + 1}: between {others.min():.2f} and {others.max():.2f}")
    figure.colorbar(image, ax=axes, label="cosine similarity", ticks=[-1, 0, 1], shrink=0.9, aspect=20)
    return described(figure, f"Similarity of a patch's position with those of all others. {'; '.join(words)}.")


@in_house_style
def attention_heads(picture: Any, maps: Any, rows: Sequence[str], cmap: str = MAP) -> Drawing:
    """Draw what one token attends to: maps (rows, heads, h, w), a named row each, all on one scale from 0 to the largest.

    Colours go by the square root of the attention: most of it is small, and would else be black beside a single large value.
    """
    maps = as_array(maps)
    if maps.ndim != 4 or len(maps) != len(rows):
        raise ValueError(f"Maps must be (rows, heads, h, w) with {len(rows)} rows, but these have shape {maps.shape}.")
    heads, grid, high = maps.shape[1], maps.shape[2:], float(maps.max())
    norm = PowerNorm(0.5, 0, high)
    side = min((WIDTH - 1.6) / (heads + 1), 2)
    size = (side * grid[0] / grid[1] + 0.5) * len(rows), side * (heads + 1) + 1.6
    figure, axes = new_figure(size[0], len(rows), heads + 1, width=size[1])
    figure.get_layout_engine().set(w_pad=0.08)
    words = []
    for line, name, row in zip(axes, rows, maps, strict=True):
        line[0].imshow(as_picture(picture), interpolation="nearest", extent=(0, grid[1], grid[0], 0))
        line[0].set_ylabel(name)
        bare(line[0])
        for head, (ax, attention) in enumerate(zip(line[1:], row, strict=True), start=1):
            image = ax.imshow(attention, cmap=cmap, norm=norm, extent=(0, grid[1], grid[0], 0))
            ax.set_title(f"head {head}\nsum {attention.sum():.2f}")
            _edges(ax, grid)
            bare(ax)
            words.append(f"{name}, head {head}: {attention.sum():.2f} on patches, at most {attention.max():.2f} on one")
    bar = figure.colorbar(image, ax=axes, label="attention", shrink=0.9, aspect=25, ticks=high * np.linspace(0, 1, 5) ** 2)
    bar.ax.yaxis.set_major_formatter("{x:.2g}")
    return described(figure, f"Attention by head, with its sum over patches. {'; '.join(words)}.")


@in_house_style
def additions(panels: Panels, ylabel: str = "norm") -> Drawing:
    """Draw bars for each block, in panels side by side: title -> label -> values (L,)."""
    figure, axes = new_figure(3.0, 1, len(panels))
    words = []
    for ax, (title, series) in zip(axes.flat, panels.items(), strict=True):
        width = 0.8 / len(series)
        for k, ((label, values), (colour, _)) in enumerate(zip(series.items(), LOOKS, strict=False)):
            values = as_array(values)
            places = np.arange(1, len(values) + 1) + (k - (len(series) - 1) / 2) * width
            ax.bar(places, values, width, color=colour, label=label)
            words.append(f"{title}, {label}: {', '.join(f'{value:.1f}' for value in values)}")
        ax.set(title=title, xlabel="block", ylabel=ylabel, xticks=range(1, len(values) + 1))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(series))
    return described(figure, f"Block by block. {'; '.join(words)}.")


@in_house_style
def lines(panels: Panels, x: Any, xlabel: str, ylabel: str) -> Drawing:
    """Draw shares or probabilities against x, in panels side by side on one scale from 0 to 1: title -> label -> values."""
    x = as_array(x)
    figure, axes = new_figure(3.4, 1, len(panels))
    labels = list(dict.fromkeys(label for series in panels.values() for label in series))
    if len(labels) > len(LOOKS):
        raise ValueError(f"There are {len(labels)} lines, but only {len(LOOKS)} looks to tell them apart; draw fewer.")
    words, handles = [], {}
    for ax, (title, series) in zip(axes.flat, panels.items(), strict=True):
        for label, values in series.items():
            colour, marker = LOOKS[labels.index(label)]  # the same in every panel
            values = as_array(values)
            size = 11 - 1.5 * labels.index(label)  # so that a line drawn over another leaves it to be seen
            [handles[label]] = ax.plot(x, values, color=colour, marker=marker, markersize=size, linewidth=2)
            words.append(f"{title}, {label}: {', '.join(f'{value:.2f}' for value in values)}".lstrip(", "))
        ax.set(title=title, xlabel=xlabel, ylim=(-0.04, 1.04))
        if len(x) <= 8:
            ax.set_xticks(x)
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(labels))
    return described(figure, f"{ylabel}, against {xlabel}. {'; '.join(words)}.")


@in_house_style
def removals(
    picture: Any, keep: Any, noise: Any, answers: Mapping[str, Any], names: Sequence[str], mean: Any = (0.5, 0.5, 0.5)
) -> Drawing:
    """Draw a picture with the patches outside `keep` (h, w) removed in each way that `answers` has logits (classes,) for.

    answers: "whole" (nothing removed), "noise" (the picture `noise` (H, W, 3) shows there), "mean" (the colour `mean` (3,)),
    "zero" (an embedding of zeros, which no picture can show: a 0), "drop" (no token: left white); names: a word for each class.
    """
    picture, keep, noise = as_picture(picture), as_array(keep), as_picture(noise)
    fills = {"whole": picture, "noise": noise, "mean": as_array(mean), "zero": 1.0, "drop": 1.0}
    if not set(answers) <= set(fills):
        raise ValueError(f"The ways to remove a patch are {', '.join(fills)}, but answers has {', '.join(answers)}.")
    height, width = picture.shape[:2]
    side = WIDTH / len(answers)
    titles = {way: wrap(f"{way}\n{says(softmax(logits).reshape(-1), names)}", side) for way, logits in answers.items()}
    above = 0.2 * max(len(title.splitlines()) for title in titles.values())
    figure, axes = new_figure(side * height / width + above + 0.15, 1, len(answers))
    figure.get_layout_engine().set(rect=(0, 0, 1, 0.96))  # saved titles stand a little higher than they are laid out
    inside = _spread(keep, (height, width))[..., None]
    for ax, (way, title) in zip(axes.flat, titles.items(), strict=True):
        ax.imshow(np.where(inside, picture, fills[way]), interpolation="nearest", extent=(0, width, height, 0))
        ax.set_title(title)
        if way == "zero":
            for i, j in np.argwhere(~keep):
                place = ((j + 0.5) * width / keep.shape[1], (i + 0.5) * height / keep.shape[0])
                ax.text(*place, "0", ha="center", va="center", fontsize=9, color="0.5")
        bare(ax)
        ax.spines[:].set(visible=True, color="0.8")  # where white meets white
    words = "; ".join(title.replace("\n", " ") for title in titles.values())
    return described(figure, f"With {(~keep).sum()} of {keep.size} patches removed. {words}.")


def _cut(picture: ndarray, grid: tuple[int, int]) -> ndarray:
    """Cut a picture (H, W, 3) into patches (N, H / h, W / w, 3), row by row."""
    (height, width), (h, w) = picture.shape[:2], grid
    if height % h or width % w:
        raise ValueError(f"A picture of {height} × {width} pixels cannot be cut into {h} × {w} equal patches.")
    return picture.reshape(h, height // h, w, width // w, 3).swapaxes(1, 2).reshape(h * w, height // h, width // w, 3)


def _spread(mask: ndarray, size: tuple[int, int]) -> ndarray:
    """A mask (h, w) -> the same for each pixel (H, W)."""
    rows, columns = (np.arange(pixels) * patches // pixels for pixels, patches in zip(size, mask.shape, strict=True))
    return mask[rows][:, columns]


def _edges(ax: Axes, grid: tuple[int, int]) -> None:
    ax.hlines(range(1, grid[0]), 0, grid[1], color="white", linewidth=0.5, alpha=0.7)
    ax.vlines(range(1, grid[1]), 0, grid[0], color="white", linewidth=0.5, alpha=0.7)
