"""Draw what the package computes: data in, `matplotlib` figure out.

Nothing here shows or saves a figure or changes matplotlib's settings. Tensors and numpy arrays are both welcome. A figure
belongs to no window, so a notebook shows it exactly once, and it carries alternative text made from the data (`alt_text`).
Two rules keep pictures honest: a mask is drawn patch by patch, never smoothed, and its colours always run from 0 to 1.

Shapes: picture (H, W, 3) in [0, 1], pictures (B, H, W, 3), mask (h, w) in [0, 1] on the ViT's patch grid.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from .canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    STYLE,
    VERMILION,
    WIDTH,
    Drawing,
    alt_text,
    as_array,
    as_picture,
    bare,
    colourbar,
    described,
    in_house_style,
    new_figure,
    overlay,
    png,
)  # fmt: skip

__all__ = [
    "GREY", "STYLE", "Drawing", "alt_text", "displayable", "explanations", "harden", "history", "image_grid", "layers",
    "overlay", "png", "probabilities", "soft_to_hard", "soft_to_hard_strip",
]  # fmt: skip


def displayable(images: Any, mean: Any = 0.5, std: Any = 0.5) -> ndarray:
    """Undo normalisation: images (B, C, H, W) or one (C, H, W) -> pictures (B, H, W, 3) in [0, 1].

    mean, std: those of the normalisation, one number or one for each of the C = 1 or 3 channels.
    """
    images = as_array(images)
    if images.ndim not in (3, 4) or images.shape[-3] not in (1, 3):
        raise ValueError(f"Images must be (B, C, H, W) with 1 or 3 channels, but these have shape {images.shape}.")
    mean, std = (np.reshape(as_array(v), (-1, 1, 1)).astype(images.dtype) for v in (mean, std))
    pixels = np.clip(images * std + mean, 0, 1).reshape(-1, *images.shape[-3:]).transpose(0, 2, 3, 1)
    return pixels.repeat(3 // pixels.shape[-1], axis=-1)


def harden(mask: Any, hardness: float, threshold: float = 0.5) -> ndarray:
    """Move a soft mask (any shape, in [0, 1]) towards the hard one, `mask > threshold`; hardness runs from 0 to 1.

    A value's distance to the threshold, as a share u of the most it could be on its side, becomes u^(1 − hardness):
    order and side are kept, 0 gives the mask itself and 1 the hard mask, exactly.
    """
    if not 0 <= hardness <= 1:
        raise ValueError(f"Hardness runs from 0 (soft) to 1 (hard), but it is {hardness}.")
    mask = as_array(mask)
    keep = mask > threshold  # in the mask's own precision, as `explain` compares
    if hardness in (0, 1):
        return (keep if hardness else mask).astype(float)
    threshold, mask = float(np.asarray(threshold, mask.dtype)), mask.astype(float)
    room = np.where(keep, 1 - threshold, threshold)
    u = np.divide(np.abs(mask - threshold), room, out=np.zeros_like(mask), where=room > 0)
    return threshold + np.where(keep, 1, -1) * room * u ** (1 - hardness)


@in_house_style
def image_grid(pictures: Any, titles: Sequence[Any] | None = None, columns: int = 6) -> Drawing:
    """Draw pictures (B, H, W, 3), `columns` in a row, each under its title."""
    pictures, side = [as_picture(picture) for picture in pictures], WIDTH / columns
    titles = [_wrap(str(title), side) for title in ([""] * len(pictures) if titles is None else titles)]
    if len(titles) != len(pictures):
        raise ValueError(f"There are {len(pictures)} pictures but {len(titles)} titles; give each its own.")
    tall = side * pictures[0].shape[0] / pictures[0].shape[1] + 0.2 * max(len(t.splitlines()) for t in titles) + 0.1
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = new_figure(tall * rows, rows, columns, width=side * columns)
    for ax, picture, title in zip(axes.flat, pictures, titles, strict=False):
        ax.imshow(picture)
        ax.set_title(title)
    for ax in axes.flat:
        bare(ax)
    words = "; ".join(" ".join(title.split()) for title in titles if title)
    return described(figure, f"Pictures in a grid: {len(pictures)}. {words}")


@in_house_style
def explanations(
    pictures: Any, result: Any, check: Any, names: Sequence[str], truth: Any = None, rows: Sequence[int] | None = None
) -> Drawing:
    """Draw one row an image: the picture, the soft mask and the patches kept, with the ViT's words before and after.

    pictures (B, H, W, 3); `result` and `check` are what `explain(images)` and `verify(images, result.keep)` returned;
    names: a word for each class; truth: labels (B,), to mark wrong predictions; rows: which images, by default all.
    """
    mask, keep, kl, after = as_array(result.mask), as_array(result.keep), as_array(check.kl), _softmax(check.logits)
    before = None if result.logits is None else _softmax(result.logits)
    if not np.allclose(as_array(check.kept), keep.mean((1, 2)), atol=1e-4):
        raise ValueError("The check is of another mask; pass explainer.verify(images, result.keep).")
    rows = range(len(mask)) if rows is None else rows
    height, width = as_picture(pictures[0]).shape[:2]
    figure, axes = new_figure((2.6 * height / width + 0.7) * len(rows), len(rows), 3)
    sentences = []
    for line, i in zip(axes, rows, strict=True):
        says, wrong = "" if before is None else _says(before[i], names), False
        if before is not None and truth is not None:
            wrong = before[i].argmax() != int(truth[i])
            says += f"\nwrong: truth is {_short(names[int(truth[i])])}" if wrong else ""
        says_after = _says(after[i], names) + ("" if check.agree[i] else ", changed")
        line[0].imshow(as_picture(pictures[i]), interpolation="nearest")
        bare(line[0])
        image = overlay(line[1], pictures[i], mask[i], heat=True)
        overlay(line[2], pictures[i], keep[i])
        figures = f"KL {kl[i]:.2f} nats, {keep[i].mean():.0%} kept"
        line[0].set_title(_wrap(says, 2.7), color=VERMILION if wrong else "black")
        line[1].set_title(f"soft mask, mean {mask[i].mean():.2f}")
        line[2].set_title(_wrap(f"{says_after}\n{figures}", 2.7), color="black" if check.agree[i] else VERMILION)
        says, part = says.replace("\n", ", "), f"on the {keep[i].sum()} of {keep[i].size} patches kept"
        sentences.append(f"Image {i}: {f'the ViT {says}; ' if says else ''}{part} it {says_after}, KL {kl[i]:.2f} nats.")
    colourbar(figure, image, axes)
    return described(figure, "What the ViT says before and after. " + " ".join(sentences))


@in_house_style
def soft_to_hard(picture: Any, mask: Any, hardness: float = 1, threshold: float = 0.5, words: str = "") -> Drawing:
    """Draw the soft mask, the same hardened (see `harden`), and the picture through the latter; `words` go above."""
    picture, mask, hardened = as_picture(picture), as_array(mask), _hardened(mask, hardness, threshold)
    figure, axes = new_figure(2.6 * picture.shape[0] / picture.shape[1] + (0.8 if words else 0.4), 1, 3)
    image = overlay(axes[0, 0], picture, mask.astype(float), heat=True)
    overlay(axes[0, 1], picture, hardened, heat=True)
    overlay(axes[0, 2], picture, hardened)
    above = f"{(mask > threshold).sum()} of {mask.size} above {threshold:.2f}"
    titles = f"soft mask, mean {mask.mean():.2f}", f"hardness {hardness:.2f}, mean {hardened.mean():.2f}", above
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title)
    colourbar(figure, image, axes)
    if words:
        figure.suptitle(_wrap(words, WIDTH), fontsize=12)
    return described(figure, f"A mask of patches: {'; '.join(titles)}. {words}")


@in_house_style
def soft_to_hard_strip(picture: Any, mask: Any, settings: Any = (0, 0.25, 0.5, 0.75, 1), threshold: Any = 0.5) -> Drawing:
    """Draw masks hardened to several settings, and the picture through each below: the static twin of both sliders.

    For several thresholds give them and one setting: `soft_to_hard_strip(picture, mask, 1, (0.1, 0.3, 0.5, 0.7, 0.9))`.
    """
    picture, name = as_picture(picture), "hardness" if np.ndim(threshold) == 0 else "threshold"
    settings, thresholds = np.broadcast_arrays(np.atleast_1d(settings), threshold)
    side = (WIDTH - 1.1) / len(settings) * picture.shape[0] / picture.shape[1]
    figure, axes = new_figure(2 * side + 0.5, 2, len(settings))
    words = []
    for (above, below), hardness, limit in zip(axes.T, settings.tolist(), thresholds.tolist(), strict=True):
        hardened = _hardened(mask, hardness, limit)
        image = overlay(above, picture, hardened, heat=True)
        overlay(below, picture, hardened)
        above.set_title(f"{hardness if name == 'hardness' else limit:g}")
        words.append(f"{hardened.mean():.2f} at {above.get_title()}")
    axes[0, 0].set_title(f"{name} {axes[0, 0].get_title()}")
    colourbar(figure, image, axes)
    return described(figure, f"The mean of the mask by {name}: {', '.join(words)}.")


@in_house_style
def layers(picture: Any, result: Any, index: int = 0) -> Drawing:
    """Draw the gate of each hidden state h_0 … h_{L+1} of image `index` alone; below it the product of all up to it."""
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
            image = overlay(ax, picture, gate, heat=True, edge=min(0.5, 2 / len(gate)))
            ax.set_ylabel("" if i % across else label)
            axes.append(ax)
    colourbar(figure, image, axes)
    means = ", ".join(f"h_{i} {mean:.2f}" for i, mean in enumerate(gates.mean((1, 2))))
    return described(
        figure, f"The mean gate of each hidden state alone: {means}; of the product of all {products[-1].mean():.2f}."
    )


@in_house_style
def history(history: Any) -> Drawing:
    """Draw what `fit` recorded: KL with its bound ε, the share of patches kept and the multiplier α, against the step.

    Pale points are single steps, lines a running median over a twentieth of them. The axis of KL is linear up to ε and
    logarithmic above.
    """
    step, eps = as_array(history.step), float(history.eps)
    figure, axes = new_figure(3.0, 1, 3)
    figure.get_layout_engine().set(w_pad=0.12)
    words = []
    panels = (("kl", "KL (nats)", BLUE), ("kept", "share of patches kept", GREEN), ("alpha", "multiplier α", ORANGE))
    for ax, (name, label, colour) in zip(axes.flat, panels, strict=True):
        values = pd.Series(as_array(getattr(history, name)), dtype=float)
        ax.plot(step, values, ".", color=colour, markersize=4, alpha=0.3, markeredgewidth=0)
        middle = values.rolling(len(step) // 20 + 1, center=True, min_periods=1).median()
        ax.plot(step, middle, color=colour, linewidth=2)
        ax.set(xlabel="training step", ylabel=label)
        ax.tick_params(labelsize=11)  # said outright, or matplotlib asks the reader's settings how many ticks have room
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        words += [f"{label} from {middle.iloc[0]:.2f} to {middle.iloc[-1]:.2f}"] if len(step) else []
    axes[0, 0].axhline(eps, color="black", linestyle="--", linewidth=1.5, label=f"ε = {eps:g}")
    axes[0, 0].set_yscale("symlog", linthresh=max(eps, 1e-3))
    axes[0, 0].legend(loc="upper right")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 1].set_ylim(-0.02, 1.02)
    axes[0, 2].set_ylim(bottom=0)
    return described(figure, f"Running medians over {len(step)} recorded steps, with ε = {eps:g}: {'; '.join(words)}.")


@in_house_style
def probabilities(logits_before: Any, logits_after: Any, names: Sequence[str], most: int = 10) -> Drawing:
    """Draw one image's class distribution, on the whole image and on the kept patches alone, as pairs of bars.

    logits (classes,) or (1, classes). With more than `most` classes the likeliest are shown and the rest is summed up.
    """
    pair = np.stack([_softmax(logits).reshape(-1) for logits in (logits_before, logits_after)])  # (2, classes)
    if pair.shape[1] != len(names):
        raise ValueError(f"There are {pair.shape[1]} logits but {len(names)} names; pass the logits of one image.")
    shown = np.sort(np.argsort(-pair.max(0), kind="stable")[:most])
    labels, shares = [_short(names[i]) for i in shown], pair[:, shown]
    if rest := len(names) - len(shown):
        labels, shares = [*labels, f"the other {rest}"], np.c_[shares, 1 - shares.sum(1)]
    figure, axes = new_figure(0.48 * len(labels) + 1.2, 1, 1)
    ax, places = axes[0, 0], np.arange(len(labels))
    looks = ((-0.2, BLUE, "whole image"), (0.2, ORANGE, "kept patches alone"))
    for share, (shift, colour, label) in zip(shares, looks, strict=True):
        bars = ax.barh(places + shift, share, height=0.38, color=colour, label=label)
        ax.bar_label(bars, fmt="%.2f", padding=4, fontsize=11)
    ax.set(yticks=places, yticklabels=labels, xlim=(0, 1.1), xticks=np.linspace(0, 1, 5), xlabel="probability")
    ax.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=2)
    return described(
        figure, f"Of the whole image the ViT {_says(pair[0], names)}; of the kept patches alone it {_says(pair[1], names)}."
    )


def _hardened(mask: Any, hardness: float, threshold: float) -> ndarray:
    mask = harden(mask, hardness, threshold)
    return mask > 0.5 if hardness == 1 else mask  # a bool mask is drawn with an outline


def _softmax(logits: Any) -> ndarray:
    logits = as_array(logits).astype(float)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def _says(p: ndarray, names: Sequence[str]) -> str:
    return f"says {_short(names[p.argmax()])} ({p.max():.2f})"


def _short(name: Any) -> str:
    """A class name fit for a small panel; ImageNet's names list synonyms after a comma."""
    return textwrap.shorten(str(name).split(",")[0], 24, placeholder=" …")


def _wrap(text: str, inches: float) -> str:
    width = max(int(inches / 0.096), 8)  # a character of 12 points is about 0.096 inches wide
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())
