"""The ground that every figure of the course is drawn on: one house style, and one way to draw a mask over a picture.

A mask is drawn patch by patch, never smoothed, and its colours always run from 0 to 1, or two pictures could not be compared.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy import ndarray

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # Okabe–Ito, told apart by nearly everyone
GREY = 0.5  # what stands where a patch was removed
MAP = "cividis"  # its lightness rises evenly, so it also works in grey and for colour-blind readers
SIGNED = "PuOr_r"  # for scores on both sides of 0: orange above, purple below, white between
HEAT = 0.75  # how much of the colours, and how little of the picture, is seen where they lie over it
WIDTH = 9.0  # inches; 900 pixels at the style's resolution
STYLE = {
    "figure.dpi": 100,
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
P = ParamSpec("P")


class Drawing(Figure):
    """A figure that a notebook shows once, with or without pyplot loaded, and with its alternative text."""

    def _repr_png_(self) -> bytes:
        return png(self)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        return {}, {"image/png": {"alt": alt_text(self)}}


def alt_text(figure: Figure) -> str:
    """Return the alternative text that a figure of this module carries."""
    return figure.get_label()


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def in_house_style(draw: Callable[P, Drawing]) -> Callable[P, Drawing]:
    """Let a function draw under the house style, whatever style the reader has chosen, and put theirs back."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        with matplotlib.style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return styled


def draw_mask(
    ax: Axes,
    picture: Any,
    mask: Any,
    heat: bool = False,
    edge: float = 0.5,
    cmap: str = MAP,
    limits: tuple[float, float] = (0, 1),
    removed: Any = GREY,
) -> AxesImage:
    """Draw a mask (h, w) over a picture on `ax`, with patch edges `edge` points thin; return the image with the mask.

    heat=False: mask · picture + (1 − mask) · removed, as gates mix embeddings with a placeholder (VISION DIFFMASK, eq. 4).
        removed: the colour of what the ViT meets in place of a patch, RGB in 0 … 1, or a lightness.
    heat=True: the mask's colours, of `cmap`, over the picture in faint grey.
    A bool mask also gets an outline, so that a grey patch that was kept differs from one that was removed.
    limits: the ends of the colours, for scores that are no mask, which need heat; see `score_limits`.
    """
    picture, mask = as_picture(picture), require_map(mask, limits)
    (height, width), (h, w) = picture.shape[:2], mask.shape
    place = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    if heat:
        faint = GREY + 0.5 * (picture @ (0.299, 0.587, 0.114) - GREY)  # lightness, at half its contrast
        ax.imshow(faint, cmap="gray", vmin=0, vmax=1, **place)
        image = ax.imshow(mask.astype(float), cmap=cmap, vmin=limits[0], vmax=limits[1], alpha=HEAT, **place)
    else:
        z = mask[np.arange(height) * h // height][:, np.arange(width) * w // width, None].astype(float)  # (H, W, 1)
        image = ax.imshow(z * picture + (1 - z) * np.asarray(removed, float), **place)
    ys, xs = np.linspace(0, height, h + 1), np.linspace(0, width, w + 1)
    edges = [[(0, y), (width, y)] for y in ys[1:-1]] + [[(x, 0), (x, height)] for x in xs[1:-1]]
    ax.add_collection(LineCollection(edges, colors="white", linewidths=edge, alpha=0.5), autolim=False)
    if mask.dtype == bool:
        outline(ax, mask, (height, width))
    bare(ax)
    return image


def require_map(map: Any, limits: tuple[float, float] = (0, 1)) -> ndarray:
    """Hold a map to (h, w) with values between the limits, and return it as an array."""
    found, (low, high) = as_array(map), limits
    if found.ndim != 2 or not (found.min() >= low and found.max() <= high):  # also refuses NaN
        raise ValueError(
            f"A mask must be (h, w) with values in [{low:g}, {high:g}], but this one has shape {found.shape} and values from "
            f"{found.min():g} to {found.max():g}; if these are scores, pass limits={score_limits(found)}."
        )
    return found


def score_limits(scores: Any) -> tuple[float, float]:
    """Return the ends of the colours of scores that are no mask: −m and m, m the largest that there is."""
    most = float(np.abs(as_array(scores)).max()) or 1.0
    return -most, most


def colours_of(limits: tuple[float, float]) -> str:
    """Return matplotlib's name of the colours for values between such limits."""
    return SIGNED if limits[0] < 0 else MAP


def outline(ax: Axes, mask: Any, size: tuple[int, int], thickness: float = 1.2) -> None:
    """Draw a line around the patches of a bool mask (h, w) on a picture of height × width pixels."""
    mask = as_array(mask)
    ys, xs = (np.linspace(0, length, count + 1) for length, count in zip(size, mask.shape, strict=True))
    inside = np.pad(mask, 1)
    across, down = inside[1:, 1:-1] != inside[:-1, 1:-1], inside[1:-1, 1:] != inside[1:-1, :-1]
    lines = [[(xs[j], ys[i]), (xs[j + 1], ys[i])] for i, j in np.argwhere(across)]
    lines += [[(xs[j], ys[i]), (xs[j], ys[i + 1])] for i, j in np.argwhere(down)]
    for colour, thick in (("black", 2.5 * thickness), ("white", thickness)):  # one of the two shows on any picture
        style = {"colors": colour, "linewidths": thick, "capstyle": "projecting", "clip_on": False}
        ax.add_collection(LineCollection(lines, **style), autolim=False)


def new_figure(height: float, rows: int, columns: int, width: float = WIDTH) -> tuple[Drawing, ndarray]:
    """Return a figure of width × height inches and its axes, (rows, columns)."""
    figure = Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def described(figure: Drawing, text: str) -> Drawing:
    """Give a figure its alternative text."""
    figure.set_label(text.strip())
    return figure


def colourbar(figure: Drawing, image: AxesImage, axes: Any, label: str = "soft mask") -> None:
    """Add the bar that says what a map's colours mean."""
    figure.set_figheight(max(figure.get_figheight(), 2.2))  # room for the bar's label beside a wide picture
    low, high = image.get_clim()
    ticks = {"ticks": [low, (low + high) / 2, high], "format": None if high == 1 else "%.2g"}
    bar = figure.colorbar(image, ax=axes, label=label, shrink=0.9, aspect=25, **ticks)
    bar.ax.set_facecolor(str(GREY))  # as behind the mask, on average: the bar's colours are those seen on the picture


def bare(ax: Axes) -> None:
    """Take ticks and frame away."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def as_array(values: Any) -> ndarray:
    """A tensor or anything like an array -> numpy; half precision becomes single, which numpy can work with."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.itemsize < 4 else values
    return np.asarray(values)


def as_picture(picture: Any) -> ndarray:
    """Anything like an array -> (H, W, 3) in [0, 1]; `ValueError` where it is not."""
    picture = as_array(picture)
    if picture.ndim != 3 or picture.shape[2] != 3 or not (picture.min() >= 0 and picture.max() <= 1):
        raise ValueError(f"A picture is (H, W, 3) in [0, 1], but this is {picture.shape}; see plots.displayable.")
    return picture


def softmax(logits: Any) -> ndarray:
    """Logits, as an array or a tensor -> probabilities over the last axis."""
    logits = as_array(logits).astype(float)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def as_p(logits: Any, multilabel: bool = False) -> ndarray:
    """Logits, as an array or a tensor -> probabilities over the last axis, or of each label on its own."""
    if not multilabel:
        return softmax(logits)
    logits = as_array(logits)
    return softmax(np.stack([logits, np.zeros_like(logits)], -1))[..., 0]  # present or absent


def says(p: ndarray, names: Sequence[str], multilabel: bool = False) -> str:
    """Name the most probable class of p (classes,) and its probability, or all labels above ½."""
    found = np.flatnonzero(p > 0.5) if multilabel else [p.argmax()]
    return "says " + (", ".join(f"{short(names[i])} ({p[i]:.2f})" for i in found) or "no label")


def likeliest(p: ndarray, names: Sequence[str], multilabel: bool = False) -> str:
    """Name the most probable class of p (classes,) for a small panel; of labels, how many more there are."""
    count = int((p > 0.5).sum()) if multilabel else 1
    return (short(names[p.argmax()]) if count else "no label") + (f" +{count - 1}" if count > 1 else "")


def answers(
    ax: Axes, pair: ndarray, names: Sequence[str], most: int = 5, steady: bool = False, target: int | None = None
) -> None:
    """Draw the probabilities, before and after (2, classes), of the classes that are likeliest in either, as bars.

    steady: take those that are likeliest before, so that all pictures of one image have the same bars; the last of them makes
    room for the likeliest after, where it is not among them, and for a target, likely or not.
    """
    likely = pair[0] if steady else pair.max(0)
    wanted = [pair[1].argmax(), *([] if target is None else [target])]
    chosen = np.argsort(-likely - 2 * np.isin(np.arange(len(likely)), wanted), kind="stable")[:most]
    order = chosen[np.argsort(-likely[chosen], kind="stable")]
    places = np.arange(len(order))
    for shift, p, colour, label in ((-0.2, pair[0], BLUE, "whole image"), (0.2, pair[1], ORANGE, "patches kept")):
        bars = ax.barh(places + shift, p[order], height=0.38, color=colour, label=label)
        ax.bar_label(bars, fmt="%.2f", padding=4, fontsize=11)
    ax.set(yticks=places, yticklabels=[short(names[i]) for i in order], xlim=(0, 1.15), xticks=[0, 0.5, 1])
    ax.set(xlabel="probability")
    ax.invert_yaxis()
    ax.legend(loc="lower right")


def short(name: Any) -> str:
    """A class name fit for a small panel; ImageNet's names list synonyms after a comma."""
    return textwrap.shorten(str(name).split(",")[0], 24, placeholder=" …")


def wrap(text: str, inches: float) -> str:
    """Break lines of 12 points so that they are at most so many inches long."""
    width = max(int(inches / 0.096), 8)  # a character of 12 points is about 0.096 inches wide
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())
