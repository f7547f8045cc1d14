"""Gates as drawn: densities against torch's own distribution, masses and means against samples, and readable figures."""

import numpy as np
import pytest
import torch
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

from diffmask_lite import gates, plots
from diffmask_lite.plots.gates import BAR, TOP, _curve, below, gate_masses, gate_mean
from figures import texts

PAPER, LOUIZOS = (0.2, -0.2, 1.0), (2 / 3, -0.1, 1.1)
SETTINGS = [(logit, *setting) for logit in (-3.0, 0.0, 2.0) for setting in (PAPER, LOUIZOS)]
X = np.geomspace(1, 100, 5)
FIGURES = {
    "stages": lambda: plots.gate_stages(0.0, *PAPER),
    "stages, both ends": lambda: plots.gate_stages(1.0, *LOUIZOS),
    "distribution, least": lambda: plots.gate_distribution(-8, 0.05, -1, 1),
    "distribution, middle": lambda: plots.gate_distribution(0, 1.5, -0.5, 1.5),
    "distribution, greatest": lambda: plots.gate_distribution(8, 3, 0, 2),
    "distributions": lambda: plots.gate_distributions(SETTINGS, [f"number {i}" for i in range(6)]),
    "lines": lambda: plots.line_panels(X, {"a": {"one": X, "two": X**2}, "b": {"": X}}, "x", log="xy", lines={"b": 5}),
    "lines, shared names": lambda: plots.line_panels(X, {"a": {"p": X, "q": X}, "b": {"p": X, "q": X}}, "x", marks=False),
    "noise": lambda: plots.gate_noise(X / 100, {"p": X, "q": 1 / X}, {"one": {"p": 3, "q": 1000}, "two": {"p": 1, "q": 2}}),
}


def sampled(setting, n=400_000):
    """A sample of the gate by a formula of our own, in double precision: a coin's noise, steep, stretched and cut."""
    logit, temperature, left, right = setting
    u = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    s = 1 / (1 + (-(logit + (u / (1 - u)).log()) / temperature).exp())
    return (s * (right - left) + left).numpy()


@pytest.mark.parametrize("setting", SETTINGS)
def test_masses_and_mean_are_those_of_samples(setting):
    z = sampled(setting)
    shut, full = gate_masses(*setting)
    assert shut == pytest.approx((z <= 0).mean(), abs=3e-3)
    # Stretched to exactly 1 there is no mass at 1, though even doubles round to it now and then.
    assert full == pytest.approx((z >= 1).mean() if setting[3] > 1 else 0, abs=3e-3)
    assert gate_mean(*setting) == pytest.approx(z.clip(0, 1).mean(), abs=3e-3)
    assert below(0.4, *setting) == pytest.approx((z <= 0.4).mean(), abs=3e-3)


@pytest.mark.parametrize("logit", [-4.0, 0.0, 3.0])
def test_the_mass_at_zero_is_the_packages(logit):
    shut, full = gate_masses(logit, gates.TEMPERATURE, gates.LEFT, gates.RIGHT)
    assert 1 - shut == pytest.approx(gates.prob_open(torch.tensor(logit)).item(), abs=1e-6)
    assert full == 0


@pytest.mark.parametrize("setting", SETTINGS)
def test_density_is_torchs_relaxed_bernoulli_stretched(setting):
    logit, temperature, left, right = setting
    t, density = _curve(setting)
    inside = slice(500, -500)
    s = torch.tensor((t[inside] - left) / (right - left))
    concrete = LogitRelaxedBernoulli(torch.tensor(temperature).double(), logits=torch.tensor(logit).double())
    x = torch.logit(s)
    wanted = (concrete.log_prob(x) - (s * (1 - s)).log()).exp() / (right - left)
    np.testing.assert_allclose(density[inside], wanted, rtol=1e-6)


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_words_do_not_leave_the_figure(draw):
    figure = draw()
    assert plots.alt_text(figure)
    for words, box in texts(figure):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1, words
    assert plots.png(figure).startswith(b"\x89PNG")


def test_bars_have_the_probability_as_their_area():
    axes = plots.gate_stages(0.0, *LOUIZOS).axes
    assert [[bar.get_width() * bar.get_height() for bar in ax.patches] for ax in axes[1:3]] == [[], []]
    for ax, masses in ((axes[0], (0.5, 0.5)), (axes[3], gate_masses(0.0, *LOUIZOS))):
        assert [bar.get_width() * bar.get_height() for bar in ax.patches] == pytest.approx(masses)
        assert [bar.get_center()[0] for bar in ax.patches] == pytest.approx([0, 1])
    assert TOP > 1 / BAR  # so that a bar is never cut off


def test_no_bar_at_one_where_the_stretch_ends_there():
    figure = plots.gate_distributions([(0, *PAPER)], ["paper"], columns=1)
    assert [bar.get_center()[0] for bar in figure.axes[0].patches] == pytest.approx([0])
    assert "0.00 at 1" in plots.alt_text(figure)


def test_distribution_draws_the_gate_against_u():
    setting = (0.5, *PAPER)
    figure = plots.gate_distribution(*setting)
    u, z = figure.axes[1].lines[0].get_data()
    np.testing.assert_allclose(z, gates.sample(torch.tensor(0.5), torch.tensor(u)), atol=1e-6)
    flat = figure.axes[1].lines[1].get_xdata()
    assert flat.max() == pytest.approx(gate_masses(*setting)[0], abs=1e-3)
    assert f"E[z] {gate_mean(*setting):.2f}" in plots.alt_text(figure)


@pytest.mark.parametrize("wrong", [(0, 0, -0.2, 1), (0, 0.2, 0.1, 1), (0, 0.2, -0.2, 0.9)])
def test_a_setting_without_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="temperature above 0, left at most 0 and right at least 1"):
        plots.gate_distribution(*wrong)


def test_line_panels_draw_the_values():
    figure = plots.line_panels(X, {"a": {"one": X, "two": X**2}, "b": {"": X}}, "x", log="x", lines={"b": 5})
    one, two = figure.axes[0].lines
    assert np.array_equal(one.get_ydata(), X) and np.array_equal(two.get_ydata(), X**2)
    assert figure.axes[0].get_xscale() == "log" and figure.axes[0].get_yscale() == "linear"
    assert one.get_linestyle() != two.get_linestyle() and one.get_marker() != two.get_marker()
    assert list(figure.axes[1].lines[1].get_ydata()) == [5, 5]
    assert "a, two: from 1 to 1e+04" in plots.alt_text(figure)


def test_noise_draws_shares_and_samples():
    figure = FIGURES["noise"]()
    curves = figure.axes[0].lines
    assert all(curve.get_ydata().max() == 1 for curve in curves)
    assert [[bar.get_width() for bar in bars] for bars in figure.axes[1].containers] == [[3, 1], [1000, 2]]


def test_noise_says_no_more_than_two_digits_and_what_the_bars_are():
    figure = plots.gate_noise(X / 100, {"p": X, "q": 1 / X}, {"one": {"p": 2391, "q": 34.56}, "two": {"p": 1.04, "q": 998}})
    right = figure.axes[1]
    assert {words.get_text() for words in right.texts} == {"2,400", "35", "1", "1,000"}
    assert [entry.get_text() for entry in right.get_legend().get_texts()] == ["p", "q"]
    assert "greatest for p at z = 1, q at z = 0.01" in plots.alt_text(figure)


def test_a_panel_may_have_a_logarithmic_axis_of_its_own():
    figure = plots.line_panels(X, {"a": {"": X}, "b": {"": X}}, "x", log={"a": "y"})
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "linear"]
    assert [ax.get_xscale() for ax in figure.axes] == ["linear", "linear"]
