"""The figures of a ViT's inside draw the numbers they are given, readably, and leave matplotlib alone."""

import itertools

import numpy as np
import pytest
import torch

from diffmask_lite import plots
from figures import assert_readable

NAMES = ["airplane", "automobile", "bird", "cat"]
draw = torch.Generator().manual_seed(0)
PICTURE = torch.rand(32, 32, 3, generator=draw)
WIDE = torch.rand(16, 40, 3, generator=draw)
KEEP = torch.rand(8, 8, generator=draw) > 0.5
NOISE = torch.rand(32, 32, 3, generator=draw)
SIMILARITY = torch.eye(64) * 2 - 1
MAPS = torch.rand(2, 4, 8, 8, generator=draw).flatten(2).softmax(-1).unflatten(-1, (8, 8))
ANSWERS = {way: torch.eye(4)[i % 4] * (i + 1) for i, way in enumerate(["whole", "noise", "mean", "zero", "drop"])}
SERIES = {name: torch.rand(7, generator=draw) for name in ("one", "two", "three")}
FIGURES = {
    "patch_sequence": lambda: plots.patch_sequence(PICTURE, (8, 8)),
    "patch_sequence, few": lambda: plots.patch_sequence(PICTURE[:30, :30], (3, 3)),
    "patch_sequence, wide": lambda: plots.patch_sequence(WIDE, (2, 5), across=10),
    "position_similarity": lambda: plots.position_similarity(SIMILARITY, (8, 8), (0, 19, 63)),
    "attention_heads": lambda: plots.attention_heads(PICTURE, MAPS, ["block 1", "block 6"]),
    "attention_heads, one": lambda: plots.attention_heads(PICTURE, MAPS[:1, :1], ["block 1"]),
    "additions": lambda: plots.additions({"class token": SERIES, "patches": SERIES}),
    "lines": lambda: plots.lines({"left": SERIES, "right": {"four": SERIES["one"]}}, range(7), "blocks passed", "share"),
    "lines, many points": lambda: plots.lines({"": {"one": torch.rand(50)}}, range(50), "step", "share"),
    "removals": lambda: plots.removals(PICTURE, KEEP, NOISE, ANSWERS, NAMES),
    "removals, long names": lambda: plots.removals(
        PICTURE, KEEP, NOISE, ANSWERS, ["American Staffordshire terrier, pit bull"] * 4
    ),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_figure_is_readable_and_leaves_matplotlib_alone(make):
    assert_readable(make)


def test_the_sequence_is_the_picture_row_by_row():
    figure = plots.patch_sequence(WIDE, (2, 5), across=10)
    _, sequence = figure.axes
    assert [text.get_text() for text in sequence.texts] == [str(i) for i in range(1, 11)]
    for i, image in enumerate(sequence.images):
        row, column = divmod(i, 5)
        assert np.array_equal(image.get_array(), WIDE[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8])
    places = [tuple(image.get_extent()) for image in sequence.images]
    assert len(set(places)) == 10 and all(a[1] < b[0] for a, b in itertools.pairwise(places))  # one row, left to right
    with pytest.raises(ValueError, match="cannot be cut"):
        plots.patch_sequence(PICTURE, (3, 3))


def test_similarities_are_those_of_the_patches_asked_for_on_one_scale():
    figure = plots.position_similarity(SIMILARITY, (8, 8), (0, 19, 63))
    for ax, patch in zip(figure.axes, (0, 19, 63), strict=False):
        found = ax.images[0].get_array()
        assert ax.get_title() == f"patch {patch + 1}" and ax.images[0].get_clim() == (-1, 1)
        assert np.argwhere(found == 1).tolist() == [[patch // 8, patch % 8]]
        [mark] = ax.get_lines()
        assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (patch % 8 + 0.5, patch // 8 + 0.5)
    assert "between -1.00 and -1.00" in plots.alt_text(figure)  # the patch itself is left out
    with pytest.raises(ValueError, match="similarities"):
        plots.position_similarity(SIMILARITY, (4, 4), (0,))


def test_attention_of_all_heads_is_on_one_scale_with_its_sum():
    maps = MAPS.clone()
    maps[1, 2] *= 0.5
    figure = plots.attention_heads(PICTURE, maps, ["block 1", "block 6"])
    drawn = [ax for ax in figure.axes if ax.get_title().startswith("head")]
    assert len(drawn) == 8
    for ax, wanted in zip(drawn, maps.flatten(0, 1), strict=True):
        assert np.array_equal(ax.images[0].get_array(), wanted)
        assert ax.images[0].get_clim() == (0, float(maps.max()))
    assert [ax.get_title() for ax in drawn[4:]] == [
        f"head {i}\nsum {s}" for i, s in enumerate(("1.00", "1.00", "0.50", "1.00"), 1)
    ]
    with pytest.raises(ValueError, match="rows"):
        plots.attention_heads(PICTURE, maps, ["block 1"])


def test_bars_have_the_heights_given():
    figure = plots.additions({"class token": SERIES, "patches": {"one": SERIES["two"]}})
    left, right = figure.axes
    for bars, values in zip(left.containers, SERIES.values(), strict=True):
        assert np.allclose([bar.get_height() for bar in bars], values)
    assert np.allclose([bar.get_height() for bar in right.containers[0]], SERIES["two"])


def test_lines_keep_their_looks_in_every_panel_and_their_scale():
    figure = plots.lines({"left": SERIES, "right": {"two": SERIES["one"]}}, range(7), "blocks", "share")
    left, right = figure.axes
    for line, values in zip(left.get_lines(), SERIES.values(), strict=True):
        assert np.allclose(line.get_ydata(), values) and np.array_equal(line.get_xdata(), range(7))
    assert right.get_lines()[0].get_color() == left.get_lines()[1].get_color()
    assert len({(line.get_color(), line.get_marker()) for line in left.get_lines()}) == 3
    assert left.get_ylim() == right.get_ylim() == (-0.04, 1.04)
    with pytest.raises(ValueError, match="fewer"):
        plots.lines({"": {str(i): [0] for i in range(7)}}, [0], "x", "y")


def test_removals_fill_exactly_the_patches_removed():
    figure = plots.removals(PICTURE, KEEP, NOISE, ANSWERS, NAMES)
    inside = np.kron(KEEP.numpy(), np.ones((4, 4))).astype(bool)
    fills = {"whole": PICTURE, "noise": NOISE, "mean": 0.5, "zero": 1.0, "drop": 1.0}
    for i, (ax, (way, fill)) in enumerate(zip(figure.axes, fills.items(), strict=True)):
        pixels = ax.images[0].get_array()
        assert np.allclose(pixels[inside], PICTURE.numpy()[inside])
        assert np.allclose(pixels[~inside], np.broadcast_to(np.asarray(fill), PICTURE.shape)[~inside])
        p = ANSWERS[way].softmax(0).max()
        assert " ".join(ax.get_title().split()) == f"{way} says {NAMES[i % 4]} ({p:.2f})"
        assert len(ax.texts) == (0 if way != "zero" else int((~KEEP).sum()))
    with pytest.raises(ValueError, match="ways"):
        plots.removals(PICTURE, KEEP, NOISE, {"blur": ANSWERS["drop"]}, NAMES)
