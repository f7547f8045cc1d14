"""Figures say what the data say: colours, grey patches, words and alternative text; and they leave matplotlib alone."""

import io
import subprocess
import sys
from dataclasses import make_dataclass
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from diffmask_lite import plots
from figures import assert_readable

NAMES = ["airplane", "automobile", "bird", "cat"]
GREY = 0.5


def data(h=4, w=4, patch=8, images=2, states=4):
    """Pictures, an explanation and its check: image i keeps the patches of its upper half but one."""
    draw = torch.Generator().manual_seed(0)
    pictures = 0.6 + 0.4 * torch.rand(images, h * patch, w * patch, 3, generator=draw)  # grey nowhere
    mask = 0.3 * torch.rand(images, h, w, generator=draw)
    mask[:, : (h + 1) // 2] += 0.6
    mask[:, 0, 0] = 0.1
    logits, masked = torch.zeros(2, images, len(NAMES))
    logits[:, 3], masked[:, 3], masked[-1, 0] = 4.0, 3.0, 9.0  # says cat; of the last image's kept patches, airplane
    keep = mask > 0.5
    layers = mask[:, None].expand(-1, states, -1, -1) ** (1 / states)
    result = SimpleNamespace(mask=mask, keep=keep, layers=layers, logits=logits, threshold=0.5)
    kl = torch.linspace(0.037, 4.25, images)
    kept = keep.float().mean((1, 2))
    check = SimpleNamespace(kl=kl, agree=logits.argmax(1) == masked.argmax(1), kept=kept, logits=masked)
    return pictures, result, check


def past(n=60, **changes):
    step = np.arange(n)
    columns = {
        "eps": 0.1,
        "step": step.tolist(),
        "kl": (5 * np.exp(-step / 9)).tolist(),
        "kept": np.linspace(1, 0.25, n).tolist(),
        "alpha": (step / 10).tolist(),
    }
    return make_dataclass("History", [*columns, *changes])(**columns, **changes)


PICTURES, RESULT, CHECK = data()
WIDE = data(h=2, w=5, images=1, states=14)
FIGURES = {
    "image_grid": lambda: plots.image_grid(PICTURES, NAMES[:2]),
    "image_grid, many": lambda: plots.image_grid(PICTURES[:1].repeat(7, 1, 1, 1), ["says automobile 0.93"] * 7, columns=6),
    "explanations": lambda: plots.explanations(PICTURES, RESULT, CHECK, NAMES, truth=[3, 1]),
    "explanations, wide": lambda: plots.explanations(*WIDE, NAMES),
    "explanations, long names": lambda: plots.explanations(
        PICTURES, RESULT, CHECK, ["American Staffordshire terrier, pit bull"] * 4, truth=[0, 0]
    ),
    "soft_to_hard, soft": lambda: plots.soft_to_hard(PICTURES[0], RESULT.mask[0], 0),
    "soft_to_hard, between": lambda: plots.soft_to_hard(PICTURES[0], RESULT.mask[0], 0.5, words="so it says " * 20),
    "soft_to_hard, hard": lambda: plots.soft_to_hard(PICTURES[0], RESULT.mask[0], 1, words="The ViT says cat."),
    "threshold, least": lambda: plots.soft_to_hard(PICTURES[0], RESULT.mask[0], threshold=0),
    "threshold, greatest": lambda: plots.soft_to_hard(PICTURES[0], RESULT.mask[0], threshold=1),
    "soft_to_hard, wide": lambda: plots.soft_to_hard(WIDE[0][0], WIDE[1].mask[0], 0.5),
    "strip": lambda: plots.soft_to_hard_strip(PICTURES[0], RESULT.mask[0]),
    "strip of thresholds": lambda: plots.soft_to_hard_strip(WIDE[0][0], WIDE[1].mask[0], 1, (0.1, 0.3, 0.5, 0.7, 0.9)),
    "layers": lambda: plots.layers(PICTURES[1], RESULT, 1),
    "layers, many": lambda: plots.layers(WIDE[0][0], WIDE[1], 0),
    "history": lambda: plots.history(past()),
    "history, long": lambda: plots.history(past(28_000)),
    "history, one step": lambda: plots.history(past(1)),
    "history, none": lambda: plots.history(past(0)),
    "probabilities": lambda: plots.probabilities(RESULT.logits[0], CHECK.logits[:1], NAMES),
    "probabilities, many": lambda: plots.probabilities(torch.arange(99.0), -torch.arange(99.0), ["a long class name"] * 99),
}


def shown(ax):
    """The last image drawn on an axes: the mask."""
    return ax.images[-1]


def outline(ax):
    """The segments of the outline drawn last on an axes, as a set."""
    drawn = [c for c in ax.collections if isinstance(c, LineCollection)][-1]
    return {tuple(sorted(map(tuple, segment))) for segment in np.array(drawn.get_segments()).tolist()}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figure_is_readable_and_leaves_matplotlib_alone(draw):
    assert_readable(draw)


@pytest.mark.parametrize("name", ["history", "probabilities", "explanations"])
def test_figures_are_the_same_under_any_style_of_the_reader(name):
    def saved(figure):  # as Jupyter's inline backend does
        figure.savefig(buffer := io.BytesIO(), facecolor=figure.get_facecolor(), dpi=figure.dpi)
        return buffer.getvalue()

    plain = plots.png(FIGURES[name]())
    assert saved(FIGURES[name]()) == plain
    with matplotlib.style.context("dark_background"), matplotlib.rc_context({"font.size": 30, "xtick.major.size": 9}):
        assert plots.png(FIGURES[name]()) == plain
        assert saved(FIGURES[name]()) == plain


def test_no_figure_is_left_to_pyplot():
    code = (
        "import sys; from diffmask_lite import plots; figure = plots.probabilities([0., 1.], [1., 0.], ['a', 'b']);"
        "assert 'matplotlib.pyplot' not in sys.modules; import matplotlib.pyplot as plt; assert not plt.get_fignums()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("registered", [False, True], ids=["plain", "after pyplot"])
def test_a_notebook_shows_a_figure_once_with_its_alternative_text(registered):
    formatter = DisplayFormatter()
    formatter.active_types = ["text/plain", "image/png"]
    if registered:  # what the inline backend does when pyplot is first used
        formatter.formatters["image/png"].for_type(Figure, plots.png)
    figure = FIGURES["probabilities"]()
    content, metadata = formatter.format(figure)
    assert set(content) == {"text/plain", "image/png"}
    assert metadata["image/png"]["alt"] == plots.alt_text(figure) != ""


def test_displayable_undoes_normalisation():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    pictures = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    images = (pictures - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    assert np.allclose(plots.displayable(images, mean, torch.tensor(std)), pictures.permute(0, 2, 3, 1), atol=1e-6)
    assert np.allclose(plots.displayable(images[0], mean, std), pictures[:1].permute(0, 2, 3, 1), atol=1e-6)
    assert plots.displayable(torch.full((1, 3, 2, 2), 9.0)).max() == 1
    grey = plots.displayable(torch.zeros(1, 1, 2, 2), 0.25, 1)
    assert grey.shape == (1, 2, 2, 3) and (grey == 0.25).all()
    assert plots.displayable(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == np.float32
    with pytest.raises(ValueError, match="channels"):
        plots.displayable(torch.zeros(1, 2, 2, 3))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_harden_goes_from_the_mask_to_the_hard_mask(threshold):
    mask = torch.cat([torch.linspace(0, 1, 101), torch.tensor([threshold])]).sort().values
    keep = (mask > threshold).numpy()
    assert np.array_equal(plots.harden(mask, 0, threshold), mask.double())
    assert np.array_equal(plots.harden(mask, 1, threshold), keep)
    last = np.abs(mask.numpy() - keep)
    for hardness in (0.05, 0.25, 0.5, 0.75, 0.95):
        between = plots.harden(mask, hardness, threshold)
        assert (np.diff(between) >= 0).all()
        assert between.min() >= 0 and between.max() <= 1
        assert np.array_equal(between > np.float32(threshold), keep)
        assert (np.abs(between - keep) <= last + 1e-6).all()  # nearer to the hard mask, at every value
        last = np.abs(between - keep)
    with pytest.raises(ValueError, match="Hardness"):
        plots.harden(mask, 1.2)


def test_harden_agrees_with_torch_on_the_border():
    mask = torch.tensor([0.3])  # as float32 a little above 0.3, but torch compares in float32: not above
    assert not (mask > 0.3).any()
    for hardness in (0.5, 1):
        assert plots.harden(mask, hardness, 0.3)[0] <= np.float32(0.3)


@pytest.mark.parametrize("shape", [(4, 4), (2, 5), (1, 3)])
def test_hard_mask_is_grey_exactly_where_a_patch_was_removed(shape):
    h, w = shape
    pictures, result, _ = data(h, w, images=1)
    ax = Figure().subplots()
    pixels = plots.overlay(ax, pictures[0], result.keep[0]).get_array()
    removed = np.kron(~result.keep[0].numpy(), np.ones((8, 8))).astype(bool)
    assert 0 < removed.sum() < removed.size
    assert np.array_equal((pixels == GREY).all(-1), removed)
    assert np.allclose(pixels[~removed], pictures[0].numpy()[~removed])


def test_soft_mask_mixes_picture_and_grey():
    picture, mask = np.ones((4, 4, 3)), np.array([[0.0, 0.25], [0.5, 1.0]])
    pixels = plots.overlay(Figure().subplots(), picture, mask).get_array()
    assert np.allclose(pixels[::2, ::2, 0], [[0.5, 0.625], [0.75, 1.0]])


def test_overlay_shows_patches_not_a_smooth_map():
    ax = Figure().subplots()
    mask = np.array([[0.2, 0.4, 0.6]])
    image = plots.overlay(ax, np.ones((8, 24, 3)), mask, heat=True)
    assert image.get_interpolation() == "nearest"
    assert np.array_equal(image.get_array(), mask)
    assert image.get_extent() == [0, 24, 8, 0]
    edges = ax.collections[0].get_segments()
    assert sorted(segment[0][0] for segment in edges) == [8, 16]


def test_outline_goes_round_the_kept_patches():
    ax = Figure().subplots()
    plots.overlay(ax, np.ones((4, 4, 3)), np.array([[True, False], [False, False]]))
    assert outline(ax) == {((0, 0), (2, 0)), ((0, 0), (0, 2)), ((2, 0), (2, 2)), ((0, 2), (2, 2))}
    soft = Figure().subplots()
    plots.overlay(soft, np.ones((4, 4, 3)), np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert len(soft.collections) == 1  # patch edges only


@pytest.mark.parametrize("name", [name for name in FIGURES if not name.startswith(("history", "prob", "image"))])
def test_colours_of_masks_run_from_0_to_1_whatever_the_data(name):
    figure = FIGURES[name]()
    scaled = [image for ax in figure.axes for image in ax.images if image.get_array().ndim == 2]
    assert scaled and all(image.get_clim() == (0, 1) for image in scaled)
    assert figure.axes[-1].get_ylim() == (0, 1)  # the colour bar


@pytest.mark.parametrize(
    "picture, mask",
    [
        (PICTURES[0], np.full((2, 2), np.nan)),
        (PICTURES[0], np.full((2, 2), 1.5)),
        (PICTURES[0], RESULT.mask),
        (PICTURES, RESULT.mask[0]),
        (PICTURES[0] * 255, RESULT.mask[0]),
        (PICTURES[0].permute(2, 0, 1), RESULT.mask[0]),
    ],
    ids=["NaN", "above 1", "batch of masks", "batch of pictures", "picture of 0 to 255", "channels first"],
)
def test_overlay_refuses_what_it_would_misdraw(picture, mask):
    with pytest.raises(ValueError, match=r"^A (mask|picture)"):
        plots.overlay(Figure().subplots(), picture, mask, heat=True)


def test_explanations_says_before_and_after():
    figure = plots.explanations(PICTURES, RESULT, CHECK, NAMES, truth=[3, 1])
    titles = [ax.get_title() for ax in figure.axes[:6]]
    p = RESULT.logits.softmax(1).max(1).values
    q = CHECK.logits.softmax(1).max(1).values
    assert titles[0] == f"says cat ({p[0]:.2f})"
    assert titles[2] == f"says cat ({q[0]:.2f})\nKL 0.04 nats, 44% kept"
    assert titles[3] == f"says cat ({p[1]:.2f})\nwrong: truth is automobile"
    assert " ".join(titles[5].split()) == f"says airplane ({q[1]:.2f}), changed KL 4.25 nats, 44% kept"
    alt = plots.alt_text(figure)
    for part in ("7 of 16 patches", f"cat ({p[0]:.2f})", f"airplane ({q[1]:.2f}), changed", "KL 4.25 nats", "wrong: truth"):
        assert part in alt
    assert alt.count("wrong") == 1
    keep = np.kron(RESULT.keep[1].numpy(), np.ones((8, 8))).astype(bool)
    assert np.array_equal((shown(figure.axes[5]).get_array() == GREY).all(-1), ~keep)
    assert np.array_equal(shown(figure.axes[4]).get_array(), RESULT.mask[1])


def test_explanations_draws_the_rows_asked_for():
    figure = plots.explanations(PICTURES, RESULT, CHECK, NAMES, rows=[1])
    assert len(figure.axes) == 4  # three panels and the colour bar
    assert np.array_equal(figure.axes[0].images[0].get_array(), PICTURES[1])
    assert "Image 1" in plots.alt_text(figure) and "Image 0" not in plots.alt_text(figure)


def test_explanations_without_the_first_prediction():
    early = SimpleNamespace(**{**vars(RESULT), "logits": None})
    figure = plots.explanations(PICTURES, early, CHECK, NAMES, truth=[3, 1])
    assert figure.axes[0].get_title() == "" and "wrong" not in plots.alt_text(figure)
    assert "KL 0.04 nats" in figure.axes[2].get_title()


def test_explanations_refuses_the_check_of_another_mask():
    other = SimpleNamespace(**{**vars(CHECK), "kept": CHECK.kept + 0.1})
    with pytest.raises(ValueError, match="another mask"):
        plots.explanations(PICTURES, RESULT, other, NAMES)


@pytest.mark.parametrize("hardness", [0, 0.5, 1])
def test_soft_to_hard_draws_what_harden_gives(hardness):
    mask = RESULT.mask[0]
    figure = plots.soft_to_hard(PICTURES[0], mask, hardness, threshold=0.7, words="The ViT says cat.")
    between = plots.harden(mask, hardness, 0.7)
    assert np.allclose(shown(figure.axes[0]).get_array(), mask)
    assert np.allclose(shown(figure.axes[1]).get_array(), between)
    z = np.kron(between, np.ones((8, 8)))[..., None]
    assert np.allclose(shown(figure.axes[2]).get_array(), z * PICTURES[0].numpy() + (1 - z) * GREY)
    count = f"{int((mask > 0.7).sum())} of 16"
    assert count in figure.axes[2].get_title()
    assert all(part in plots.alt_text(figure) for part in (count, f"{between.mean():.2f}", "The ViT says cat."))
    assert len(figure.axes[2].collections) == (3 if hardness == 1 else 1)  # the outline is for hard masks


def test_strip_shows_each_setting():
    mask = RESULT.mask[0]
    figure = plots.soft_to_hard_strip(PICTURES[0], mask, (0, 0.5, 1))
    for ax, hardness in zip(figure.axes[:3], (0, 0.5, 1), strict=True):
        assert np.allclose(shown(ax).get_array(), plots.harden(mask, hardness))
        assert ax.get_title().endswith(f"{hardness:g}")
    figure = plots.soft_to_hard_strip(PICTURES[0], mask, 1, (0.1, 0.8))
    for ax, threshold in zip(figure.axes[:2], (0.1, 0.8), strict=True):
        assert np.array_equal(shown(ax).get_array(), mask > threshold)
        assert ax.get_title().endswith(f"{threshold:g}")
    assert f"{(mask > 0.8).float().mean():.2f} at 0.8" in plots.alt_text(figure)


def test_layers_draws_each_gate_and_the_product():
    gates = torch.rand(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    figure = plots.layers(PICTURES[1], SimpleNamespace(layers=gates), 1)
    panels = figure.axes[1:-1]
    assert len(panels) == 10
    assert [ax.get_title() for ax in panels[::2]] == [f"$h_{{{i}}}$" for i in range(5)]
    for i in range(5):
        assert np.allclose(shown(panels[2 * i]).get_array(), gates[1, i])
        assert np.allclose(shown(panels[2 * i + 1]).get_array(), gates[1, : i + 1].prod(0))
    assert f"h_4 {gates[1, 4].mean():.2f}" in plots.alt_text(figure)
    assert f"{gates[1].prod(0).mean():.2f}" in plots.alt_text(figure)


def test_history_draws_points_median_and_bound():
    spiky = past(100)
    spiky.kl = [0.2] * 100
    spiky.kl[50] = 90.0
    figure = plots.history(spiky)
    points, median, bound = figure.axes[0].lines
    assert max(points.get_ydata()) == 90
    assert max(median.get_ydata()) == 0.2  # a mean would rise at the spike
    assert list(bound.get_ydata()) == [0.1, 0.1]
    assert figure.axes[0].get_ylabel() == "KL (nats)" and "share" in figure.axes[1].get_ylabel()
    assert figure.axes[1].get_ylim()[0] <= 0 and figure.axes[1].get_ylim()[1] >= 1
    assert all(ax.get_xlabel() == "training step" for ax in figure.axes)
    alt = plots.alt_text(figure)
    assert all(part in alt for part in ("100 recorded steps", "ε = 0.1", "from 0.20 to 0.20"))


def test_probabilities_draws_both_distributions():
    before, after = torch.tensor([0.0, 1.0, 3.0, 2.0]), torch.tensor([4.0, 1.0, 0.0, 2.0])
    figure = plots.probabilities(before, after[None], NAMES)
    for bars, logits in zip(figure.axes[0].containers, (before, after), strict=True):
        assert np.allclose([bar.get_width() for bar in bars], logits.softmax(0), atol=1e-6)
    p, q = before.softmax(0).max(), after.softmax(0).max()
    assert f"bird ({p:.2f})" in plots.alt_text(figure) and f"airplane ({q:.2f})" in plots.alt_text(figure)
    figure = plots.probabilities(before, after, NAMES, most=2)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["airplane", "bird", "the other 2"]
    assert np.isclose(sum(bar.get_width() for bar in figure.axes[0].containers[0]), 1)
    with pytest.raises(ValueError, match="one image"):
        plots.probabilities(torch.zeros(2, 4), torch.zeros(2, 4), NAMES)


def test_image_grid_shows_every_picture_under_its_title():
    figure = plots.image_grid(PICTURES[:1].repeat(7, 1, 1, 1), range(7), columns=3)
    assert [ax.get_title() for ax in figure.axes if ax.images] == [str(i) for i in range(7)]
    assert plots.alt_text(figure).startswith("Pictures in a grid: 7.")
    assert len(plots.image_grid(PICTURES[:1]).axes) == 1
    with pytest.raises(ValueError, match="2 pictures but 1 titles"):
        plots.image_grid(PICTURES, ["only one"])
