"""Figures of single lessons draw what they were given, readably, and leave matplotlib alone."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from torch.nn import functional as F

from diffmask_lite import gates, plots
from diffmask_lite.course import figures
from diffmask_lite.course.figures.drawing import WAYS
from diffmask_lite.course.figures.gates import STEM, TOP, _curve, below, gate_masses, gate_mean
from diffmask_lite.plots.canvas import BLUE, GREY, VERMILION
from figures import NAMES, assert_readable, data, outline, shown

PICTURES, RESULT, CHECK = data(images=4)
FINE, FINE_RESULT, _ = data(h=8, w=8, patch=4, images=1, states=8)
WIDE, WIDE_RESULT, _ = data(h=2, w=5, images=1, states=14)
PICTURE, MASK, WIDE_MASK = PICTURES[0], RESULT.mask[0], WIDE_RESULT.mask[0]
LONG = ["American Staffordshire terrier, pit bull"] * 4


def drawn(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def checks_of(products, agree=True):
    keep = products > 0.5
    agrees, kl = torch.full((len(keep),), agree), torch.linspace(0.02, 3, len(keep))
    return SimpleNamespace(kl=kl, agree=agrees, kept=keep.flatten(1).float().mean(1), logits=torch.zeros(len(keep), 4))


def place(kept=5):
    before, after = torch.tensor([0.0, 1, 2, 5]), torch.tensor([3.0, 1, 2, 0])
    return SimpleNamespace(keep=torch.arange(16).view(4, 4) < kept, before=before, after=after, kl=1.234, rival=7)


# Masks, depths, seeds and the game
PRODUCTS, EIGHT = RESULT.layers[0].cumprod(0), FINE_RESULT.layers[0].cumprod(0)
KL = np.r_[0, np.linspace(0.3, 0.01, 10)[::-1], 2, 3]  # of 12, 11, … 0 patches
CHANCE = {2: 1.0, 9: 0.2}
# Evaluations
ORDERS = {"MoRF": torch.tensor([4, 0, 8, 1, 2, 3, 5, 6, 7]), "LeRF": torch.tensor([7, 6, 5, 3, 2, 1, 8, 0, 4])}
STEPS = {"MoRF": np.linspace(1, 0, 10), "LeRF": np.linspace(1, 0.1, 10) ** 0.1}
LUCK = {"coins": 0.2, "astronaut": 1.37}
# Gates
PAPER, LOUIZOS = (0.2, -0.2, 1.0), (2 / 3, -0.1, 1.1)
SETTINGS = [(logit, *setting) for logit in (-3.0, 0.0, 2.0) for setting in (PAPER, LOUIZOS)]
X = np.geomspace(1, 100, 5)
LEARNING = torch.linspace(0.5, 0.99, 20)[:, None] ** torch.linspace(0.1, 5, MASK.numel())
# Inside a ViT
KEEP, NOISE, SIMILARITY = drawn(8, 8) > 0.5, drawn(32, 32, 3), torch.eye(64) * 2 - 1
ATTENTION = drawn(2, 4, 8, 8).flatten(2).softmax(-1).unflatten(-1, (8, 8))
ANSWERS = {way: torch.eye(4)[i % 4] * (i + 1) for i, way in enumerate(["whole", "noise", "mean", "zero", "drop"])}
SERIES = dict(zip(("one", "two", "three"), drawn(3, 7), strict=True))
# Trainings
WAY = torch.stack([torch.linspace(1, 2 / 3, 30), torch.linspace(1, 1 / 3, 30), torch.linspace(0, 4 / 3, 30)], 1)
LEARNED, SEEN = drawn(4, 3, 3, 3), drawn(3, 48, 48, 3)
SOUND, BROKEN = (pd.DataFrame({"step": range(0, 400, 5), "kl": kl, "kept": kept}) for kl, kept in ((0.02, 0.5), (9.4, 0.0)))
SWEEP = pd.DataFrame(
    [("grid", e, 0.001, 0.5) for e in (0.05, 0.2, 0.8)]
    + [("CIFAR-10", e, 1.1 * e, k) for e, k in ((0.05, 0.9), (0.2, 0.6), (0.2, 0.4), (0.8, 0.2))],
    columns=["task", "eps", "kl", "kept"],
)

FIGURES = {
    "soft_to_hard, soft": lambda: figures.soft_to_hard(PICTURE, MASK, 0),
    "soft_to_hard, between": lambda: figures.soft_to_hard(PICTURE, MASK, 0.5, words="so it says " * 20),
    "soft_to_hard, hard": lambda: figures.soft_to_hard(PICTURE, MASK, 1, words="The ViT says cat."),
    "threshold, least": lambda: figures.soft_to_hard(PICTURE, MASK, threshold=0),
    "threshold, greatest": lambda: figures.soft_to_hard(PICTURE, MASK, threshold=1),
    "soft_to_hard, wide": lambda: figures.soft_to_hard(WIDE[0], WIDE_MASK, 0.5),
    "strip": lambda: figures.soft_to_hard_strip(PICTURE, MASK),
    "strip of thresholds": lambda: figures.soft_to_hard_strip(WIDE[0], WIDE_MASK, 1, (0.1, 0.3, 0.5, 0.7, 0.9)),
    "ways_to_draw": lambda: figures.ways_to_draw(PICTURE, {"trained": MASK, "untrained": MASK * 0 + 0.9}),
    "ways_to_draw, one": lambda: figures.ways_to_draw(WIDE[0], {"a mask": WIDE_MASK}),
    "for_classes": lambda: figures.for_classes(PICTURE, RESULT, CHECK, [0, 1, 3, 2], NAMES),
    "depths": lambda: figures.depths(PICTURE, PRODUCTS, checks_of(PRODUCTS)),
    "depths, eight": lambda: figures.depths(FINE[0], EIGHT, checks_of(EIGHT, False)),
    "seed_masks": lambda: figures.seed_masks(PICTURES, {f"seed {s}, 500 steps": RESULT.mask for s in range(3)}),
    "seed_masks, one": lambda: figures.seed_masks(WIDE, {"seed 0": WIDE_RESULT.mask}),
    "board": lambda: figures.board(PICTURE, place(), NAMES, "The answer is lost: “cat”. " * 5),
    "board, empty": lambda: figures.board(PICTURE, place(0), NAMES),
    "board, full": lambda: figures.board(PICTURE, place(16), NAMES),
    "race": lambda: figures.race(dict(cat=KL, dog=KL), dict(cat=(7, 0.2), dog=(3, 0.3)), dict(cat=CHANCE, dog=CHANCE)),
    "against_luck": lambda: figures.against_luck(LUCK, {name: drawn(200) for name in LUCK}),
    "against_luck, one": lambda: figures.against_luck({"cat": torch.tensor([0.01])}, {"cat": drawn(200)}),
    "pipeline": lambda: figures.pipeline(PICTURE, MASK),
    "pipeline, a part": lambda: figures.pipeline(PICTURE, MASK, "gates", "gray"),
    "removal_steps": lambda: figures.removal_steps(SEEN[0], ORDERS, STEPS),
    "removal_steps, one": lambda: figures.removal_steps(SEEN[0], {"MoRF": ORDERS["MoRF"]}, STEPS),
    "gate_paths": lambda: figures.gate_paths({"a training": LEARNING}, RESULT.keep[0], PICTURE),
    "gate_paths, two": lambda: figures.gate_paths({"from −8": LEARNING, "T = 0.02": LEARNING}, RESULT.keep[0]),
    "gate_stages": lambda: figures.gate_stages(0.0, *PAPER),
    "gate_stages, both ends": lambda: figures.gate_stages(1.0, *LOUIZOS),
    "gate_distribution, least": lambda: figures.gate_distribution(-8, 0.05, -1, 1),
    "gate_distribution, middle": lambda: figures.gate_distribution(0, 1.5, -0.5, 1.5),
    "gate_distribution, greatest": lambda: figures.gate_distribution(8, 3, 0, 2),
    "gate_distributions": lambda: figures.gate_distributions(SETTINGS, [f"number {i}" for i in range(6)]),
    "gate_noise": lambda: figures.gate_noise(X / 100, {"p": X, "q": 1 / X}, {"a": {"p": 3, "q": 1000}, "b": {"p": 1, "q": 2}}),
    "line_panels": lambda: figures.line_panels(X, {"a": {"one": X, "two": X**2}, "b": {"": X}}, "x", "xy", lines={"b": 5}),
    "line_panels, shared": lambda: figures.line_panels(X, {key: {"p": X, "q": X} for key in "ab"}, "x", marks=False),
    "patch_sequence": lambda: figures.patch_sequence(PICTURE, (8, 8)),
    "patch_sequence, few": lambda: figures.patch_sequence(PICTURE[:30, :30], (3, 3)),
    "patch_sequence, wide": lambda: figures.patch_sequence(WIDE[0], (2, 5), across=10),
    "position_similarity": lambda: figures.position_similarity(SIMILARITY, (8, 8), (0, 19, 63)),
    "attention_heads": lambda: figures.attention_heads(PICTURE, ATTENTION, ["block 1", "block 6"]),
    "attention_heads, one": lambda: figures.attention_heads(PICTURE, ATTENTION[:1, :1], ["block 1"]),
    "additions": lambda: figures.additions({"class token": SERIES, "patches": SERIES}),
    "lines": lambda: figures.lines({"left": SERIES, "right": {"four": SERIES["one"]}}, range(7), "blocks passed", "share"),
    "lines, many points": lambda: figures.lines({"": {"one": drawn(50)}}, range(50), "step", "share"),
    "removals": lambda: figures.removals(PICTURE, KEEP, NOISE, ANSWERS, NAMES),
    "removals, long names": lambda: figures.removals(PICTURE, KEEP, NOISE, ANSWERS, LONG),
    "descent": lambda: figures.descent({"α ascends": WAY, "α descends": WAY * 0.5}, (2 / 3, 1 / 3)),
    "masks_by_step": lambda: figures.masks_by_step(SEEN, LEARNED, ["untrained", "50 steps", "100", "400"]),
    "masks_by_step, one": lambda: figures.masks_by_step(SEEN[:1], LEARNED[:2, :1], ["untrained", "400 steps"]),
    "runs": lambda: figures.runs({"as published": BROKEN, "mended": SOUND}, eps=0.1),
    "runs, four": lambda: figures.runs({f"a run with a name {i}": BROKEN for i in range(4)}),
    "trade_off": lambda: figures.trade_off(SWEEP, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figure_is_readable_and_leaves_matplotlib_alone(draw):
    assert_readable(draw)


SENSELESS = "temperature above 0, left at most 0 and right at least 1"
REFUSED = {
    "hardness": (lambda: figures.harden(MASK, 1.2), "Hardness"),
    "way": (lambda: figures.smoothed(MASK, 4, 4, "bicubic"), r"'bicubic'.*'bilinear'"),
    "classes": (lambda: figures.for_classes(PICTURE, RESULT, checks_of(RESULT.mask - 1), [0] * 4, NAMES), "other masks"),
    "depths": (lambda: figures.depths(PICTURE, 1 - PRODUCTS, checks_of(PRODUCTS)), "other masks"),
    "no part": (lambda: figures.pipeline(PICTURE, MASK, "eye"), "Unknown part"),
    "no square": (lambda: figures.removal_steps(PICTURE, {"a": torch.arange(12)}, {"a": np.ones(13)}), "12 patches"),
    "temperature": (lambda: figures.gate_distribution(0, 0, -0.2, 1), SENSELESS),
    "left": (lambda: figures.gate_distribution(0, 0.2, 0.1, 1), SENSELESS),
    "right": (lambda: figures.gate_distribution(0, 0.2, -0.2, 0.9), SENSELESS),
    "grid": (lambda: figures.patch_sequence(PICTURE, (3, 3)), "cannot be cut"),
    "similarities": (lambda: figures.position_similarity(SIMILARITY, (4, 4), (0,)), "similarities"),
    "rows": (lambda: figures.attention_heads(PICTURE, ATTENTION, ["block 1"]), "rows"),
    "too many lines": (lambda: figures.lines({"": {str(i): [0] for i in range(7)}}, [0], "x", "y"), "fewer"),
    "removal": (lambda: figures.removals(PICTURE, KEEP, NOISE, {"blur": ANSWERS["drop"]}, NAMES), "ways"),
}


@pytest.mark.parametrize(("draw", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_misdrawn_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


# ---- From soft to hard ----
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_harden_goes_from_the_mask_to_the_hard_mask(threshold):
    mask = torch.cat([torch.linspace(0, 1, 101), torch.tensor([threshold])]).sort().values
    keep = (mask > threshold).numpy()
    assert np.array_equal(figures.harden(mask, 0, threshold), mask.double())
    assert np.array_equal(figures.harden(mask, 1, threshold), keep)
    last = np.abs(mask.numpy() - keep)
    for hardness in (0.05, 0.25, 0.5, 0.75, 0.95):
        between = figures.harden(mask, hardness, threshold)
        assert (np.diff(between) >= 0).all() and between.min() >= 0 and between.max() <= 1
        # As torch compares, in float32: 0.3 is a little above 0.3 there, and yet not above the threshold.
        assert np.array_equal(between > np.float32(threshold), keep)
        assert (np.abs(between - keep) <= last + 1e-6).all()  # nearer to the hard mask, at every value
        last = np.abs(between - keep)
    off = np.abs(mask.numpy() - threshold) > 0.005
    assert np.allclose(figures.harden(mask, 0.999, threshold)[off], keep[off], atol=0.01)


@pytest.mark.parametrize("hardness", [0, 0.5, 1])
def test_soft_to_hard_draws_what_harden_gives(hardness):
    figure = figures.soft_to_hard(PICTURE, MASK, hardness, threshold=0.7, words="The ViT says cat.")
    between = figures.harden(MASK, hardness, 0.7)
    assert np.allclose(shown(figure.axes[0]), MASK) and np.allclose(shown(figure.axes[1]), between)
    z = np.kron(between, np.ones((8, 8)))[..., None]
    assert np.allclose(shown(figure.axes[2]), z * PICTURE.numpy() + (1 - z) * GREY)
    count = f"{int((MASK > 0.7).sum())} of 16"
    assert count in figure.axes[2].get_title()
    assert all(part in plots.alt_text(figure) for part in (count, f"{between.mean():.2f}", "The ViT says cat."))
    assert len(figure.axes[2].collections) == (3 if hardness == 1 else 1)  # the outline is for hard masks


def test_strip_shows_each_setting():
    figure = figures.soft_to_hard_strip(PICTURE, MASK, (0, 0.5, 1))
    for ax, hardness in zip(figure.axes[:3], (0, 0.5, 1), strict=True):
        assert np.allclose(shown(ax), figures.harden(MASK, hardness)) and ax.get_title().endswith(f"{hardness:g}")
    figure = figures.soft_to_hard_strip(PICTURE, MASK, 1, (0.1, 0.8))
    for ax, threshold in zip(figure.axes[:2], (0.1, 0.8), strict=True):
        assert np.array_equal(shown(ax), threshold < MASK) and ax.get_title().endswith(f"{threshold:g}")
    assert f"{(MASK > 0.8).float().mean():.2f} at 0.8" in plots.alt_text(figure)


# ---- Honest and dishonest drawings ----
def test_smoothing_is_what_its_name_says():
    mask = drawn(3, 4)
    spread = mask.repeat_interleave(8, 0).repeat_interleave(10, 1)
    assert np.allclose(figures.smoothed(mask, 24, 40, "patch by patch"), spread)
    theirs = F.interpolate(mask[None, None], size=(24, 40), mode="bilinear", align_corners=False)[0, 0]
    assert np.allclose(figures.smoothed(mask, 24, 40, "bilinear"), theirs, atol=1e-6)
    stretched = figures.smoothed(0.5 + 0.02 * mask, 3, 4, "min–max")
    assert stretched.min() == 0 and stretched.max() == 1
    assert np.isfinite(figures.smoothed(torch.full((2, 2), 0.5), 4, 4, "min–max")).all()
    row = figures.smoothed(torch.tensor([[0.0, 1.0]]), 20, 40, "Gaussian")[10]  # patches of 20 pixels: a deviation of 10
    weights = np.exp(-((np.arange(-200, 240) - np.arange(40)[:, None]) ** 2) / 200)
    assert np.allclose(row, weights[:, 220:].sum(1) / weights.sum(1), atol=2e-3)


def test_ways_to_draw_keeps_one_colour_scale_and_draws_edges_in_the_honest_column_alone():
    panels = figures.ways_to_draw(PICTURE, {"one": MASK}).axes[: len(WAYS)]
    for ax, way in zip(panels, WAYS, strict=True):
        wanted = MASK if way == WAYS[0] else figures.smoothed(MASK, *shown(ax).shape, way)
        assert ax.images[-1].get_clim() == (0, 1) and np.allclose(shown(ax), wanted, atol=1e-6)
    assert [ax.collections[0].get_linewidth()[0] > 0 for ax in panels] == [True, False, False, False]
    assert panels[3].get_title() == f"min–max: {MASK.min():.2f} … {MASK.max():.2f}\n(not on the bar's scale)"


def test_depths_draw_products_and_outline_what_each_keeps():
    products = torch.stack([PRODUCTS[0], 1 - PRODUCTS[0], PRODUCTS[1], 1 - PRODUCTS[1]])
    check = checks_of(products)
    check.agree[2] = False
    axes = figures.depths(PICTURE, products, check).axes
    for k, (above, below_) in enumerate(zip(axes[:4], axes[4:8], strict=True)):
        assert np.allclose(shown(above), products[k])
        assert below_.get_xlabel().startswith(f"{(products[k] > 0.5).sum()} kept\nKL {check.kl[k]:.2f}")
        assert ("≠" in below_.get_xlabel()) == (k == 2)
    assert outline(axes[4]) and axes[-1].get_ylabel() == "product of gates"
    assert figures.depths(PICTURE, products, check, cmap="gray").axes[0].images[-1].get_cmap().name == "gray"


def test_depths_that_keep_the_same_patches_share_one_panel():
    products = torch.stack([PRODUCTS[0], 0.9 * (PRODUCTS[0] > 0.5), 1 - PRODUCTS[0], 1 - PRODUCTS[0]])
    axes = figures.depths(PICTURE, products, checks_of(products)).axes
    assert [ax.get_title() for ax in axes[:4]] == ["k = 0 … 1", "k = 2 … 3", "", ""]
    assert np.allclose(shown(axes[0]), products[1]) and np.allclose(shown(axes[1]), products[3])


def test_masks_for_classes_stand_in_pairs_with_the_probability_of_the_class():
    axes = FIGURES["for_classes"]().axes
    before, after = RESULT.logits.softmax(-1), CHECK.logits.softmax(-1)
    for i, target in enumerate((0, 1, 3, 2)):
        soft, hard = axes[2 * i : 2 * i + 2]
        assert np.allclose(shown(soft), RESULT.mask[i]) and outline(hard)
        assert soft.get_title() == f"for “{NAMES[target]}”" and hard.get_title() == f"{RESULT.keep[i].sum()} of 16 kept"
        assert hard.get_xlabel() == f"p({NAMES[target]}): {before[i, target]:.2f} → {after[i, target]:.2f}"


def test_seed_masks_draw_each_mask_in_its_place():
    masks = {"one": RESULT.mask[:2], "two": 1 - RESULT.mask[:2]}
    figure = figures.seed_masks(PICTURES[:2], masks)
    assert np.allclose(shown(figure.axes[1]), PICTURES[1])
    for ax, wanted in zip(figure.axes[2:6], [*masks["one"], *masks["two"]], strict=True):
        assert np.allclose(shown(ax), wanted) and ax.get_title() == f"{(wanted > 0.5).sum()} kept"


def test_masks_by_step_puts_steps_in_columns_and_images_in_rows():
    axes = figures.masks_by_step(SEEN, LEARNED, list("abcd")).axes
    panels = [ax for ax in axes if len(ax.images) == 2]  # a faint picture and the mask over it
    assert len(panels) == 12 and len([ax for ax in axes if ax.images]) >= 15
    for i, ax in enumerate(panels):
        np.testing.assert_allclose(shown(ax), LEARNED[i % 4, i // 4])


# ---- The game ----
def test_board_says_what_the_position_is():
    figure = figures.board(PICTURE, place(), NAMES, most=2)
    left, right = figure.axes
    assert left.get_title() == "5 of 16 patches; DiffMask kept 7"
    for ticks in (left.get_xticklabels(), left.get_yticklabels()):
        assert [t.get_text() for t in ticks] == ["1", "2", "3", "4"]
    assert np.allclose(left.get_yticks(), (np.arange(4) + 0.5) * 8)  # the middle of each patch
    assert [t.get_text() for t in right.get_yticklabels()] == ["cat", "airplane"]  # the likeliest of either
    p = torch.stack([place().before, place().after]).softmax(-1)
    assert np.allclose([bar.get_width() for bar in right.patches], [p[0, 3], p[0, 0], p[1, 3], p[1, 0]])
    assert "cat" in plots.alt_text(figure) and "airplane" in plots.alt_text(figure)


def test_boards_of_one_image_have_the_same_bars_and_always_the_present_answer():
    def labels(position, most=2):
        return [t.get_text() for t in figures.board(PICTURE, position, NAMES, most=most).axes[1].get_yticklabels()]

    likeliest = [NAMES[i] for i in place().before.argsort(descending=True)[:3]]
    kept, lost = place(), place()
    kept.after, lost.after = kept.before, -kept.before
    assert labels(kept, 3) == likeliest
    assert labels(lost, 3) == [*likeliest[:2], NAMES[int(lost.after.argmax())]]


def test_race_draws_the_path_against_patches_kept():
    figure = FIGURES["race"]()
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    x, y = lines["greedy"].get_data()
    assert x[0] == 12 and x[-1] == 1 and np.allclose(y, KL[:-1])
    assert lines["DiffMask"].get_data()[0] == 7
    assert {(ax.get_yscale(), *ax.get_ylim()) for ax in figure.axes} == {("log", 1e-3, 6.0)}  # one for all panels
    least = (12 - np.arange(13))[KL <= 0.2].min()
    assert f"cat: DiffMask 7 patches with KL 0.20, greedy {least} with no more" in plots.alt_text(figure)


# ---- Evaluations ----
def test_removal_steps_takes_patches_away_in_the_order_given():
    axes = figures.removal_steps(torch.ones(3, 3, 3), ORDERS, STEPS).axes[:10]  # MoRF
    for gone, ax in enumerate(axes):
        grey = np.flatnonzero(shown(ax)[..., 0] == GREY)
        assert set(grey) == set(ORDERS["MoRF"][:gone].tolist())
        assert ax.get_xlabel() == f"{STEPS['MoRF'][gone]:.2f}"


# ---- Gates ----
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_gate_is_that_of_samples_and_of_torchs_relaxed_bernoulli(setting):
    logit, temperature, left, right = setting
    u = torch.rand(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = 1 / (1 + (-(logit + (u / (1 - u)).log()) / temperature).exp())
    z = (s * (right - left) + left).numpy()
    shut, full = gate_masses(*setting)
    assert shut == pytest.approx((z <= 0).mean(), abs=3e-3)
    # Stretched to exactly 1 there is no mass at 1, though even doubles round to it now and then.
    assert full == pytest.approx((z >= 1).mean() if right > 1 else 0, abs=3e-3)
    assert gate_mean(*setting) == pytest.approx(z.clip(0, 1).mean(), abs=3e-3)
    assert below(0.4, *setting) == pytest.approx((z <= 0.4).mean(), abs=3e-3)

    t, density = (values[500:-500] for values in _curve(setting))
    s = torch.tensor((t - left) / (right - left))
    concrete = LogitRelaxedBernoulli(torch.tensor(temperature).double(), logits=torch.tensor(logit).double())
    wanted = (concrete.log_prob(torch.logit(s)) - (s * (1 - s)).log()).exp() / (right - left)
    np.testing.assert_allclose(density, wanted, rtol=1e-6)


def test_stems_are_as_high_as_the_probability():
    axes = figures.gate_stages(0.0, *LOUIZOS).axes
    for ax, masses in ((axes[0], (0.5, 0.5)), (axes[3], gate_masses(0.0, *LOUIZOS))):
        drawn = [dot.get_data() for dot in ax.lines if dot.get_marker() == "o"]
        assert [(x[0], y[0] / STEM) for x, y in drawn] == [(i, pytest.approx(mass)) for i, mass in enumerate(masses)]
    assert not [dot for ax in axes[1:3] for dot in ax.lines if dot.get_marker() == "o"]
    assert STEM + 0.3 < TOP  # so that a stem and its number are never cut off
    figure = figures.gate_distributions([(0, *PAPER)], ["paper"], columns=1)  # the stretch ends at 1: no stem there
    assert [dot.get_xdata()[0] for dot in figure.axes[0].lines if dot.get_marker() == "o"] == [0]
    assert "0.00 at 1" in plots.alt_text(figure)


def test_paths_draw_each_gate_and_tell_the_cells_apart():
    cells = RESULT.keep[0]
    figure = figures.gate_paths({"a training": LEARNING}, cells, PICTURE)
    image, curves, last = figure.axes
    for j, line in enumerate(curves.lines[: cells.numel()]):
        np.testing.assert_allclose(line.get_ydata(), LEARNING[:, j])
        assert (line.get_linestyle() == "-") == bool(cells.flatten()[j])
    np.testing.assert_allclose(last.images[0].get_array().ravel(), LEARNING[-1])
    assert [words.get_text() for words in image.texts] == [str(j) for j in range(cells.numel())]
    assert len(figures.gate_paths({"a": LEARNING, "b": LEARNING}, cells).axes) == 2


@pytest.mark.parametrize("logit", [-4.0, 0.5, 3.0])
def test_distribution_draws_the_packages_gate_against_u(logit):
    setting = (logit, *PAPER)
    shut, full = gate_masses(*setting)
    assert 1 - shut == pytest.approx(gates.prob_open(torch.tensor(logit)).item(), abs=1e-6) and full == 0
    figure = figures.gate_distribution(*setting)
    u, z = figure.axes[1].lines[0].get_data()
    np.testing.assert_allclose(z, gates.sample(torch.tensor(logit), torch.tensor(u)), atol=1e-6)
    assert figure.axes[1].lines[1].get_xdata().max() == pytest.approx(shut, abs=1e-3)
    assert f"E[z] {gate_mean(*setting):.2f}" in plots.alt_text(figure)


def test_line_panels_draw_the_values_on_axes_of_their_own():
    figure = figures.line_panels(X, {"a": {"one": X, "two": X**2}, "b": {"": X}}, "x", log="x", lines={"b": 5})
    one, two = figure.axes[0].lines
    assert np.array_equal(one.get_ydata(), X) and np.array_equal(two.get_ydata(), X**2)
    assert one.get_linestyle() != two.get_linestyle() and one.get_marker() != two.get_marker()
    assert list(figure.axes[1].lines[1].get_ydata()) == [5, 5]
    assert "a, two: from 1 to 1e+04" in plots.alt_text(figure)
    assert [(ax.get_xscale(), ax.get_yscale()) for ax in figure.axes] == [("log", "linear")] * 2
    figure = figures.line_panels(X, {"a": {"": X}, "b": {"": X}}, "x", log={"a": "y"})
    assert [(ax.get_xscale(), ax.get_yscale()) for ax in figure.axes] == [("linear", "log"), ("linear", "linear")]


def test_noise_draws_shares_and_samples_to_two_digits_and_says_what_the_bars_are():
    needed = {"one": {"p": 2391, "q": 34.56}, "two": {"p": 1.04, "q": 998}}
    figure = figures.gate_noise(X / 100, {"p": X, "q": 1 / X}, needed)
    left, right = figure.axes
    assert all(curve.get_ydata().max() == 1 for curve in left.lines)
    assert [[bar.get_width() for bar in bars] for bars in right.containers] == [[2391, 1.04], [34.56, 998]]
    assert {words.get_text() for words in right.texts} == {"2,400", "35", "1", "1,000"}
    assert [entry.get_text() for entry in figure.legends[0].get_texts()] == ["p", "q"]
    assert "greatest for p at z = 1, q at z = 0.01" in plots.alt_text(figure)


# ---- Inside a ViT ----
def test_the_sequence_is_the_picture_row_by_row():
    _, sequence = figures.patch_sequence(WIDE[0], (2, 5), across=10).axes
    assert [text.get_text() for text in sequence.texts] == [str(i) for i in range(1, 11)]
    for i, image in enumerate(sequence.images):
        row, column = divmod(i, 5)
        assert np.array_equal(image.get_array(), WIDE[0][row * 8 : row * 8 + 8, column * 8 : column * 8 + 8])
    places = [tuple(image.get_extent()) for image in sequence.images]
    assert len(set(places)) == 10 and all(a[1] < b[0] for a, b in itertools.pairwise(places))  # one row, left to right


def test_similarities_are_those_of_the_patches_asked_for_on_one_scale():
    figure = figures.position_similarity(SIMILARITY, (8, 8), (0, 19, 63))
    for ax, patch in zip(figure.axes, (0, 19, 63), strict=False):
        assert ax.get_title() == f"patch {patch + 1}" and ax.images[0].get_clim() == (-1, 1)
        assert np.argwhere(shown(ax) == 1).tolist() == [[patch // 8, patch % 8]]
        [mark] = ax.get_lines()
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (patch % 8 + 0.5, patch // 8 + 0.5)
    assert "between -1.00 and -1.00" in plots.alt_text(figure)  # the patch itself is left out


def test_attention_of_all_heads_is_on_one_scale_with_its_sum():
    maps = ATTENTION.clone()
    maps[1, 2] *= 0.5
    figure = figures.attention_heads(PICTURE, maps, ["block 1", "block 6"])
    heads = [ax for ax in figure.axes if ax.get_title().startswith("head")]
    for ax, wanted in zip(heads, maps.flatten(0, 1), strict=True):
        assert np.array_equal(shown(ax), wanted) and ax.images[0].get_clim() == (0, float(maps.max()))
    sums = "1.00", "1.00", "0.50", "1.00"
    assert [ax.get_title() for ax in heads[4:]] == [f"head {i}\nsum {s}" for i, s in enumerate(sums, 1)]


def test_bars_have_the_heights_given():
    figure = figures.additions({"class token": SERIES, "patches": {"one": SERIES["two"]}})
    left, right = figure.axes
    for bars, values in zip([*left.containers, right.containers[0]], [*SERIES.values(), SERIES["two"]], strict=True):
        assert np.allclose([bar.get_height() for bar in bars], values)


def test_lines_keep_their_looks_in_every_panel_and_their_scale():
    figure = figures.lines({"left": SERIES, "right": {"two": SERIES["one"]}}, range(7), "blocks", "share")
    left, right = figure.axes
    for line, values in zip(left.get_lines(), SERIES.values(), strict=True):
        assert np.allclose(line.get_ydata(), values) and np.array_equal(line.get_xdata(), range(7))
    assert right.get_lines()[0].get_color() == left.get_lines()[1].get_color()
    assert len({(line.get_color(), line.get_marker()) for line in left.get_lines()}) == 3
    assert left.get_ylim() == right.get_ylim() == (-0.04, 1.04)


def test_removals_fill_exactly_the_patches_removed():
    figure = figures.removals(PICTURE, KEEP, NOISE, ANSWERS, NAMES, mean=(0.2, 0.4, 0.6))
    inside = np.kron(KEEP.numpy(), np.ones((4, 4))).astype(bool)
    fills = {"whole": PICTURE, "noise": NOISE, "mean": (0.2, 0.4, 0.6), "zero": 1.0, "drop": 1.0}
    for i, (ax, (way, fill)) in enumerate(zip(figure.axes, fills.items(), strict=True)):
        assert np.allclose(shown(ax)[inside], PICTURE.numpy()[inside])
        assert np.allclose(shown(ax)[~inside], np.broadcast_to(np.asarray(fill), PICTURE.shape)[~inside])
        p = ANSWERS[way].softmax(0).max()
        assert " ".join(ax.get_title().split()) == f"{way} says {NAMES[i % 4]} ({p:.2f})"
        assert len(ax.texts) == (0 if way != "zero" else int((~KEEP).sum()))


# ---- Trainings ----
def line(ax, colour):
    return next(one for one in ax.lines if to_hex(one.get_color()) == to_hex(colour))


def test_descent_draws_the_way_and_the_price():
    plane, price = figures.descent({"up": WAY}).axes
    np.testing.assert_allclose(line(plane, BLUE).get_xydata(), WAY[:, :2])
    np.testing.assert_allclose(line(price, BLUE).get_ydata(), WAY[:, 2])


def test_runs_draws_each_run_on_both_sides_with_its_name():
    figure = figures.runs({"mended": SOUND, "broken": BROKEN}, eps=0.1)
    ends = [[line(ax, colour).get_ydata()[-1] for ax in figure.axes] for colour in (BLUE, VERMILION)]
    assert ends == [[0.02, 0.5], [9.4, 0]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["mended", "broken"]
    assert "broken: KL 9.40, kept 0.00" in plots.alt_text(figure)


def test_trade_off_averages_seeds_and_keeps_their_points():
    kl, kept = figures.trade_off(SWEEP).axes
    points = [one for one in kept.lines if one.get_marker() == "o"][1]
    assert len(points.get_ydata()) == 4
    middle = next(one for one in kept.lines if one.get_label() == "CIFAR-10")
    np.testing.assert_allclose(middle.get_ydata(), [0.9, 0.5, 0.2])
    assert to_hex(middle.get_color()).upper() == VERMILION and kl.get_yscale() == "log"
