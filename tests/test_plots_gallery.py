"""Figures of many masks: what they draw is what they were given, they are readable, and smoothing is measured truly."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from torch.nn import functional as F

from diffmask_lite import plots
from diffmask_lite.plots.canvas import VERMILION
from diffmask_lite.plots.gallery import WAYS
from figures import assert_readable
from test_plots import NAMES, data, outline

PICTURES, RESULT, CHECK = data(images=6)
PICTURES10, RESULT10, CHECK10 = data(h=8, w=8, patch=4, images=12, states=8)
WIDE = data(h=2, w=5, images=3, states=14)


def checks_of(products, agree=True):
    keep = products > 0.5
    return SimpleNamespace(
        kl=torch.linspace(0.02, 3, len(keep)),
        agree=torch.full((len(keep),), agree),
        kept=keep.flatten(1).float().mean(1),
        logits=torch.zeros(len(keep), 4),
    )


def place(kept=5, **changes):
    keep = torch.arange(16).view(4, 4) < kept
    at = {"keep": keep, "before": torch.tensor([0.0, 1, 2, 5]), "after": torch.tensor([3.0, 1, 2, 0]), "kl": 1.234, "rival": 7}
    return SimpleNamespace(**at | changes)


PRODUCTS = RESULT.layers[0].cumprod(0)
KL = np.r_[0, np.linspace(0.3, 0.01, 10)[::-1], 2, 3]  # of 12, 11, … 0 patches
CHANCE = {2: 1.0, 9: 0.2}


LONG = ["automobile"] * 4  # "not automobile" is wider than a picture, and must not be cut off at the border
OTHER = (RESULT.logits[:4].argmax(1) + 1) % 4  # every answer is wrong


def first(part):
    return SimpleNamespace(**{name: value[:4] for name, value in vars(part).items() if name != "threshold"})


def last(part):
    return SimpleNamespace(**{name: value[5:] for name, value in vars(part).items() if name != "threshold"})


FIGURES = {
    "ways_to_draw": lambda: plots.ways_to_draw(PICTURES[0], {"trained": RESULT.mask[0], "untrained": RESULT.mask[1] * 0 + 0.9}),
    "ways_to_draw, one": lambda: plots.ways_to_draw(WIDE[0][0], {"a mask": WIDE[1].mask[0]}),
    "depths": lambda: plots.depths(PICTURES[0], PRODUCTS, checks_of(PRODUCTS)),
    "depths, eight": lambda: plots.depths(
        PICTURES10[0], RESULT10.layers[0].cumprod(0), checks_of(RESULT10.layers[0].cumprod(0), False)
    ),
    "seed_masks": lambda: plots.seed_masks(PICTURES[:4], {f"seed {s}, 500 steps": RESULT.mask[:4] for s in range(3)}),
    "seed_masks, one": lambda: plots.seed_masks(WIDE[0][:1], {"seed 0": WIDE[1].mask[:1]}),
    "gallery": lambda: plots.gallery(PICTURES, RESULT, CHECK, NAMES),
    "gallery, twelve": lambda: plots.gallery(PICTURES10, RESULT10, CHECK10, NAMES, truth=[3, 1] * 6),
    "gallery, long names": lambda: plots.gallery(PICTURES[:4], first(RESULT), first(CHECK), LONG, truth=OTHER),
    "gallery, one": lambda: plots.gallery(PICTURES[5:], last(RESULT), last(CHECK), NAMES),
    "board": lambda: plots.board(PICTURES[0], place(), NAMES, "The answer is lost: “cat”. " * 5),
    "board, empty": lambda: plots.board(PICTURES[0], place(0), NAMES),
    "board, full": lambda: plots.board(PICTURES[0], place(16), NAMES),
    "race": lambda: plots.race(dict(cat=KL, rocket=KL), dict(cat=(7, 0.2), rocket=(3, 0.3)), dict(cat=CHANCE, rocket=CHANCE)),
}  # fmt: skip


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figure_is_readable_and_leaves_matplotlib_alone(draw):
    assert_readable(draw)


# ---- Smoothing ------------------------------------------------------------------------------------------------------

MASK = torch.rand(3, 4, generator=torch.Generator().manual_seed(1))


def test_bilinear_is_what_torch_does():
    ours = plots.smoothed(MASK, 24, 40, "bilinear")
    theirs = F.interpolate(MASK[None, None], size=(24, 40), mode="bilinear", align_corners=False)[0, 0]
    assert np.allclose(ours, theirs, atol=1e-6)


def test_patch_by_patch_repeats_and_averages_back():
    spread = plots.smoothed(MASK, 24, 40, "patch by patch")
    assert np.allclose(spread, MASK.repeat_interleave(8, 0).repeat_interleave(10, 1))


def test_gaussian_is_the_slow_sum_over_a_step():
    step = torch.tensor([[0.0, 1.0]])
    row = plots.smoothed(step, 20, 40, "Gaussian")[10]  # patches of 20 pixels, so a standard deviation of 10
    x = np.arange(40)
    far = np.arange(-200, 240)
    values = np.where(far < 20, 0.0, 1.0)
    slow = [(values * (w := np.exp(-((far - c) ** 2) / 200)) / w.sum()).sum() for c in x]
    assert np.allclose(row, slow, atol=2e-3)
    assert 0.4 < row[19] < 0.5 < row[20] < 0.6


def test_min_max_fills_the_range_and_a_constant_mask_does_not_divide_by_zero():
    spread = plots.smoothed(0.5 + 0.02 * MASK, 3, 4, "min–max")
    assert spread.min() == 0 and spread.max() == 1
    assert np.isfinite(plots.smoothed(torch.full((2, 2), 0.5), 4, 4, "min–max")).all()


def test_an_unknown_way_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'bicubic'.*'bilinear'"):
        plots.smoothed(MASK, 4, 4, "bicubic")


# ---- What is drawn is what was given --------------------------------------------------------------------------------


def test_ways_to_draw_keeps_one_colour_scale_and_draws_edges_in_the_honest_column_alone():
    figure = plots.ways_to_draw(PICTURES[0], {"one": RESULT.mask[0]})
    panels = figure.axes[: len(WAYS)]
    for ax, way in zip(panels, WAYS, strict=True):
        shown = ax.images[-1]
        assert shown.norm.vmin == 0 and shown.norm.vmax == 1
        size = shown.get_array().shape
        assert np.allclose(
            shown.get_array(), RESULT.mask[0] if way == WAYS[0] else plots.smoothed(RESULT.mask[0], *size, way), atol=1e-6
        )
    assert [ax.collections[0].get_linewidth()[0] > 0 for ax in panels] == [True, False, False, False]
    low, high = RESULT.mask[0].min(), RESULT.mask[0].max()
    assert panels[3].get_title() == f"min–max: {low:.2f} … {high:.2f}\n(not on the bar's scale)"


def test_depths_draw_products_and_outline_what_each_keeps():
    check = checks_of(PRODUCTS)
    check.agree[2] = False
    figure = plots.depths(PICTURES[0], PRODUCTS, check)
    above, below = figure.axes[:4], figure.axes[4:8]
    for k in range(4):
        assert np.allclose(above[k].images[-1].get_array(), PRODUCTS[k])
        assert below[k].get_xlabel().startswith(f"{(PRODUCTS[k] > 0.5).sum()} kept\nKL {check.kl[k]:.2f}")
        assert ("≠" in below[k].get_xlabel()) == (k == 2)
    assert len(outline(below[0])) > 0
    with pytest.raises(ValueError, match="other masks"):
        plots.depths(PICTURES[0], 1 - PRODUCTS, check)


def test_seed_masks_draw_each_mask_in_its_place():
    masks = {"one": RESULT.mask[:2], "two": 1 - RESULT.mask[:2]}
    figure = plots.seed_masks(PICTURES[:2], masks)
    drawn = [ax.images[-1].get_array() for ax in figure.axes[2:6]]
    for got, wanted in zip(drawn, [*masks["one"], *masks["two"]], strict=True):
        assert np.allclose(got, wanted)
    assert np.allclose(figure.axes[1].images[-1].get_array(), PICTURES[1])
    counts = [f"{(mask > 0.5).sum()} kept" for mask in [*masks["one"], *masks["two"]]]
    assert [ax.get_title() for ax in figure.axes[2:6]] == counts


def test_gallery_marks_a_changed_answer_by_colour_frame_and_sign():
    figure = plots.gallery(PICTURES, RESULT, CHECK, NAMES, truth=[3, 3, 3, 3, 3, 2])
    right = figure.axes[1 : 2 * len(PICTURES) : 2]
    for i, ax in enumerate(right):
        changed = i == 5  # see `data`: of the last image's kept patches the ViT says airplane
        assert ("≠" in ax.get_title()) == changed
        assert (to_hex(ax.title.get_color()).upper() == VERMILION) == changed
        assert bool(ax.patches) == changed
        assert f"({RESULT.keep[i].sum()})" in ax.get_title()
    left = figure.axes[0 : 2 * len(PICTURES) : 2]
    assert [ax.get_title().startswith("is bird\nnot cat") for ax in left] == [False] * 5 + [True]
    assert "changed for 1, and was wrong before for 1" in plots.alt_text(figure)


def test_gallery_refuses_a_check_of_other_masks():
    wrong = SimpleNamespace(**vars(CHECK) | {"kept": CHECK.kept * 0.5})
    with pytest.raises(ValueError, match="another mask"):
        plots.gallery(PICTURES, RESULT, wrong, NAMES)


def test_board_says_what_the_position_is():
    figure = plots.board(PICTURES[0], place(), NAMES, most=2)
    left, right = figure.axes
    assert left.get_title() == "5 of 16 patches; DiffMask kept 7"
    for ticks in (left.get_xticklabels(), left.get_yticklabels()):
        assert [t.get_text() for t in ticks] == ["1", "2", "3", "4"]
    side = PICTURES[0].shape[0]
    assert np.allclose(left.get_yticks(), (np.arange(4) + 0.5) * side / 4)  # the middle of each patch
    assert [t.get_text() for t in right.get_yticklabels()] == ["cat", "airplane"]  # the likeliest of either
    p = torch.stack([place().before, place().after]).softmax(-1)
    widths = [bar.get_width() for bar in right.patches]
    assert np.allclose(widths, [p[0, 3], p[0, 0], p[1, 3], p[1, 0]])
    assert "cat" in plots.alt_text(figure) and "airplane" in plots.alt_text(figure)


def test_race_draws_the_path_against_patches_kept():
    figure = FIGURES["race"]()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    x, y = lines["greedy"].get_data()
    assert x[0] == 12 and x[-1] == 1 and np.allclose(y, KL[:-1])
    assert lines["DiffMask"].get_data()[0] == 7
    assert {(ax.get_yscale(), *ax.get_ylim()) for ax in figure.axes} == {("log", 1e-3, 6.0)}  # one for all panels
    least = (12 - np.arange(13))[KL <= 0.2].min()
    assert f"cat: DiffMask 7 patches with KL 0.20, greedy {least} with no more" in plots.alt_text(figure)
