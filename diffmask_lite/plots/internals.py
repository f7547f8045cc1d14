"""Inside a ViT: the sequence of patches, positions, attention by head, what each block adds, and patches taken away.

Shapes: picture (H, W, 3) in [0, 1]; h × w is the patch grid and N = h·w; L blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from .canvas import (
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

PURPLE = "#CC79A7"  # the fifth of Okabe and Ito's colours that the course uses
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
    height = max(2.4, (WIDTH - left) / across * rows * (tall / wide + 0.35))
    figure = Drawing(figsize=(WIDTH, height), layout="constrained")
    grids = figure.add_gridspec(rows, across + 1, width_ratios=[across * left / (WIDTH - left)] + [1] * across)
    whole = figure.add_subplot(grids[:, 0], title=f"{grid[0]} × {grid[1]} patches")
    whole.imshow(as_picture(picture), interpolation="nearest", extent=(0, grid[1], grid[0], 0), aspect=tall / wide)
    _edges(whole, grid)
    bare(whole)
    for i, patch in enumerate(cut):
        ax = figure.add_subplot(grids[i // across, i % across + 1], title=str(i + 1))
        ax.imshow(patch, interpolation="nearest")
        bare(ax)
    last = f"{count} patches of {tall} × {wide} pixels"
    return described(figure, f"A picture, and beside it the same as a sequence of {last}, row by row from the top left.")


@in_house_style
def position_similarity(similarity: Any, grid: tuple[int, int], patches: Sequence[int]) -> Drawing:
    """Draw the cosine similarity (N, N) of the positions of a few patches, numbered from 0, with those of all patches."""
    similarity = as_array(similarity)
    if similarity.shape != (grid[0] * grid[1],) * 2:
        raise ValueError(f"A {grid[0]} × {grid[1]} grid needs similarities (N, N), but these are {similarity.shape}.")
    figure, axes = new_figure((WIDTH - 1) / len(patches) * grid[0] / grid[1] + 0.5, 1, len(patches))
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
def attention_heads(picture: Any, maps: Any, rows: Sequence[str]) -> Drawing:
    """Draw what one token attends to: maps (rows, heads, h, w), a named row each, all on one scale from 0 to the largest."""
    maps = as_array(maps)
    if maps.ndim != 4 or len(maps) != len(rows):
        raise ValueError(f"Maps must be (rows, heads, h, w) with {len(rows)} rows, but these have shape {maps.shape}.")
    heads, grid, high = maps.shape[1], maps.shape[2:], maps.max()
    side = (WIDTH - 1.6) / (heads + 1)
    figure, axes = new_figure((side * grid[0] / grid[1] + 0.35) * len(rows), len(rows), heads + 1)
    words = []
    for line, name, row in zip(axes, rows, maps, strict=True):
        line[0].imshow(as_picture(picture), interpolation="nearest", extent=(0, grid[1], grid[0], 0))
        line[0].set_ylabel(name)
        bare(line[0])
        for head, (ax, attention) in enumerate(zip(line[1:], row, strict=True), start=1):
            image = ax.imshow(attention, cmap=MAP, vmin=0, vmax=high, extent=(0, grid[1], grid[0], 0))
            ax.set_title(f"head {head}: {attention.sum():.2f}")
            _edges(ax, grid)
            bare(ax)
            words.append(f"{name}, head {head}: {attention.sum():.2f} on patches, at most {attention.max():.2f} on one")
    figure.colorbar(image, ax=axes, label="attention", shrink=0.9, aspect=25)
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
            [handles[label]] = ax.plot(x, values, color=colour, marker=marker, linewidth=2)
            words.append(f"{title}, {label}: {', '.join(f'{value:.2f}' for value in values)}".lstrip(", "))
        ax.set(title=title, xlabel=xlabel, ylim=(-0.02, 1.02))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=bool((x == x.round()).all())))
    axes[0, 0].set_ylabel(ylabel)
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(labels))
    return described(figure, f"{ylabel}, against {xlabel}. {'; '.join(words)}.")


@in_house_style
def removals(picture: Any, keep: Any, noise: Any, answers: Mapping[str, Any], names: Sequence[str]) -> Drawing:
    """Draw a picture with the patches outside `keep` (h, w) removed in each way that `answers` has logits (classes,) for.

    answers: "whole" (nothing removed), "noise" (the picture `noise` (H, W, 3) shows there), "mean" (grey), "zero" (an
    embedding of zeros, which no picture can show: a 0), "drop" (no token: left white); names: a word for each class.
    """
    picture, keep, noise = as_picture(picture), as_array(keep), as_picture(noise)
    fills = {"whole": picture, "noise": noise, "mean": 0.5, "zero": 1.0, "drop": 1.0}
    if not set(answers) <= set(fills):
        raise ValueError(f"The ways to remove a patch are {', '.join(fills)}, but answers has {', '.join(answers)}.")
    height, width = picture.shape[:2]
    side = WIDTH / len(answers)
    figure, axes = new_figure(side * height / width + 0.7, 1, len(answers))
    inside = _spread(keep, (height, width))[..., None]
    words = []
    for ax, (way, logits) in zip(axes.flat, answers.items(), strict=True):
        ax.imshow(np.where(inside, picture, fills[way]), interpolation="nearest", extent=(0, width, height, 0))
        answer = says(softmax(logits).reshape(-1), names)
        ax.set_title(wrap(f"{way}\n{answer}", side))
        if way == "zero":
            for i, j in np.argwhere(~keep):
                place = ((j + 0.5) * width / keep.shape[1], (i + 0.5) * height / keep.shape[0])
                ax.text(*place, "0", ha="center", va="center", fontsize=9, color="0.5")
        bare(ax)
        ax.spines[:].set(visible=True, color="0.8")  # where white meets white
        words.append(f"{way}: {answer}")
    return described(figure, f"With {(~keep).sum()} of {keep.size} patches removed. {'; '.join(words)}.")


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
