"""Sliders for the notebooks: each only calls a function of `plots` and shows the picture that it returns.

A widget shows nothing where no kernel runs, as on GitHub; `plots.soft_to_hard_strip` is the static twin of the first two,
`plots.gate_distributions` that of `gate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import gates, plots

try:
    import ipywidgets
except ImportError as error:
    raise ImportError('The sliders need ipywidgets; this installs it: pip install "diffmask_lite[lab]"') from error

Words = str | Callable[[float], str]  # a sentence, or a function of the slider's setting that gives one


def soft_to_hard(picture: Any, mask: Any, threshold: float = 0.5, words: Words = "") -> ipywidgets.VBox:
    """Return a slider from the soft mask (0) to the hard one (1) over `plots.soft_to_hard`.

    picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1]. Words go above the picture; a function is asked at each setting.
    """

    def draw(hardness: float) -> plots.Drawing:
        return plots.soft_to_hard(picture, mask, hardness, threshold, _say(words, hardness))

    return _slide("hardness", 0.0, 1.0, 0.0, draw)


def threshold(picture: Any, mask: Any, words: Words = "", start: float = 0.5) -> ipywidgets.VBox:
    """Return a slider of the threshold above which patches are kept, over `plots.soft_to_hard`; see `soft_to_hard`."""

    def draw(value: float) -> plots.Drawing:
        return plots.soft_to_hard(picture, mask, 1, value, _say(words, value))

    return _slide("threshold", 0.0, 1.0, start, draw)


def gate(
    logit: float = 0.0, temperature: float = gates.TEMPERATURE, left: float = gates.LEFT, right: float = gates.RIGHT
) -> ipywidgets.VBox:
    """Return sliders of logit, temperature and the ends of the stretch over `plots.gate_distribution`."""
    ranges = {
        "logit": (-8.0, 8.0, logit), "temperature": (0.05, 3.0, temperature), "left": (-1.0, 0.0, left),
        "right": (1.0, 2.0, right),
    }  # fmt: skip
    return _sliders(ranges, plots.gate_distribution)


def _say(words: Words, setting: float) -> str:
    return words(setting) if callable(words) else words


def _slide(name: str, low: float, high: float, start: float, draw: Callable[[float], plots.Drawing]) -> ipywidgets.VBox:
    return _sliders({name: (low, high, start)}, draw)


def _sliders(ranges: dict[str, tuple[float, float, float]], draw: Callable[..., plots.Drawing]) -> ipywidgets.VBox:
    """Sliders, name -> (low, high, start), above the picture of their settings, which `draw` is given in that order.

    Bytes are put into one image, so that nothing can be shown twice.
    """
    sliders = [
        ipywidgets.FloatSlider(value=start, min=low, max=high, step=0.05, description=name, continuous_update=False)
        for name, (low, high, start) in ranges.items()
    ]  # drawing takes longer than a hand takes to move on, so it waits until the slider rests
    image = ipywidgets.Image(format="png")

    def update(_change: Any = None) -> None:
        # A step of 0.05 does not end exactly at 1 after twenty additions, and only 1 is the hard mask.
        figure = draw(*(round(slider.value, 2) for slider in sliders))
        image.value, image.tooltip = plots.png(figure), plots.alt_text(figure)

    for slider in sliders:
        slider.observe(update, names="value")
    update()
    return ipywidgets.VBox([*sliders, image])
