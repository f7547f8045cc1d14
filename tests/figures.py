"""What the tests of figures share: pictures with masks, and what every figure is: readable, described, no trouble to others."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from unittest import mock

import matplotlib
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.text import Text

from diffmask_lite import plots
from diffmask_lite.plots.canvas import MAP

NAMES = ["airplane", "automobile", "bird", "cat"]


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
    result = SimpleNamespace(mask=mask, keep=keep, layers=layers, logits=logits, threshold=0.5, multilabel=False)
    kl = torch.linspace(0.037, 4.25, images)
    kept = keep.float().mean((1, 2))
    check = SimpleNamespace(kl=kl, agree=logits.argmax(1) == masked.argmax(1), kept=kept, logits=masked)
    return pictures, result, check


def altered(part, **changes):
    return SimpleNamespace(**vars(part) | changes)


def shown(ax):
    """What the last image on an axes shows: the mask."""
    return np.asarray(ax.images[-1].get_array())


def outline(ax):
    """The segments of the outline drawn last on an axes, as a set."""
    drawn = [c for c in ax.collections if isinstance(c, LineCollection)][-1]
    return {tuple(sorted(map(tuple, segment))) for segment in np.array(drawn.get_segments()).tolist()}


def texts(figure):
    """Save a figure as a PNG; all that can be read on it, each text with its box in pixels."""
    found, draw = {}, Text.draw

    def noted(text, *arguments, **options):
        draw(text, *arguments, **options)
        if text.get_visible() and text.get_text().strip():
            found[text] = text.get_text(), text.get_window_extent()

    with mock.patch.object(Text, "draw", noted):
        assert plots.png(figure).startswith(b"\x89PNG")
    return list(found.values())


def assert_readable(draw: Callable[[], Figure]) -> None:
    """Draw, and look for texts that are small, cut off or on top of each other, for masks stretched, and settings changed."""
    before = dict(matplotlib.rcParams)
    figure = draw()
    assert isinstance(figure, Figure)
    drawn = texts(figure)
    assert drawn, "nothing can be read"
    assert dict(matplotlib.rcParams) == before
    assert figure.canvas.manager is None, "pyplot would show it a second time"
    assert round(figure.get_size_inches()[0] * figure.dpi) <= 900
    assert len(plots.alt_text(figure)) > 20 and "nan" not in plots.alt_text(figure)
    for image in itertools.chain.from_iterable(ax.images for ax in figure.axes):
        if image.get_array().ndim == 2 and image.get_cmap().name == MAP and type(image.norm) is Normalize:
            assert image.get_clim() == (0, 1), "the mask is stretched to its own range"
    page = figure.bbox.padded(0.5)
    for text, box in drawn:
        assert page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1), f"{text!r} is cut off"
    for (one, a), (two, b) in itertools.combinations(drawn, 2):
        assert not a.padded(-2).overlaps(b.padded(-2)), f"{one!r} and {two!r} overlap"
    assert all(t.get_fontsize() >= 11 or "$" in t.get_text() for ax in figure.axes for t in [ax.title, *ax.get_xticklabels()])
