"""The hard-concrete distribution with its point masses, the training of single gates, and curves beside each other.

Formulas here are written out in numpy, apart from `diffmask_lite.gates`, so that the one can be tested against the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy import ndarray

from ...plots.canvas import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILION,
    Drawing,
    as_array,
    as_picture,
    bare,
    described,
    in_house_style,
    new_figure,
    outline,
)

TOP = 5.2  # of every density axis; densities of low temperatures run beyond it at their ends
STEM = 4.6  # height of the stem that stands for a probability of 1 on a single value
LOOKS = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"), (VERMILION, ":", "D"))  # told apart without colour too
Setting = tuple[float, float, float, float]  # logit, temperature, left, right


def below(t: Any, logit: float, temperature: float, left: float, right: float) -> ndarray:
    """Return P(stretched ≤ t) = σ(temperature · log((t − left) / (right − t)) − logit), for any t."""
    s = np.clip((as_array(t) - left) / (right - left), 0, 1)
    with np.errstate(divide="ignore"):
        x = temperature * (np.log(s) - np.log1p(-s)) - logit
    return _sigmoid(x)


def gate_masses(logit: float, temperature: float, left: float, right: float) -> tuple[float, float]:
    """Return P(z = 0) and P(z = 1): what the stretched variable has below 0 and above 1."""
    _check(temperature, left, right)
    return float(below(0, logit, temperature, left, right)), float(1 - below(1, logit, temperature, left, right))


def gate_mean(logit: float, temperature: float, left: float, right: float) -> float:
    """Return E[z], the area under P(z > t) for t from 0 to 1."""
    t = np.linspace(0, 1, 4001)
    return float(np.trapezoid(1 - below(t, logit, temperature, left, right), t))


@in_house_style
def gate_paths(paths: Mapping[str, Any], cells: Any, picture: Any = None) -> Drawing:
    """Draw P(z > 0) of an image's gates, step by step, a panel for each training: name -> (steps, N).

    cells: bool (h, w), the cells that matter. picture (H, W, 3): stands in front, with its cells numbered, and behind the
    panels stands the last row of the last training, as a map.
    """
    cells, panels = as_array(cells).astype(bool), {name: as_array(path) for name, path in paths.items()}
    figure, axes = new_figure(3.1, 1, len(panels) + 2 * (picture is not None))
    middle = axes[0, 1:-1] if picture is not None else axes[0]
    for ax, (name, path) in zip(middle, panels.items(), strict=True):
        for j, cell in enumerate(cells.flat):
            ax.plot(path[:, j], "-" if cell else "--", color=BLUE if cell else ORANGE, linewidth=2)
        ax.set(title=name, xlabel="step", ylim=(-0.03, 1.03), xlim=(0, len(path) - 1))
    middle[0].set_ylabel("P(z > 0)")
    handles = [middle[0].plot([], [], look, color=c, linewidth=2)[0] for look, c in (("-", BLUE), ("--", ORANGE))]
    middle[0].legend(handles, ["blue cells", "other cells"], loc="center right", handlelength=2)
    if picture is not None:
        _numbered(axes[0, 0], as_picture(picture), cells)
        _last(axes[0, -1], path[-1].reshape(cells.shape))
    ends = "; ".join(
        f"{name}: blue cells end at {_span(path[-1][cells.flat])}, others at {_span(path[-1][~cells.ravel()])}"
        for name, path in panels.items()
    )
    return described(figure, f"P(z > 0) of {cells.size} gates over {len(path)} steps. {ends}.")


def _numbered(ax: Axes, picture: ndarray, cells: ndarray) -> None:
    (height, width), (h, w) = picture.shape[:2], cells.shape
    ax.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    for j in range(cells.size):
        place = (j % w + 0.5) * width / w, (j // w + 0.5) * height / h
        ax.text(*place, j, ha="center", va="center", color="white" if cells.flat[j] else "black", fontsize=15)
    bare(ax)
    ax.set_title("the image, cells 0 to " + str(cells.size - 1))


def _last(ax: Axes, p: ndarray) -> None:
    ax.imshow(p, cmap="gray", vmin=0, vmax=1, extent=(0, p.shape[1], p.shape[0], 0))
    for (i, j), value in np.ndenumerate(p):
        place = {"ha": "center", "va": "center", "color": "white" if value < 0.5 else "black", "fontsize": 15}
        ax.text(j + 0.5, i + 0.5, f"{value:.2f}", **place)
    outline(ax, p > 0.5, p.shape)
    bare(ax)
    ax.set_title("P(z > 0) at the end")


def _span(values: ndarray) -> str:
    return f"{values.min():.2f} to {values.max():.2f}" if values.size else "none"


@in_house_style
def gate_stages(logit: float, temperature: float, left: float, right: float) -> Drawing:
    """Draw the four steps to a gate: Bernoulli, binary concrete, stretched to (left, right), cut off at 0 and 1."""
    _check(temperature, left, right)
    figure, axes = new_figure(3.1, 1, 4)
    setting = logit, temperature, left, right
    p = float(_sigmoid(np.float64(logit)))
    _stems(axes[0, 0], 1 - p, p)
    _area(axes[0, 1], (logit, temperature, 0.0, 1.0))
    _area(axes[0, 2], setting, tails=True)
    shut, full = _rectified(axes[0, 3], setting)
    titles = "1 Bernoulli", "2 binary concrete", "3 stretched", "4 cut off at 0 and 1"
    for ax, title in zip(axes.flat, titles, strict=True):
        _dress(ax, left, right, ends=ax is axes[0, 2])
        ax.set_title(title)
        ax.set_ylabel("density" if ax is axes[0, 0] else "")
    return described(
        figure,
        f"Four densities at {_words(setting)}. Bernoulli: two stems, {1 - p:.2f} at 0 and {p:.2f} at 1. Binary concrete: a "
        f"curve between 0 and 1 without stems. Stretched: {shut:.2f} of it lies below 0 and {full:.2f} above 1. Cut off: these "
        "are stems at 0 and at 1.",
    )


@in_house_style
def gate_distribution(logit: float, temperature: float, left: float, right: float) -> Drawing:
    """Draw one gate: its density with the point masses, and the gate z as a function of the uniform number it is made from."""
    _check(temperature, left, right)
    setting = logit, temperature, left, right
    figure, axes = new_figure(3.4, 1, 2)
    shut, full = _rectified(axes[0, 0], setting)
    _dress(axes[0, 0], left, right)
    axes[0, 0].set_ylabel("density")
    u = np.linspace(0, 1, 2001)[1:-1]
    noise = np.log(u) - np.log1p(-u)
    z = np.clip(_sigmoid((logit + noise) / temperature) * (right - left) + left, 0, 1)
    axes[0, 1].plot(u, z, color=BLUE, linewidth=2.5)
    axes[0, 1].set(xlabel="uniform number u", ylabel="gate z", xlim=(0, 1), ylim=(-0.04, 1.04))
    for part, place in ((u < shut, 0), (u > 1 - full, 1)):
        if part.any():
            axes[0, 1].plot(u[part], np.full(part.sum(), place), color=VERMILION, linewidth=5, solid_capstyle="butt")
    mean = gate_mean(*setting)
    title = f"P(z = 0) {shut:.2f}   P(z > 0) {1 - shut:.2f}   E[z] {mean:.2f}   P(z = 1) {full:.2f}"
    figure.suptitle(title, fontsize=12)
    return described(
        figure,
        f"A gate at {_words(setting)}: {' '.join(title.split())}. "
        "Right: z rises with the uniform number u and is flat where it is exactly 0 or 1.",
    )


@in_house_style
def gate_distributions(settings: Sequence[Setting], titles: Sequence[str], columns: int = 4) -> Drawing:
    """Draw the density of several gates, (logit, temperature, left, right) each, under their titles: the explorer's twin."""
    rows = -(-len(settings) // columns)
    figure, axes = new_figure(2.45 * rows, rows, columns)
    words = []
    for ax, setting, title in zip(axes.flat, settings, titles, strict=False):
        _check(*setting[1:])
        shut, full = _rectified(ax, setting)
        _dress(ax, *setting[2:])
        ax.set(title=title, xlabel="z" if ax in axes[-1] else "", ylabel="density" if ax in axes[:, 0] else "")
        words.append(f"{title}: {shut:.2f} at 0, {full:.2f} at 1, mean {gate_mean(*setting):.2f}")
    for ax in axes.flat[len(settings) :]:
        ax.set_visible(False)
    return described(figure, f"Densities of {len(settings)} gates with their point masses. {'; '.join(words)}.")


@in_house_style
def line_panels(
    x: Any,
    panels: Mapping[str, Mapping[str, Any]],
    xlabel: str,
    log: str | Mapping[str, str] = "",
    marks: bool = True,
    lines: Mapping[str, float] | None = None,
) -> Drawing:
    """Draw curves over one x, a panel for each entry of `panels`: y label -> {curve's name: values}.

    log: "x", "y" or "xy", the axes that are logarithmic, for all panels or as y label -> axes. marks: whether each point has a
    marker. lines: y label -> the height of a dotted reference line in that panel.
    """
    x = as_array(x)
    figure, axes = new_figure(3.3, 1, len(panels))
    figure.get_layout_engine().set(w_pad=0.1)
    names, words = [list(curves) for curves in panels.values()], []
    shared = len(names[0]) > 1 and all(row == names[0] for row in names)
    for ax, (label, curves) in zip(axes.flat, panels.items(), strict=True):
        for (name, values), (colour, dash, marker) in zip(curves.items(), LOOKS, strict=False):
            values = as_array(values)
            ax.plot(x, values, dash, color=colour, linewidth=2.2, marker=marker if marks else "", markersize=5, label=name)
            words.append(f"{label}, {name}: from {values[0]:.3g} to {values[-1]:.3g}")
        if lines and label in lines:
            ax.axhline(lines[label], color="black", linestyle=(0, (1, 2)), linewidth=1.5)
        ax.set(xlabel=xlabel, ylabel=label)
        for axis, name in ((ax.xaxis, "x"), (ax.yaxis, "y")):
            if name in (log if isinstance(log, str) else log.get(label, "")):
                getattr(ax, f"set_{name}scale")("log")
                axis.set_major_formatter("{x:g}")
        if len(curves) > 1 and not shared:
            # Above the panel, where no curve can run through it.
            ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), handlelength=2.2, borderaxespad=0.1)
    if shared:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, handlelength=2.5)
    span = f"{xlabel} from {x[0]:.3g} to {x[-1]:.3g}"
    return described(figure, f"Curves against {span}. {'; '.join(words)}.")


@in_house_style
def gate_noise(z: Any, slopes: Mapping[str, Any], needed: Mapping[str, Mapping[str, float]]) -> Drawing:
    """Draw why an estimate is noisy: the KL while patches fade, and beside it how many samples each estimator needs.

    slopes: case -> KL where half the patches have the gate z, drawn as a share of its greatest; needed: estimator ->
    {case: samples}, to two digits.
    """
    z, names = as_array(z), list(slopes)
    figure, axes = new_figure(3.4, 1, 2)
    figure.get_layout_engine().set(w_pad=0.1)
    left, right = axes[0]
    for (name, kl), (colour, dash, _) in zip(slopes.items(), LOOKS, strict=False):
        kl = as_array(kl)
        left.plot(z, kl / kl.max(), dash, color=colour, linewidth=2.5, label=name)
    left.set(xlabel="gate z of half the patches", ylabel="KL, share of its maximum", xlim=(0, 1), ylim=(-0.03, 1.05))
    places, tall = np.arange(len(needed)), 0.8 / len(names)
    for i, (name, (colour, _, _)) in enumerate(zip(names, LOOKS, strict=False)):
        values = [float(row[name]) for row in needed.values()]
        bars = right.barh(places + (i - (len(names) - 1) / 2) * tall, values, height=tall * 0.92, color=colour, label=name)
        right.bar_label(bars, [_two_digits(value) for value in values], padding=3, fontsize=11)
    most = max(float(value) for row in needed.values() for value in row.values())
    right.set(yticks=places, yticklabels=list(needed), xscale="log", xlabel="samples until signal = noise", xlim=(1, most * 8))
    right.invert_yaxis()
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(names), handlelength=2.5)
    words = "; ".join(f"{k}: " + ", ".join(f"{n} {_two_digits(v)}" for n, v in row.items()) for k, row in needed.items())
    tops = ", ".join(f"{name} at z = {z[as_array(kl).argmax()]:.2g}" for name, kl in slopes.items())
    return described(figure, f"Left: the KL as half the patches fade in, greatest for {tops}. Right, samples needed. {words}.")


def _two_digits(value: float) -> str:
    """A positive number to two significant digits, as in 2,400: more would promise what an estimate cannot keep."""
    return f"{float(f'{value:.2g}'):,g}"


def _check(temperature: float, left: float, right: float) -> None:
    if not (temperature > 0 and left <= 0 and right >= 1):
        raise ValueError(
            f"A gate needs a temperature above 0, left at most 0 and right at least 1, but these are {temperature:g}, {left:g} "
            f"and {right:g}."
        )


def _words(setting: Setting) -> str:
    logit, temperature, left, right = setting
    return f"logit {logit:g}, temperature {temperature:g}, stretched to ({left:g}, {right:g})"


def _sigmoid(x: Any) -> ndarray:
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(x, dtype=float)))


def _curve(setting: Setting) -> tuple[ndarray, ndarray]:
    """Places in (left, right) and the stretched variable's density there; close to the ends, where it may be steep."""
    logit, temperature, left, right = setting
    x = np.linspace(-14, 14, 4001)  # log(s / (1 − s)) for s from 1e-6 to 1 − 1e-6
    s = _sigmoid(x)
    noise = temperature * x - logit
    density = temperature * _sigmoid(noise) * _sigmoid(-noise) / (s * (1 - s)) / (right - left)
    return s * (right - left) + left, density


def _area(ax: Axes, setting: Setting, tails: bool = False) -> None:
    t, density = _curve(setting)
    parts = [((t >= 0) & (t <= 1), BLUE, "")]
    if tails:
        parts += [(t <= 0, VERMILION, "//"), (t >= 1, VERMILION, "//")]
    for part, colour, hatch in parts:
        ax.fill_between(t[part], density[part], color=colour, alpha=0.45, hatch=hatch, linewidth=0)
        ax.plot(t[part], density[part], color=colour, linewidth=2)


def _stems(ax: Axes, shut: float, full: float) -> None:
    for mass, place in ((shut, 0), (full, 1)):
        if mass > 5e-4:
            ax.vlines(place, 0, STEM * mass, color=VERMILION, linewidth=3)
            ax.plot(place, STEM * mass, "o", color=VERMILION, markersize=9)
            ground = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}  # a density may run behind the words
            words = f"{mass:.2f}" if mass >= 0.005 else "<0.01"
            ax.text(place, STEM * mass + 0.3, words, ha="center", bbox=ground)


def _rectified(ax: Axes, setting: Setting) -> tuple[float, float]:
    shut, full = gate_masses(*setting)
    _area(ax, setting)
    _stems(ax, shut, full)
    return shut, full


def _dress(ax: Axes, left: float, right: float, ends: bool = False) -> None:
    ax.set(
        xlim=(min(left, -0.2) - 0.08, max(right, 1.2) + 0.08),
        ylim=(0, TOP),
        yticks=[0, 2, 4],
        xticks=[0, 0.5, 1],
        xlabel="z",
    )
    for value in {left, right} - {0, 1} if ends else ():
        ax.axvline(value, color="black", linestyle=(0, (1, 2)), linewidth=1)
