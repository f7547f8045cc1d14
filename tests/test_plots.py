"""Figures say what the data say: colours, grey patches, words and alternative text; and they leave matplotlib alone."""

import io
from dataclasses import make_dataclass
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from diffmask_lite import plots
from diffmask_lite.plots.canvas import GREY, VERMILION
from figures import NAMES, altered, assert_readable, data, outline, shown

PICTURES, RESULT, CHECK = data()
WIDE = data(h=2, w=5, images=1, states=14)
SIX, TWELVE = data(images=6), data(h=8, w=8, patch=4, images=12, states=8)
SEEN = torch.rand(48, 48, 3, generator=torch.Generator().manual_seed(0))
LONG = ["American Staffordshire terrier, pit bull"] * 4

METHODS = ["diffmask", "gradient_attention", "integrated_gradients", "rollout", "random", "centre"]
MAPS = {name: torch.rand(8, 8, generator=torch.Generator().manual_seed(i)) for i, name in enumerate(METHODS)}
CORNER = np.arange(64).reshape(8, 8) < 4  # the first four patches of the first row
SHARES = np.linspace(0, 1, 5)
CURVES = pd.DataFrame(
    [
        {"method": name, "order": order, "share": share, "p": (1 - share) ** (place + 1 + 6 * (order == "morf")), "image": 0}
        for place, name in enumerate(METHODS)
        for order in ("morf", "lerf")
        for share in SHARES
    ]
)
MANY = ["diffmask", "diffmask, hard", *(f"a_method_with_a_name_{i}" for i in range(10)), "random", "centre"]
TABLE = pd.DataFrame({"method": MANY, "mean": np.linspace(0.4, -0.1, 14)}).assign(
    low=lambda t: t["mean"] - 0.03, high=lambda t: t["mean"] + 0.05
)


def past(n=60):
    step = np.arange(n)
    kl, kept = (5 * np.exp(-step / 9)).tolist(), np.linspace(1, 0.25, n).tolist()
    columns = {"eps": 0.1, "step": step.tolist(), "kl": kl, "kept": kept, "alpha": (step / 10).tolist()}
    columns["layer"] = (step % 3).tolist()
    return make_dataclass("History", columns)(**columns)


def some(part, which):
    """The same for some of the images."""
    return SimpleNamespace(**{name: value[which] if torch.is_tensor(value) else value for name, value in vars(part).items()})


FIGURES = {
    "image_grid": lambda: plots.image_grid(PICTURES, NAMES[:2]),
    "image_grid, many": lambda: plots.image_grid(PICTURES[:1].repeat(7, 1, 1, 1), ["says automobile 0.93"] * 7, columns=6),
    "explanations": lambda: plots.explanations(PICTURES, RESULT, CHECK, NAMES, truth=[3, 1]),
    "explanations, wide": lambda: plots.explanations(*WIDE, NAMES),
    "explanations, long names": lambda: plots.explanations(PICTURES, RESULT, CHECK, LONG, truth=[0, 0]),
    "layers": lambda: plots.layers(PICTURES[1], RESULT, 1),
    "layers, many": lambda: plots.layers(WIDE[0][0], WIDE[1], 0),
    "gallery": lambda: plots.gallery(*SIX, NAMES),
    "gallery, twelve": lambda: plots.gallery(*TWELVE, NAMES, truth=[3, 1] * 6),
    # "not automobile" is wider than a picture, and must not be cut off at the border; every answer is wrong
    "gallery, long names": lambda: plots.gallery(
        SIX[0][:4], *(some(part, slice(4)) for part in SIX[1:]), ["automobile"] * 4, truth=[0] * 4
    ),
    "gallery, luck": lambda: plots.gallery(*TWELVE, NAMES, luck=torch.linspace(0, 2, 12)),
    "gallery, one": lambda: plots.gallery(SIX[0][5:], *(some(part, slice(5, 6)) for part in SIX[1:]), NAMES),
    "history": lambda: plots.history(past()),
    "history, long": lambda: plots.history(past(28_000)),
    "history, one step": lambda: plots.history(past(1)),
    "history, none": lambda: plots.history(past(0)),
    "probabilities": lambda: plots.probabilities(RESULT.logits[0], CHECK.logits[:1], NAMES),
    "probabilities, many": lambda: plots.probabilities(torch.arange(99.0), -torch.arange(99.0), ["a long class name"] * 99),
    "ranked_maps": lambda: plots.ranked_maps(SEEN, MAPS),
    "ranked_maps, one": lambda: plots.ranked_maps(SEEN, {"rollout": MAPS["rollout"]}, columns=2, cmap="gray"),
    "ranked_maps, outlined": lambda: plots.ranked_maps(SEEN, dict(list(MAPS.items())[:3]), outlined={"picture": CORNER}),
    "ranked_maps, thirteen": lambda: plots.ranked_maps(SEEN, {f"leave_one_out {i}": MAPS["random"] for i in range(13)}),
    "removal_curves": lambda: plots.removal_curves(CURVES, METHODS),
    "removal_curves, two": lambda: plots.removal_curves(CURVES, METHODS[:2], "tokens dropped"),
    "forest": lambda: plots.forest({"SRG ↑": TABLE}),
    "forest, three": lambda: plots.forest({"AUROC ↑": TABLE, "SRG, mean patch ↑": TABLE, "SRG, dropped ↑": TABLE[3:]}),
}


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


def over(picture, mask, **options):
    return plots.draw_mask(Figure().subplots(), picture, mask, **options)


SEVERAL = pd.concat([CURVES.assign(removal="drop"), CURVES.assign(removal="mean")])
OTHER = altered(CHECK, kept=CHECK.kept + 0.1)
REFUSED = {
    "channels last": (lambda: plots.displayable(torch.zeros(1, 2, 2, 3)), "channels"),
    "13 bands with 3 means": (lambda: plots.displayable(torch.zeros(1, 13, 2, 2), (0.5,) * 3, (0.5,) * 3), "with 3 and 3"),
    "mask of NaN": (lambda: over(PICTURES[0], np.full((2, 2), np.nan), heat=True), "^A mask"),
    "mask above 1": (lambda: over(PICTURES[0], np.full((2, 2), 1.5)), "^A mask"),
    "batch of masks": (lambda: over(PICTURES[0], RESULT.mask), "^A mask"),
    "batch of pictures": (lambda: over(PICTURES, RESULT.mask[0]), "^A picture"),
    "picture of 0 to 255": (lambda: over(PICTURES[0] * 255, RESULT.mask[0], heat=True), "^A picture"),
    "channels first": (lambda: over(PICTURES[0].permute(2, 0, 1), RESULT.mask[0]), "^A picture"),
    "smoothed": (lambda: plots.overlay(SEEN, MAPS["random"], (0, 0, 48, 48), interpolation="bilinear"), "nobody measured"),
    "scores for a mask": (lambda: plots.overlay(SEEN, 3 * MAPS["random"], (0, 0, 48, 48)), r"pass limits=\(-2.9"),
    "a crop elsewhere": (lambda: plots.overlay(SEEN, MAPS["random"], (50, 0, 98, 48)), "outside the photograph"),
    "explanations, another mask": (lambda: plots.explanations(PICTURES, RESULT, OTHER, NAMES), "another mask"),
    "gallery, another mask": (lambda: plots.gallery(PICTURES, RESULT, OTHER, NAMES), "another mask"),
    "logits of two images": (lambda: plots.probabilities(torch.zeros(2, 4), torch.zeros(2, 4), NAMES), "one image"),
    "too few titles": (lambda: plots.image_grid(PICTURES, ["only one"]), "2 pictures but 1 titles"),
    "outline without map": (lambda: plots.ranked_maps(SEEN, MAPS, outlined={"rolout": CORNER}), r"no map \['rolout'\]"),
    "several removals": (lambda: plots.removal_curves(SEVERAL, METHODS), "several removals"),
    "too many lines": (lambda: plots.removal_curves(CURVES, [*METHODS, "one more"]), "7 methods"),
}


@pytest.mark.parametrize(("draw", "words"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_misdrawn_is_refused(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


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


def test_bands_are_shown_from_their_smallest_to_their_largest_number():
    bands = torch.randint(0, 9000, (2, 13, 4, 6), generator=torch.Generator().manual_seed(0)).double()
    mean, std = torch.arange(13) * 100.0, torch.arange(1, 14) * 50.0
    normal = lambda x, m, s: (x - m.view(-1, 1, 1)) / s.view(-1, 1, 1)  # noqa: E731
    first, low, high = bands[:, :3], *(end(bands[:, :3], (2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    wanted = ((first - low) / (high - low)).permute(0, 2, 3, 1)
    assert np.allclose(plots.displayable(normal(bands, mean, std), mean, std), wanted)
    grey = plots.displayable(normal(bands[:, :1], mean[5:6], std[5:6]), mean[5:6], std[5:6])
    assert np.allclose(grey, wanted[..., :1].expand(-1, -1, -1, 3))


# ---- Masks over pictures ----
SPANS = {"inside": (2.5, 1, 10.5, 9), "beyond": (-3, -2, 15, 14), "squashed": (0, 0, 12, 10), "narrow": (4, -1, 5.5, 12)}


@pytest.mark.parametrize("crop", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("limits", [(0, 1), (-2, 2)], ids=["mask", "scores"])
def test_an_overlay_has_the_photographs_pixels_and_each_has_its_patch(crop, limits):
    draw = np.random.default_rng(0)
    photo, (low, high), (left, top, right, bottom) = draw.random((10, 12, 3)), limits, crop
    values = low + (high - low) * draw.random((3, 4))
    picture = plots.overlay(photo, values, crop, limits)
    assert picture.size == (12, 10)
    pixels, colours = np.asarray(picture) / 255, matplotlib.colormaps["cividis" if low == 0 else "PuOr_r"]
    for y in range(10):
        for x in range(12):
            row, column = (y + 0.5 - top) / (bottom - top) * 3, (x + 0.5 - left) / (right - left) * 4
            if 0 <= row < 3 and 0 <= column < 4:
                grey = photo[y, x] @ (0.299, 0.587, 0.114)
                value = (values[int(row), int(column)] - low) / (high - low)
                wanted = 0.5 * grey + 0.5 * np.array(colours(value)[:3])
                assert np.allclose(pixels[y, x], wanted, atol=0.01), (x, y)
            else:
                assert np.allclose(pixels[y, x], 0.6 * photo[y, x], atol=0.01) or (pixels[y, x] == 1).all(), (x, y)
    if crop == SPANS["inside"]:
        assert (pixels[0, 1:11] == 1).all() and (pixels[1:9, [1, 10]] == 1).all(), "no frame"


def test_an_overlay_of_a_hard_mask_leaves_what_is_kept_and_fades_the_rest():
    draw = np.random.default_rng(1)
    photo, keep = draw.random((8, 12, 3)), draw.random((2, 3)) > 0.5
    pixels = np.asarray(plots.overlay(photo, keep, (0, 0, 12, 8))) / 255
    stays = keep.repeat(4, 0).repeat(4, 1)
    assert keep.any() and not keep.all()
    assert np.allclose(pixels[stays], photo[stays], atol=0.01)
    assert np.allclose(pixels[~stays], 0.2 * photo[~stays] + 0.8 * 0.5, atol=0.01)


@pytest.mark.parametrize("shape", [(4, 4), (2, 5), (1, 3)])
def test_hard_mask_is_grey_exactly_where_a_patch_was_removed(shape):
    pictures, result, _ = data(*shape, images=1)
    pixels = over(pictures[0], result.keep[0]).get_array()
    removed = np.kron(~result.keep[0].numpy(), np.ones((8, 8))).astype(bool)
    assert 0 < removed.sum() < removed.size
    assert np.array_equal((pixels == GREY).all(-1), removed)
    assert np.allclose(pixels[~removed], pictures[0].numpy()[~removed])


def test_overlay_mixes_picture_and_grey_or_lays_colours_over_patch_by_patch_never_smoothed():
    pixels = over(np.ones((4, 4, 3)), np.array([[0.0, 0.25], [0.5, 1.0]])).get_array()
    assert np.allclose(pixels[::2, ::2, 0], [[0.5, 0.625], [0.75, 1.0]])
    mask = np.array([[0.2, 0.4, 0.6]])
    image = over(np.ones((8, 24, 3)), mask, heat=True)
    assert image.get_interpolation() == "nearest" and image.get_extent() == [0, 24, 8, 0]
    assert np.array_equal(image.get_array(), mask)
    assert sorted(segment[0][0] for segment in image.axes.collections[0].get_segments()) == [8, 16]


def test_outline_goes_round_the_kept_patches_of_a_hard_mask():
    mask = np.array([[True, False], [False, False]])
    round_the_first = {((0, 0), (2, 0)), ((0, 0), (0, 2)), ((2, 0), (2, 2)), ((0, 2), (2, 2))}
    assert outline(over(np.ones((4, 4, 3)), mask).axes) == round_the_first
    assert len(over(np.ones((4, 4, 3)), mask.astype(float)).axes.collections) == 1  # patch edges only


def test_explanations_says_before_and_after():
    figure = plots.explanations(PICTURES, RESULT, CHECK, NAMES, truth=[3, 1])
    titles = [ax.get_title() for ax in figure.axes[:6]]
    p, q = (part.logits.softmax(1).max(1).values for part in (RESULT, CHECK))
    assert titles[0] == f"says cat ({p[0]:.2f})"
    assert titles[2] == f"says cat ({q[0]:.2f})\nKL 0.04 nats, 44% kept"
    assert titles[3] == f"says cat ({p[1]:.2f})\nwrong: truth is automobile"
    assert " ".join(titles[5].split()) == f"says airplane ({q[1]:.2f}), changed KL 4.25 nats, 44% kept"
    alt = plots.alt_text(figure)
    for part in ("7 of 16 patches", f"cat ({p[0]:.2f})", f"airplane ({q[1]:.2f}), changed", "KL 4.25 nats", "wrong: truth"):
        assert part in alt
    assert alt.count("wrong") == 1
    keep = np.kron(RESULT.keep[1].numpy(), np.ones((8, 8))).astype(bool)
    assert np.array_equal((shown(figure.axes[5]) == GREY).all(-1), ~keep)
    assert np.array_equal(shown(figure.axes[4]), RESULT.mask[1])
    blue = plots.explanations(PICTURES, RESULT, CHECK, NAMES, removed=(0.0, 0.0, 1.0))
    assert np.array_equal((shown(blue.axes[5]) == (0, 0, 1)).all(-1), ~keep)


def test_explanations_of_some_rows_and_without_the_first_prediction():
    figure = plots.explanations(PICTURES, RESULT, CHECK, NAMES, rows=[1])
    assert len(figure.axes) == 4  # three panels and the colour bar
    assert np.array_equal(shown(figure.axes[0]), PICTURES[1])
    assert "Image 1" in plots.alt_text(figure) and "Image 0" not in plots.alt_text(figure)
    figure = plots.explanations(PICTURES, altered(RESULT, logits=None), CHECK, NAMES, truth=[3, 1])
    assert figure.axes[0].get_title() == "" and "wrong" not in plots.alt_text(figure)
    assert "KL 0.04 nats" in figure.axes[2].get_title()


def test_layers_draws_each_gate_and_the_product():
    gates = torch.rand(2, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    figure = plots.layers(PICTURES[1], SimpleNamespace(layers=gates), 1)
    panels = figure.axes[1:-1]
    assert [ax.get_title() for ax in panels[::2]] == [f"$h_{{{i}}}$" for i in range(5)]
    for i, (alone, product) in enumerate(zip(panels[::2], panels[1::2], strict=True)):
        assert np.allclose(shown(alone), gates[1, i]) and np.allclose(shown(product), gates[1, : i + 1].prod(0))
    assert f"h_4 {gates[1, 4].mean():.2f}" in plots.alt_text(figure)
    assert f"{gates[1].prod(0).mean():.2f}" in plots.alt_text(figure)
    assert figure.axes[-1].get_ylabel() == "gate, or product"
    grey = plots.layers(PICTURES[1], SimpleNamespace(layers=gates), 1, cmap="gray").axes[1:-1]
    assert {ax.images[-1].get_cmap().name for ax in grey} == {"gray"}


def test_gallery_marks_a_changed_answer_by_colour_frame_and_sign():
    pictures, result, check = SIX
    figure = plots.gallery(pictures, result, check, NAMES, truth=[3, 3, 3, 3, 3, 2])
    for i, (left, right) in enumerate(zip(figure.axes[0:12:2], figure.axes[1:12:2], strict=True)):
        changed = i == 5  # see `data`: of the last image's kept patches the ViT says airplane
        assert ("≠" in right.get_title()) == changed
        assert (to_hex(right.title.get_color()).upper() == VERMILION) == changed
        assert bool(right.patches) == changed
        assert f"({result.keep[i].sum()})" in right.get_title()
        assert left.get_title().startswith("(bird)\ncat") == changed
    assert "changed for 1, and was wrong before for 1" in plots.alt_text(figure)


def test_gallery_says_where_luck_is_as_good():
    pictures, result, check = SIX
    figure = plots.gallery(pictures, result, check, NAMES, luck=check.kl + torch.tensor([0.1] * 5 + [-0.01]))
    for i, right in enumerate(figure.axes[1:12:2]):
        assert right.get_xlabel() == f"KL {check.kl[i]:.2f}"
        assert (to_hex(right.xaxis.label.get_color()).upper() == VERMILION) == (i == 5)
    assert "luck is as good for 1" in plots.alt_text(figure)


def test_image_grid_shows_every_picture_under_its_title():
    figure = plots.image_grid(PICTURES[:1].repeat(7, 1, 1, 1), range(7), columns=3)
    assert [ax.get_title() for ax in figure.axes if ax.images] == [str(i) for i in range(7)]
    assert plots.alt_text(figure).startswith("Pictures in a grid: 7.")
    assert len(plots.image_grid(PICTURES[:1]).axes) == 1


# ---- Numbers ----
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
    assert all(part in plots.alt_text(figure) for part in ("100 recorded steps", "ε = 0.1", "from 0.20 to 0.20"))
    by_depth = figure.axes[2].lines  # each depth has a multiplier of its own, so nothing joins those of two depths
    assert [line.get_xdata()[:2].tolist() for line in by_depth] == [[0, 3], [1, 4], [2, 5]]
    assert [text.get_text() for text in figure.axes[2].get_legend().texts] == ["k = 0", "k = 2"]


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


def test_ranked_maps_draws_ranks_of_which_ties_share_theirs_and_outlines_on_the_map_named():
    figure = plots.ranked_maps(SEEN, {"a": torch.tensor([[5.0, 7.0], [5.0, 900.0]]), "b": torch.zeros(2, 2)}, columns=3)
    first, second = [shown(ax) for ax in figure.axes if len(ax.images) == 2]  # a faint picture, and ranks over it
    np.testing.assert_allclose(first, [[1 / 6, 2 / 3], [1 / 6, 1]])
    np.testing.assert_allclose(second, 0.5)
    figure = plots.ranked_maps(SEEN, {name: MAPS[name] for name in METHODS[:2]}, outlined={METHODS[1]: CORNER})
    around = [[lines for lines in ax.collections if len(lines.get_segments()) == 10] for ax in figure.axes[:3]]
    assert [len(lines) for lines in around] == [0, 0, 2]  # 4 above, 4 below, 2 at the ends; black, and white upon it
    corners = np.concatenate(around[2][0].get_segments())
    np.testing.assert_array_equal([corners.min(0), corners.max(0)], [[0, 0], [24, 6]])  # x, y in pixels


def test_removal_curves_average_tell_their_area_and_say_what_is_removed():
    figure = plots.removal_curves(pd.concat([CURVES, CURVES.assign(image=1, p=0.0)]), METHODS[:1])
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_ydata(), (1 - SHARES) ** 7 / 2)
    np.testing.assert_allclose(right.lines[0].get_ydata(), (1 - SHARES) / 2)
    assert "diffmask has area 0.08 and 0.25" in plots.alt_text(figure)
    assert {ax.get_xlabel() for ax in figure.axes} == {"share of patches removed"}
    pixels = plots.removal_curves(CURVES, METHODS[:1], unit="pixels")
    assert {ax.get_xlabel() for ax in pixels.axes} == {"share of pixels removed"}


def test_forest_sorts_by_one_panel_and_draws_whiskers():
    turned = TABLE.assign(mean=-TABLE["mean"], low=-TABLE.high, high=-TABLE.low)
    left, right = plots.forest({"a": TABLE, "b": turned}, sort="b").axes
    assert [text.get_text() for text in left.get_yticklabels()] == MANY  # highest of b above, that is the last of MANY
    dots = [drawn for drawn in left.lines if drawn.get_marker() == "D"]
    assert [to_hex(dot.get_color()).upper() for dot in dots] == [VERMILION] * 2
    np.testing.assert_allclose(left.lines[0].get_xdata(), [TABLE.low[0], TABLE.high[0]])
    np.testing.assert_allclose(right.lines[0].get_xdata(), [-TABLE.high[0], -TABLE.low[0]])
    left, right = plots.forest({"a": TABLE, "b": TABLE[3:]}).axes  # the second lacks three methods
    assert len(left.lines) == 2 * 14 + 1 and len(right.lines) == 2 * 11 + 1
