"""Figures of trainings draw what they were given."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from diffmask_lite import plots
from diffmask_lite.plots.canvas import BLUE, VERMILION
from figures import assert_readable

WAY = torch.stack([torch.linspace(1, 2 / 3, 30), torch.linspace(1, 1 / 3, 30), torch.linspace(0, 4 / 3, 30)], 1)
MASKS = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
PICTURES = torch.rand(3, 48, 48, 3, generator=torch.Generator().manual_seed(1))


def run(kl, kept, steps=400):
    return pd.DataFrame({"step": range(0, steps, 5), "kl": kl, "kept": kept})


SOUND, BROKEN = run(0.02, 0.5), run(9.4, 0.0)
SWEEP = pd.DataFrame(
    [("grid", e, 0.001, 0.5) for e in (0.05, 0.2, 0.8)]
    + [("CIFAR-10", e, 1.1 * e, k) for e, k in ((0.05, 0.9), (0.2, 0.6), (0.2, 0.4), (0.8, 0.2))],
    columns=["task", "eps", "kl", "kept"],
)
FIGURES = {
    "descent": lambda: plots.descent({"α ascends": WAY, "α descends": WAY * 0.5}, (2 / 3, 1 / 3)),
    "masks_by_step": lambda: plots.masks_by_step(PICTURES, MASKS, ["untrained", "50 steps", "100", "400"]),
    "masks_by_step, one": lambda: plots.masks_by_step(PICTURES[:1], MASKS[:2, :1], ["untrained", "400 steps"]),
    "runs": lambda: plots.runs({"as published": BROKEN, "mended": SOUND}, eps=0.1),
    "runs, four": lambda: plots.runs({f"a run with a name {i}": BROKEN for i in range(4)}),
    "trade_off": lambda: plots.trade_off(SWEEP, 0.5),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_figure_is_readable(make):
    assert_readable(make)


def line(ax, colour):
    return next(drawn for drawn in ax.lines if to_hex(drawn.get_color()) == to_hex(colour))


def test_descent_draws_the_way_and_the_price():
    plane, price = plots.descent({"up": WAY}).axes
    np.testing.assert_allclose(line(plane, BLUE).get_xydata(), WAY[:, :2])
    np.testing.assert_allclose(line(price, BLUE).get_ydata(), WAY[:, 2])


def test_masks_by_step_puts_steps_in_columns_and_images_in_rows():
    figure = plots.masks_by_step(PICTURES, MASKS, list("abcd"))
    drawn = np.array([np.asarray(ax.images[-1].get_array()) for ax in figure.axes if ax.images], dtype=object)
    panels = [ax for ax in figure.axes if len(ax.images) == 2]  # a faint picture and the mask over it
    assert len(panels) == 12 and len(drawn) >= 15
    for i, ax in enumerate(panels):
        np.testing.assert_allclose(ax.images[-1].get_array(), MASKS[i % 4, i // 4])


def test_runs_draws_each_run_on_both_sides_with_its_name():
    figure = plots.runs({"mended": SOUND, "broken": BROKEN}, eps=0.1)
    left, right = figure.axes
    assert line(left, VERMILION).get_ydata()[-1] == 9.4 and line(right, VERMILION).get_ydata()[-1] == 0
    assert line(left, BLUE).get_ydata()[-1] == 0.02 and line(right, BLUE).get_ydata()[-1] == 0.5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mended", "broken"]
    assert "broken: KL 9.40, kept 0.00" in plots.alt_text(figure)


def test_trade_off_averages_seeds_and_keeps_their_points():
    kl, kept = plots.trade_off(SWEEP).axes
    points = [drawn for drawn in kept.lines if drawn.get_marker() == "o"][1]
    assert len(points.get_ydata()) == 4
    middle = next(d for d in kept.lines if d.get_label() == "CIFAR-10")
    np.testing.assert_allclose(middle.get_ydata(), [0.9, 0.5, 0.2])
    assert to_hex(middle.get_color()) == to_hex(VERMILION) and kl.get_yscale() == "log"
