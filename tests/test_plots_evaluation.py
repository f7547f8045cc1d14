"""Figures of evaluations draw what they were given."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex

from diffmask_lite import plots
from diffmask_lite.plots.canvas import VERMILION
from figures import assert_readable

PICTURE = torch.rand(48, 48, 3, generator=torch.Generator().manual_seed(0))
NAMES = ["diffmask", "gradient_attention", "integrated_gradients", "rollout", "random", "centre"]
MAPS = {name: torch.rand(8, 8, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(NAMES)}
CORNER = np.arange(64).reshape(8, 8) < 4  # the first four patches of the first row
ORDERS = {"MoRF": torch.tensor([4, 0, 8, 1, 2, 3, 5, 6, 7]), "LeRF": torch.tensor([7, 6, 5, 3, 2, 1, 8, 0, 4])}
STEPS = {"MoRF": np.linspace(1, 0, 10), "LeRF": np.linspace(1, 0.1, 10) ** 0.1}
SHARES = np.linspace(0, 1, 5)
CURVES = pd.DataFrame(
    [
        {"method": name, "order": order, "share": share, "p": (1 - share) ** (place + 1 + 6 * (order == "morf")), "image": 0}
        for place, name in enumerate(NAMES)
        for order in ("morf", "lerf")
        for share in SHARES
    ]
)
MANY = ["diffmask", "diffmask, hard", *(f"a_method_with_a_name_{i}" for i in range(10)), "random", "centre"]
TABLE = pd.DataFrame({"method": MANY, "mean": np.linspace(0.4, -0.1, 14)}).assign(
    low=lambda t: t["mean"] - 0.03, high=lambda t: t["mean"] + 0.05
)
STAGES = ["trained", "head", *(f"block {i}" for i in range(6, 0, -1)), "embedding"]
FORGOTTEN = pd.DataFrame(
    [
        {"method": name, "stage": stage, "image": i, "value": 1 - k * s / 10 + 0.01 * i}
        for k, name in enumerate(NAMES[:4])
        for s, stage in enumerate(STAGES)
        for i in (-1, 1)
    ]
)
FIGURES = {
    "ranked_maps": lambda: plots.ranked_maps(PICTURE, MAPS),
    "ranked_maps, one": lambda: plots.ranked_maps(PICTURE, {"rollout": MAPS["rollout"]}, columns=2),
    "ranked_maps, outlined": lambda: plots.ranked_maps(PICTURE, dict(list(MAPS.items())[:3]), outlined={"picture": CORNER}),
    "ranked_maps, thirteen": lambda: plots.ranked_maps(PICTURE, {f"leave_one_out {i}": MAPS["random"] for i in range(13)}),
    "removal_steps": lambda: plots.removal_steps(PICTURE, ORDERS, STEPS),
    "removal_steps, one": lambda: plots.removal_steps(PICTURE, {"MoRF": ORDERS["MoRF"]}, STEPS),
    "removal_curves": lambda: plots.removal_curves(CURVES, NAMES),
    "removal_curves, two": lambda: plots.removal_curves(CURVES, NAMES[:2], "tokens dropped"),
    "forest": lambda: plots.forest({"SRG ↑": TABLE}),
    "forest, three": lambda: plots.forest({"AUROC ↑": TABLE, "SRG, mean patch ↑": TABLE, "SRG, dropped ↑": TABLE[3:]}),
    "forgetting": lambda: plots.forgetting(FORGOTTEN),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_figure_is_readable(make):
    assert_readable(make)


def test_ranked_maps_draws_ranks_and_ties_share_theirs():
    figure = plots.ranked_maps(PICTURE, {"a": torch.tensor([[5.0, 7.0], [5.0, 900.0]]), "b": torch.zeros(2, 2)}, columns=3)
    drawn = [ax.images[-1].get_array() for ax in figure.axes if len(ax.images) == 2]  # a faint picture, and ranks over it
    np.testing.assert_allclose(drawn[0], [[1 / 6, 2 / 3], [1 / 6, 1]])
    np.testing.assert_allclose(drawn[1], 0.5)


def test_ranked_maps_outlines_the_patches_given_on_the_map_named():
    figure = plots.ranked_maps(PICTURE, {name: MAPS[name] for name in NAMES[:2]}, outlined={NAMES[1]: CORNER})
    around = [[lines for lines in ax.collections if len(lines.get_segments()) == 10] for ax in figure.axes[:3]]
    assert [len(lines) for lines in around] == [0, 0, 2]  # 4 above, 4 below, 2 at the ends; black, and white upon it
    corners = np.concatenate(around[2][0].get_segments())
    np.testing.assert_array_equal([corners.min(0), corners.max(0)], [[0, 0], [24, 6]])  # x, y in pixels


def test_ranked_maps_refuse_an_outline_without_a_map():
    with pytest.raises(ValueError, match=r"no map \['rolout'\]"):
        plots.ranked_maps(PICTURE, {"rollout": MAPS["rollout"]}, outlined={"rolout": CORNER})


def test_removal_steps_takes_patches_away_in_the_order_given():
    figure = plots.removal_steps(torch.ones(3, 3, 3), ORDERS, STEPS)
    first = figure.axes[:10]  # MoRF; a removed patch is grey
    for gone, ax in enumerate(first):
        grey = np.asarray(ax.images[0].get_array())[..., 0] == 0.5
        assert set(np.flatnonzero(grey.ravel())) == set(ORDERS["MoRF"][:gone].tolist())
        assert ax.get_xlabel() == f"{STEPS['MoRF'][gone]:.2f}"


def test_removal_curves_average_and_tell_their_area():
    two = pd.concat([CURVES, CURVES.assign(image=1, p=0.0)])
    left, right = plots.removal_curves(two, NAMES[:1]).axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), (1 - SHARES) ** 7 / 2)
    np.testing.assert_allclose(right.lines[0].get_ydata(), (1 - SHARES) / 2)
    assert "diffmask has area 0.08 and 0.25" in plots.alt_text(plots.removal_curves(two, NAMES[:1]))


def test_removal_curves_say_what_is_removed():
    assert {ax.get_xlabel() for ax in plots.removal_curves(CURVES, NAMES[:1]).axes} == {"share of patches removed"}
    assert {ax.get_xlabel() for ax in plots.removal_curves(CURVES, NAMES[:1], unit="pixels").axes} == {
        "share of pixels removed"
    }


def test_removal_curves_refuse_two_removals_in_one_mean():
    two = pd.concat([CURVES.assign(removal="drop"), CURVES.assign(removal="mean")])
    with pytest.raises(ValueError, match="several removals"):
        plots.removal_curves(two, NAMES)


def test_too_many_lines_are_refused():
    with pytest.raises(ValueError, match="7 methods"):
        plots.removal_curves(CURVES, [*NAMES, "one more"])
    with pytest.raises(ValueError, match="7 methods"):
        plots.forgetting(pd.concat([FORGOTTEN.assign(method=str(i)) for i in range(7)]))


def test_forest_sorts_by_one_panel_and_draws_whiskers():
    turned = TABLE.assign(mean=-TABLE["mean"], low=-TABLE.high, high=-TABLE.low)
    left, right = plots.forest({"a": TABLE, "b": turned}, sort="b").axes
    assert [text.get_text() for text in left.get_yticklabels()] == MANY  # highest of b above, that is the last of MANY
    dots = [drawn for drawn in left.lines if drawn.get_marker() == "D"]
    assert [to_hex(dot.get_color()) for dot in dots] == [to_hex(VERMILION).lower()] * 2
    np.testing.assert_allclose(left.lines[0].get_xdata(), [TABLE.low[0], TABLE.high[0]])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [-TABLE.high[0], -TABLE.low[0]])


def test_forest_leaves_out_a_method_that_a_panel_lacks():
    left, right = plots.forest({"a": TABLE, "b": TABLE[3:]}).axes
    assert len(left.lines) == 2 * 14 + 1 and len(right.lines) == 2 * 11 + 1


def test_forgetting_keeps_the_order_of_stages_and_averages_images():
    [ax] = plots.forgetting(FORGOTTEN).axes
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 1 - np.arange(9) / 10)
    assert ax.get_xticklabels()[0].get_text() == "trained" and ax.get_xticklabels()[-1].get_text() == "embedding"


def test_a_grid_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match="12 patches"):
        plots.removal_steps(PICTURE, {"MoRF": torch.arange(12)}, {"MoRF": np.ones(13)})
