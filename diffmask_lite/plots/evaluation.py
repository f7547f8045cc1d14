"""Scores of attribution maps: maps by rank, patches removed one by one, removal curves, intervals, and forgotten weights.

Shapes: picture (H, W, 3) in [0, 1]; h × w is the patch grid and N = h·w. Tables are those of `faithfulness`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator

from ..faithfulness.curves import area
from ..faithfulness.ranking import midranks
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
    colourbar,
    described,
    draw_mask,
    in_house_style,
    new_figure,
    outline,
    wrap,
)

PURPLE = "#CC79A7"  # the fifth of Okabe and Ito's colours that the course uses
LOOKS = ((VERMILION, "-"), (BLUE, "--"), (GREEN, "-."), (ORANGE, (0, (5, 1))), (PURPLE, (0, (3, 1, 1, 1))), ("black", ":"))
BASELINES = ("random", "centre")
CURVES = {"morf": "MoRF: most relevant first ↓", "lerf": "LeRF: least relevant first ↑"}


@in_house_style
def ranked_maps(
    picture: Any, maps: Mapping[str, Any], columns: int = 4, outlined: Mapping[str, Any] | None = None, cmap: str = MAP
) -> Drawing:
    """Draw a picture, and its maps (h, w) by the rank of each patch within its map: 0 is the lowest, 1 the highest.

    Maps of different methods have no common scale, and removal curves use nothing but their order. Ties share their mean rank.
    outlined: patches to draw a line around, bool (h, w), by the name of their map, or by "picture".
    cmap: of the ranks; "gray" beside a picture that is itself blue and yellow.
    """
    picture, outlined = as_picture(picture), outlined or {}
    if stray := set(outlined) - {"picture", *maps}:
        raise ValueError(f'There is no map {sorted(stray)} to outline patches on; the maps are {sorted(maps)}, and "picture".')
    rows, side = -(-(len(maps) + 1) // columns), (WIDTH - 1.2) / columns
    figure, axes = new_figure((side * picture.shape[0] / picture.shape[1] + 0.35) * rows, rows, columns)
    draw_mask(axes.flat[0], picture, np.ones(as_array(next(iter(maps.values()))).shape))
    axes.flat[0].set_title("picture")
    for ax, name in zip(axes.flat, ("picture", *maps), strict=False):
        if name in outlined:
            outline(ax, outlined[name], picture.shape[:2], thickness=2)
    words = []
    for ax, (name, values) in zip(axes.flat[1:], maps.items(), strict=False):
        values = torch.as_tensor(as_array(values)).double()
        ranks = (midranks(values.flatten()) - 1).view(values.shape).numpy() / max(values.numel() - 1, 1)
        image = draw_mask(ax, picture, ranks, heat=True, cmap=cmap)
        ax.set_title(wrap(name, side))
        row, column = np.unravel_index(ranks.argmax(), ranks.shape)
        words.append(f"{name} highest in row {row + 1}, column {column + 1}")
    for ax in axes.flat[len(maps) + 1 :]:
        ax.set_visible(False)
    colourbar(figure, image, axes)
    figure.axes[-1].set_ylabel("rank of the patch")
    return described(figure, f"A picture and {len(maps)} maps of it by rank: {'; '.join(words)}.")


@in_house_style
def removal_curves(curves: pd.DataFrame, methods: Sequence[str], title: str = "", unit: str = "patches") -> Drawing:
    """Draw p of the predicted class against the share removed, mean over images and seeds: MoRF left, LeRF right.

    curves: columns method, order, share, p, as `Evaluation.curves` of one removal; a table of means does as well.
    unit: what is removed, "patches" or "pixels".
    """
    if len(methods) > len(LOOKS):
        raise ValueError(f"There are {len(methods)} methods, but only {len(LOOKS)} looks to tell them apart; draw fewer.")
    if "removal" in curves and curves["removal"].nunique() > 1:
        raise ValueError("These are curves of several removals; pick one, as in curves[curves.removal == 'drop'].")
    means = curves.groupby(["method", "order", "share"])["p"].mean()
    figure, axes = new_figure(3.9, 1, 2)
    words = []
    for name, (colour, line) in zip(methods, LOOKS, strict=False):
        areas = []
        for ax, order in zip(axes.flat, CURVES, strict=True):
            curve = means[name, order]
            ax.plot(curve.index, curve, linestyle=line, color=colour, linewidth=2.2, label=name)
            areas.append(float(area(curve.to_numpy()[:, None, None], curve.index.to_numpy())[0, 0]))
        words.append(f"{name} has area {areas[0]:.2f} and {areas[1]:.2f}")
    for ax, text in zip(axes.flat, CURVES.values(), strict=True):
        ax.set(title=text, xlabel=f"share of {unit} removed", ylim=(0, 1.02), xlim=(0, 1))
    axes[0, 0].set_ylabel("p of the predicted class")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(methods), 4), title=title or None)
    return described(figure, f"Removal curves, MoRF and LeRF: {'; '.join(words)}.")


@in_house_style
def forest(panels: Mapping[str, pd.DataFrame], sort: str | None = None, line: float | None = 0.0) -> Drawing:
    """Draw means with their intervals, a row a method and a panel a table: the columns method, mean, low, high.

    Rows go by the mean in the panel `sort`, by default the first; highest above. line: where a dotted line stands, or None.
    DiffMask's rows have diamonds, the baselines grey squares.
    """
    order = panels[sort or next(iter(panels))].sort_values("mean")["method"].tolist()
    figure, axes = new_figure(0.29 * len(order) + 0.9, 1, len(panels))
    words = []
    for ax, (title, table) in zip(axes.flat, panels.items(), strict=True):
        rows = table.set_index("method").reindex(order)
        for place, (name, row) in enumerate(rows.iterrows()):
            if np.isnan(row["mean"]):
                continue
            colour, marker = (VERMILION, "D") if name.startswith("diffmask") else (BLUE, "o")
            colour, marker = ("0.45", "s") if name in BASELINES else (colour, marker)
            ax.plot([row.low, row.high], [place, place], color=colour, linewidth=2)
            ax.plot(row["mean"], place, marker, color=colour, markersize=6)
        if line is not None:
            ax.axvline(line, color="black", linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        ax.set_yticks(range(len(order)), order if ax is axes[0, 0] else [""] * len(order))
        ax.set(title=title, ylim=(-0.7, len(order) - 0.3))
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.grid(axis="y", color="0.9")
        ax.set_axisbelow(True)
        words.append(f"{title}: {', '.join(f'{name} {mean:.2f}' for name, mean in rows['mean'].dropna()[::-1].items())}")
    return described(figure, f"Means with intervals. {'; '.join(words)}.")
