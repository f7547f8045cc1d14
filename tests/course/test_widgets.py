"""Each slider draws through `plots`, at both its ends and in the middle, and shows one picture."""

import subprocess
import sys

import numpy as np
import pytest

from diffmask_lite import plots, widgets

PICTURE = np.random.default_rng(0).random((32, 32, 3))
MASK = np.linspace(0.02, 0.97, 16).reshape(4, 4)
SLIDERS = {"soft_to_hard": widgets.soft_to_hard, "threshold": widgets.threshold}


@pytest.mark.parametrize("make", SLIDERS.values(), ids=SLIDERS)
def test_moving_the_slider_changes_the_picture(make):
    slider, image = make(PICTURE, MASK).children
    seen, said = set(), set()
    for setting in (slider.min, (slider.min + slider.max) / 2, slider.max):
        slider.value = setting
        assert bytes(image.value).startswith(b"\x89PNG")
        seen.add(bytes(image.value))
        said.add(image.tooltip)
    assert len(seen) == len(said) == 3
    slider.value = slider.min
    assert bytes(image.value) in seen  # the same setting gives the same picture


@pytest.mark.parametrize("make", SLIDERS.values(), ids=SLIDERS)
def test_a_slider_prints_and_displays_nothing_itself(make, capsys, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *args, **_: shown.append(args))
    slider, _ = make(PICTURE, MASK).children
    slider.value = 0.3
    assert not shown
    assert capsys.readouterr() == ("", "")
    assert not slider.continuous_update


@pytest.mark.parametrize(
    ("name", "expected"), [("soft_to_hard", (0.8, 0.4)), ("threshold", (1, 0.8))], ids=["soft_to_hard", "threshold"]
)
def test_callback_calls_plots_with_the_setting(monkeypatch, name, expected):
    calls = []
    draw = plots.soft_to_hard
    monkeypatch.setattr(plots, "soft_to_hard", lambda *args: calls.append(args) or draw(*args))
    extra = {"threshold": 0.4} if name == "soft_to_hard" else {}
    box = SLIDERS[name](PICTURE, MASK, words=lambda setting: f"at {setting}", **extra)
    assert len(calls) == 1  # the first picture is there before anybody moves the slider
    box.children[0].value = 0.8
    picture, mask, hardness, threshold, words = calls[-1]
    assert len(calls) == 2 and picture is PICTURE and mask is MASK
    assert (hardness, threshold) == expected
    assert words == "at 0.8"


def test_the_end_of_the_slider_is_the_hard_mask(monkeypatch):
    seen = []
    draw = plots.soft_to_hard
    monkeypatch.setattr(plots, "soft_to_hard", lambda *args: seen.append(args[2]) or draw(*args))
    slider = widgets.soft_to_hard(PICTURE, MASK).children[0]
    slider.value = sum([0.05] * 20)  # 1.0000000000000002, or just below 1
    assert seen[-1] == 1


def test_missing_ipywidgets_is_said_in_one_sentence():
    code = "import sys; sys.modules['ipywidgets'] = None; import diffmask_lite.plots; import diffmask_lite.widgets"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode != 0
    assert 'pip install "diffmask_lite[lab]"' in run.stderr.splitlines()[-1]


def test_each_slider_of_the_gate_changes_the_picture(monkeypatch):
    calls = []
    draw = plots.gate_distribution
    monkeypatch.setattr(plots, "gate_distribution", lambda *setting: calls.append(setting) or draw(*setting))
    *sliders, image = widgets.gate().children
    assert calls == [(0, 0.2, -0.2, 1)]  # the first picture is that of VISION DIFFMASK's gate
    for place, slider in enumerate(sliders):
        for setting in (slider.min, (slider.min + slider.max) / 2, slider.max):
            before, slider.value = bytes(image.value), setting
            assert calls[-1][place] == pytest.approx(setting, abs=0.03)
        assert bytes(image.value) != before and image.tooltip.startswith("A gate at logit")
    assert [slider.description for slider in sliders] == ["logit", "temperature", "left", "right"]
