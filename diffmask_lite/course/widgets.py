"""Sliders for the notebooks, each of which shows what a function of `figures` returns; and the view of the game.

A widget shows nothing where no kernel runs, as on GitHub; `figures.soft_to_hard_strip` is the static twin of the first two,
`figures.gate_distributions` that of `gate`, `figures.board` that of the game.
"""

from __future__ import annotations

import html
import itertools
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import gates
from ..plots import Drawing, alt_text, png
from . import figures
from .game import Game, standing

try:
    import ipywidgets
except ImportError as error:
    raise ImportError('The sliders need ipywidgets; this installs it: pip install "diffmask_lite[lab]"') from error

Words = str | Callable[[float], str]  # a sentence, or a function of the slider's setting that gives one


def soft_to_hard(picture: Any, mask: Any, threshold: float = 0.5, words: Words = "") -> ipywidgets.VBox:
    """Return a slider from the soft mask (0) to the hard one (1) over `figures.soft_to_hard`.

    picture (H, W, 3) in [0, 1], mask (h, w) in [0, 1]. Words go above the picture; a function is asked at each setting.
    """

    def draw(hardness: float) -> Drawing:
        return figures.soft_to_hard(picture, mask, hardness, threshold, _say(words, hardness))

    return _slide("hardness", 0.0, 1.0, 0.0, draw)


def threshold(picture: Any, mask: Any, words: Words = "", start: float = 0.5) -> ipywidgets.VBox:
    """Return a slider of the threshold above which patches are kept, over `figures.soft_to_hard`; see `soft_to_hard`."""

    def draw(value: float) -> Drawing:
        return figures.soft_to_hard(picture, mask, 1, value, _say(words, value))

    return _slide("threshold", 0.0, 1.0, start, draw)


def gate(
    logit: float = 0.0, temperature: float = gates.TEMPERATURE, left: float = gates.LEFT, right: float = gates.RIGHT
) -> ipywidgets.VBox:
    """Return sliders of logit, temperature and the ends of the stretch over `figures.gate_distribution`."""
    ranges = {
        "logit": (-8.0, 8.0, logit), "temperature": (0.05, 3.0, temperature), "left": (-1.0, 0.0, left),
        "right": (1.0, 2.0, right),
    }  # fmt: skip
    return _sliders(ranges, figures.gate_distribution)


def _say(words: Words, setting: float) -> str:
    return words(setting) if callable(words) else words


def _slide(name: str, low: float, high: float, start: float, draw: Callable[[float], Drawing]) -> ipywidgets.VBox:
    return _sliders({name: (low, high, start)}, draw)


def _sliders(ranges: dict[str, tuple[float, float, float]], draw: Callable[..., Drawing]) -> ipywidgets.VBox:
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
        image.value, image.tooltip = png(figure), alt_text(figure)

    for slider in sliders:
        slider.observe(update, names="value")
    update()
    return ipywidgets.VBox([*sliders, image])


_boards = itertools.count()  # two boards on one page must not share their style


def beat_the_mask(explainer: Any, images: Any, pictures: Any, names: Sequence[str], size: int = 440) -> ipywidgets.HBox:
    """Return the game: click patches on and off, and keep the ViT's answer with fewer of them than DiffMask kept.

    images (B, C, H, W), normalised, one board each; pictures (B, H, W, 3) in [0, 1], the same images as they look; names: a
    word for each class; size: pixels of the board's longer side. Each click costs one forward pass of the ViT.
    The patches are buttons: a picture lies behind them all, of which each shows its own part.
    """
    game = Game(explainer, images)
    h, w = explainer.shape.grid
    side, kind = max(size // max(h, w), 14), f"beat-the-mask-{next(_boards)}"
    square = ipywidgets.Layout(width=f"{side}px", height=f"{side}px", margin="0", padding="0")
    patches = [ipywidgets.Button(layout=square) for _ in range(h * w)]
    look, score = ipywidgets.HTML(), ipywidgets.HTML()
    moves = {
        "Show DiffMask's mask": game.show_diffmask,
        "All on": lambda: game.fill(True),
        "All off": lambda: game.fill(False),
        "Next image": lambda: game.open(game.index + 1),
    }
    commands = [ipywidgets.Button(description=name, layout=ipywidgets.Layout(width="auto")) for name in moves]

    def show() -> None:
        position = game.look()
        means = _patch_means(pictures[game.index], h, w)
        for n, (patch, on) in enumerate(zip(patches, position.keep.flatten().tolist(), strict=True)):
            (patch.remove_class if on else patch.add_class)("off")
            patch.style.button_color = means[n] if on else "#808080"  # where a page does not apply our style
            patch.tooltip = f"row {n // w + 1}, column {n % w + 1}: {'on' if on else 'off'}"
        look.value = _board_style(kind, pictures[game.index], h, w, side)
        score.value = _score(position, names, game.best.get(game.index))

    def act(move: Callable[[], None]) -> Callable[[Any], None]:
        def clicked(_button: Any) -> None:
            move()
            show()

        return clicked

    for n, patch in enumerate(patches):
        patch.add_class("patch").add_class(f"p{n}")
        patch.on_click(act(lambda n=n: game.toggle(n // w, n % w)))
    for button, move in zip(commands, moves.values(), strict=True):
        button.on_click(act(move))
    fixed = {"flex": "0 0 auto", "overflow": "visible", "margin": "0 24px 8px 0"}  # a narrow page wraps, never shrinks it
    columns = ipywidgets.Layout(grid_template_columns=f"20px repeat({w}, {side}px)", grid_gap="1px", **fixed)
    middle = ipywidgets.Layout(display="flex", justify_content="center", align_self="center", margin="0")
    places = [ipywidgets.Label(str(n or ""), layout=middle) for n in range(w + 1)]  # a corner, and the columns' numbers
    for row in range(h):
        places += [ipywidgets.Label(str(row + 1), layout=middle), *patches[row * w : (row + 1) * w]]
    beside = {"flex": "1 1 300px", "min_width": "300px", "overflow": "visible"}
    words = ipywidgets.VBox([score, ipywidgets.HBox(commands, layout={"flex_flow": "row wrap"}), look], layout=beside)
    show()
    box = ipywidgets.HBox([ipywidgets.GridBox(places, layout=columns), words], layout={"flex_flow": "row wrap"})
    return box.add_class(kind)


def _patch_means(picture: Any, h: int, w: int) -> list[str]:
    """The mean colour of each patch, as CSS writes colours."""
    rows = np.array_split(np.asarray(picture), h)
    means = [part.mean((0, 1)) for row in rows for part in np.array_split(row, w, axis=1)]
    return ["#" + "".join(f"{round(255 * float(c)):02x}" for c in mean) for mean in means]


def _board_style(kind: str, picture: Any, h: int, w: int, side: int) -> str:
    """CSS that puts the picture behind the buttons of a board; a patch that is off is grey, with a line across it."""
    from PIL import Image

    pixels = Image.fromarray((np.asarray(picture) * 255).round().astype(np.uint8))
    pixels = pixels.resize((w * side, h * side), Image.Resampling.NEAREST)  # honest: each pixel stays a square
    address = b64encode(pixels._repr_png_()).decode()
    places = [f".{kind} .p{n} {{background-position: -{n % w * side}px -{n // w * side}px}}" for n in range(h * w)]
    return f"""<style>
.{kind} .patch {{background-image: url(data:image/png;base64,{address}); background-size: {w * side}px {h * side}px}}
.{kind} .patch:hover, .{kind} .patch:focus {{outline: 3px solid black; outline-offset: -3px; opacity: 0.8}}
{" ".join(places)}
.{kind} .patch.off {{background: linear-gradient(to top right, #808080 48%, #a0a0a0 48%, #a0a0a0 52%, #808080 52%)}}
</style>"""


def _score(position: Any, names: Sequence[str], best: int | None) -> str:
    """What the ViT says of the patches that are on, in type for a lecture hall."""
    answer, now = (str(names[int(logits.argmax())]) for logits in (position.before, position.after))
    p, old = position.after.softmax(-1), int(position.before.argmax())
    bars = _bar(now, float(p.max()), "#0072B2") + ("" if position.same else _bar(answer, float(p[old]), "#D55E00"))
    colour, sign = ("#009E73", "★ ") if position.won else ("#999999", "") if position.same else ("#D55E00", "✗ ")
    return f"""<div style="font-size: 24px; line-height: 1.35">
<div>The whole image: <b>“{html.escape(answer)}”</b> ({float(position.before.softmax(-1).max()):.2f}). Your patches:</div>
{bars}
<div style="font-size: 18px">KL {max(position.kl, 0):.2f} nats</div>
<div style="font-size: 36px; line-height: 1.4"><b>{position.kept}</b> patches · DiffMask {position.rival}</div>
<div style="font-size: 18px">{"&nbsp;" if best is None else f"your best: {best}"}</div>
<div role="status" style="min-height: 4em; border-left: 8px solid {colour}; padding-left: 12px">
<b>{sign}</b>{html.escape(standing(position, answer, now))}</div></div>"""


def _bar(label: str, p: float, colour: str) -> str:
    """One class: its name, a bar on a scale from 0 to 1, and the number."""
    return f"""<div style="display: flex; align-items: center; gap: 10px"><b style="width: 40%">“{html.escape(label)}”</b>
<div style="flex: 1; height: 24px; background: #ddd">
<div style="width: {p:.1%}; height: 100%; background: {colour}"></div></div>{p:.2f}</div>"""
