"""What every figure of the course has to be: readable, described, and no trouble for the reader's own matplotlib."""

import itertools
from collections.abc import Callable

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

from diffmask_lite import plots


def texts(figure):
    """What can be read on a figure, each with its box in pixels."""
    figure.draw_without_rendering()
    unseen = set()  # matplotlib makes ticks beyond the limits of an axis too, and does not draw them
    for axis in itertools.chain.from_iterable((ax.xaxis, ax.yaxis) for ax in figure.axes):
        low, high = sorted(axis.get_view_interval())
        unseen |= {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
    found = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_visible())
    return [(t.get_text(), t.get_window_extent()) for t in set(found) - unseen if t.get_text().strip()]


def assert_readable(draw: Callable[[], Figure]) -> None:
    """Draw, and look for texts that are small, cut off or on top of each other, and for settings that were changed."""
    before = dict(matplotlib.rcParams)
    figure = draw()
    assert isinstance(figure, Figure)
    assert dict(matplotlib.rcParams) == before
    assert plots.png(figure).startswith(b"\x89PNG")
    assert round(figure.get_size_inches()[0] * figure.dpi) <= 900
    assert len(plots.alt_text(figure)) > 20 and "nan" not in plots.alt_text(figure)
    width, height = figure.bbox.size
    drawn = texts(figure)
    for text, box in drawn:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{text!r} is cut off"
    for (one, a), (two, b) in itertools.combinations(drawn, 2):
        assert not a.padded(-2).overlaps(b.padded(-2)), f"{one!r} and {two!r} overlap"
    assert all(t.get_fontsize() >= 11 or "$" in t.get_text() for ax in figure.axes for t in [ax.title, *ax.get_xticklabels()])
