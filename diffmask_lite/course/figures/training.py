"""What training does: descent and ascent on a toy, masks while they are learned, runs compared, and what ε buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ...plots.canvas import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILION,
    WIDTH,
    Drawing,
    as_array,
    colourbar,
    described,
    draw_mask,
    in_house_style,
    new_figure,
)

LOOKS = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (ORANGE, ":"))  # told apart without colour too


@in_house_style
def descent(paths: Mapping[str, Any], best: Sequence[float] | None = None) -> Drawing:
    """Draw runs on the toy `minimise x² + 2y² subject to x + y ≥ 1`: their way over the plane, and α against the step.

    paths: name -> (steps, 3), the columns x, y and α. best: the solution (x, y), marked with a star.
    """
    figure, (left, right) = new_figure(3.6, 1, 2)[0], (None, None)
    left, right = figure.axes
    x, y = np.meshgrid(np.linspace(-0.15, 1.15, 200), np.linspace(-0.15, 1.15, 200))
    left.contour(x, y, x**2 + 2 * y**2, levels=8, colors="0.75", linewidths=1)
    left.fill_between([-0.15, 1.15], [1.15, -0.15], -0.15, color="0.85", alpha=0.6)
    left.text(0.14, -0.09, "not allowed: x + y < 1", fontsize=11)
    words = []
    for (name, path), (colour, line) in zip(paths.items(), LOOKS, strict=False):
        x, y, alpha = as_array(path).T
        left.plot(x, y, line, color=colour, linewidth=2, label=name)
        left.plot(x[-1], y[-1], "o", color=colour)
        right.plot(alpha, line, color=colour, linewidth=2)
        words.append(f"{name} ends at x = {x[-1]:.2f}, y = {y[-1]:.2f}, α = {alpha[-1]:.2f}")
    if best is not None:
        left.plot(*best, "*", color="black", markersize=14, label="solution", zorder=0)
    left.set(xlim=(-0.15, 1.15), ylim=(-0.15, 1.15), xlabel="x", ylabel="y", aspect="equal")
    right.set(xlabel="step", ylabel="multiplier α")
    figure.legend(loc="outside upper center", ncols=len(paths) + 1)
    return described(figure, f"Two variables and one constraint: {'; '.join(words)}.")


@in_house_style
def masks_by_step(pictures: Any, masks: Any, steps: Sequence[Any]) -> Drawing:
    """Draw how masks are learned: a row a grid, its picture first, then its mask (white: kept) after each number of steps.

    pictures (B, H, W, 3) in [0, 1], masks (S, B, h, w) in [0, 1], steps: S titles.
    """
    masks = as_array(masks)
    side = (WIDTH - 1.2) / (len(steps) + 1)
    figure, axes = new_figure(side * len(pictures) + 0.4, len(pictures), len(steps) + 1)
    for row, picture in enumerate(as_array(pictures)):
        draw_mask(axes[row, 0], picture, np.ones(masks.shape[2:]))
        for column in range(len(steps)):
            image = draw_mask(axes[row, column + 1], picture, masks[column, row].astype(float), heat=True, cmap="gray")
    axes[0, 0].set_title("picture")
    for ax, step in zip(axes[0, 1:], steps, strict=True):
        ax.set_title(str(step))
    colourbar(figure, image, axes)
    means = ", ".join(f"{mask.mean():.2f} ({step})" for mask, step in zip(masks, steps, strict=True))
    return described(figure, f"Masks of {len(pictures)} images while they are learned; their mean is {means}.")


@in_house_style
def runs(histories: Mapping[str, pd.DataFrame], eps: float | None = None) -> Drawing:
    """Compare trainings: KL on the left, the share of patches kept on the right, against the step, a line a run.

    histories: name of the run -> table with the columns step, kl, kept, as `History.frame` gives it. Lines are running means
    over a twentieth of the steps. KL (nats) is on an axis that is linear below 0.1 and logarithmic above.
    """
    figure, axes = new_figure(3.2, 1, 2)
    words = []
    for (name, frame), (colour, line) in zip(histories.items(), LOOKS, strict=False):
        for ax, column in zip(axes.flat, ("kl", "kept"), strict=True):
            ax.plot(frame.step, _smooth(frame[column]), line, color=colour, linewidth=2.5, label=name)
        last = frame[["kl", "kept"]].tail(len(frame) // 20 + 1).median()
        words.append(f"{name}: KL {last.kl:.2f}, kept {last.kept:.2f}")
    left, right = axes.flat
    left.set_yscale("symlog", linthresh=0.1)
    left.set(ylim=(0, 20), yticks=[0, 0.1, 1, 10], yticklabels=["0", "0.1", "1", "10"], ylabel="KL (nats)")
    left.minorticks_off()
    right.set(ylim=(-0.03, 1.03), ylabel="share of patches kept")
    if eps is not None:
        left.axhline(eps, color="black", linewidth=1, linestyle=(0, (1, 2)))
        left.annotate("ε", (1, eps), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", va="center")
    for ax in axes.flat:
        ax.set_xlabel("training step")
        ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(histories))
    return described(figure, f"At the end of training: {'; '.join(words)}.")


@in_house_style
def trade_off(table: pd.DataFrame, truth: float | None = None) -> Drawing:
    """Draw what the bound ε buys: KL reached and share of patches kept of hard masks, against ε (logarithmic).

    table: columns task, eps, kl (nats), kept, one row a training. truth: share of patches in the true masks, a dotted line.
    """
    figure, axes = new_figure(3.4, 1, 2)
    words = []
    for (task, rows), (colour, line) in zip(table.groupby("task", sort=False), LOOKS, strict=False):
        for ax, column in zip(axes.flat, ("kl", "kept"), strict=True):
            middle = rows.groupby("eps")[column].mean()
            ax.plot(rows.eps, rows[column], "o", color=colour, markersize=5, alpha=0.5, markeredgewidth=0)
            ax.plot(middle.index, middle, line, color=colour, linewidth=2, label=task)
        ends = rows.groupby("eps").kept.mean()
        words.append(f"{task} from {ends.iloc[0]:.2f} of the patches at ε = {ends.index[0]:g} to {ends.iloc[-1]:.2f}")
        words[-1] += f" at {ends.index[-1]:g}"
    ends = np.array([table.eps.min(), table.eps.max()])
    axes[0, 0].plot(ends, ends, color="black", linewidth=1, linestyle=(0, (1, 2)), label="KL = ε")
    axes[0, 0].set(xscale="log", yscale="log", xlabel="ε (nats)", ylabel="KL of hard masks (nats)")
    axes[0, 1].set(xscale="log", ylim=(0, 1), xlabel="ε (nats)", ylabel="share of patches kept")
    axes[0, 1].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if truth is not None:
        axes[0, 1].axhline(truth, color="black", linewidth=1, linestyle=(0, (1, 2)), label="truth")
    for ax in axes.flat:
        _plain_log(ax, sorted(table.eps.unique()))
        ax.legend(loc="best")
    return described(figure, f"What is kept, by the KL allowed: {'; '.join(words)}.")


def _plain_log(ax: Axes, ticks: Sequence[float]) -> None:
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()


def _smooth(values: pd.Series) -> pd.Series:
    return values.rolling(len(values) // 20 + 1, center=True, min_periods=1).mean()
