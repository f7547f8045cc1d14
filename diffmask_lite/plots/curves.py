"""Numbers: what training did, and the class probabilities of one image before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from .canvas import BLUE, GREEN, ORANGE, Drawing, as_array, as_p, described, in_house_style, new_figure, says, short


@in_house_style
def history(history: Any) -> Drawing:
    """Draw what `fit` recorded: KL with its bound ε, the share of patches kept and the multiplier α, against the step.

    Of KL and share, pale points are single steps, lines a running median over a twentieth of them. The axis of KL is linear up
    to ε and logarithmic above. Each depth k, of which a step draws one, has a multiplier of its own: a line from the step where
    the depth was first drawn.
    """
    step, eps = as_array(history.step), float(history.eps)
    figure, axes = new_figure(3.0, 1, 3)
    figure.get_layout_engine().set(w_pad=0.12)
    words = []
    panels = (("kl", "KL (nats)", BLUE), ("kept", "share of patches kept", GREEN), ("alpha", "multiplier α", ORANGE))
    for ax, (name, label, colour) in zip(axes.flat, panels, strict=True):
        values = pd.Series(as_array(getattr(history, name)), dtype=float)
        middle = values.rolling(len(step) // 20 + 1, center=True, min_periods=1).median()
        if name == "alpha":
            ends = _by_depth(ax, step, values, as_array(history.layer))
        else:
            ax.plot(step, values, ".", color=colour, markersize=4, alpha=0.3, markeredgewidth=0)
            ax.plot(step, middle, color=colour, linewidth=2)
        ax.set(xlabel="training step", ylabel=label)
        ax.tick_params(labelsize=11)  # said outright, or matplotlib asks the reader's settings how many ticks have room
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        if name == "alpha":
            words += [f"{label} at the end {', '.join(f'{last:.2f} for k = {k}' for k, last in ends.items())}"] if ends else []
        elif len(step):
            asked = not middle.isna().all()
            words.append(f"{label} from {middle.iloc[0]:.2f} to {middle.iloc[-1]:.2f}" if asked else f"{label} not recorded")
    axes[0, 0].axhline(eps, color="black", linestyle="--", linewidth=1.5, label=f"ε = {eps:g}")
    axes[0, 0].set_yscale("symlog", linthresh=max(eps, 1e-3))
    axes[0, 0].legend(loc="upper right")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 1].set_ylim(-0.02, 1.02)
    axes[0, 2].set_ylim(bottom=0)
    return described(figure, f"Running medians over {len(step)} recorded steps, with ε = {eps:g}: {'; '.join(words)}.")


def _by_depth(ax: Axes, step: ndarray, alpha: pd.Series, layer: ndarray) -> dict[int, float]:
    """Draw the multiplier of each depth as a line, pale for the first to dark for the last; return where the two end."""
    depths = np.unique(layer)
    for depth, shade in zip(depths, colormaps["Oranges"](np.linspace(0.35, 1, len(depths))), strict=True):
        label = f"k = {depth}" if depth in depths[[0, -1]] else None
        ax.plot(step[layer == depth], alpha[layer == depth], color=shade, linewidth=2, label=label)
    if len(depths) > 1:
        ax.legend(loc="upper right")
    return {int(k): alpha[layer == k].iloc[-1] for k in depths[[0, -1]]} if len(depths) and alpha.notna().any() else {}


@in_house_style
def probabilities(
    logits_before: Any, logits_after: Any, names: Sequence[str], most: int = 10, multilabel: bool = False
) -> Drawing:
    """Draw one image's class distribution, on the whole image and on the kept patches alone, as pairs of bars.

    logits (classes,) or (1, classes). With more than `most` classes the likeliest are shown and the rest is summed up.
    multilabel: each logit is of a label on its own; the rest is then left out.
    """
    pair = np.stack([as_p(logits, multilabel).reshape(-1) for logits in (logits_before, logits_after)])  # (2, classes)
    if pair.shape[1] != len(names):
        raise ValueError(f"There are {pair.shape[1]} logits but {len(names)} names; pass the logits of one image.")
    shown = np.sort(np.argsort(-pair.max(0), kind="stable")[:most])
    labels, shares = [short(names[i]) for i in shown], pair[:, shown]
    if (rest := len(names) - len(shown)) and not multilabel:
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
    before, after = (says(p, names, multilabel) for p in pair)
    return described(figure, f"Of the whole image the ViT {before}; of the kept patches alone it {after}.")
