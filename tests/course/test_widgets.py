"""Sliders draw through `figures`, one picture at each setting; the buttons of the game's view reach the game. No browser."""

import importlib
import sys

import IPython.display
import numpy as np
import pytest
from test_game import CELLS, EXPLAINER, IMAGES

from diffmask_lite import plots
from diffmask_lite.course import figures, widgets

PICTURE = np.random.default_rng(0).random((32, 32, 3))
MASK = np.linspace(0.02, 0.97, 16).reshape(4, 4)
COUNTS = [f"{n} blue" for n in range(10)]


@pytest.fixture
def calls(monkeypatch):
    """What the figures behind the sliders are asked for."""
    noted = []
    for name in ("soft_to_hard", "gate_distribution"):
        draw = getattr(figures, name)
        monkeypatch.setattr(figures, name, lambda *args, draw=draw: noted.append(args) or draw(*args))
    return noted


@pytest.mark.parametrize(
    ("make", "extra", "expected"),
    [(widgets.soft_to_hard, {"threshold": 0.4}, (0.8, 0.4)), (widgets.threshold, {}, (1, 0.8))],
    ids=["soft_to_hard", "threshold"],
)
def test_moving_the_slider_draws_its_setting_and_shows_nothing_else(make, extra, expected, calls, capsys, monkeypatch):
    displayed = []
    monkeypatch.setattr(IPython.display, "display", lambda *args, **_: displayed.append(args))
    slider, image = make(PICTURE, MASK, words=lambda setting: f"at {setting}", **extra).children
    assert len(calls) == 1 and not slider.continuous_update  # the first picture is there before anybody moves the slider
    slider.value = 0.8
    picture, mask, *settings, words = calls[-1]
    assert len(calls) == 2 and picture is PICTURE and mask is MASK and tuple(settings) == expected and words == "at 0.8"
    seen = {}
    for setting in (slider.min, (slider.min + slider.max) / 2, slider.max, slider.min):
        slider.value = setting
        assert bytes(image.value).startswith(b"\x89PNG")
        assert seen.setdefault(setting, (bytes(image.value), image.tooltip)) == (bytes(image.value), image.tooltip)
    assert len(set(seen.values())) == len({words for _, words in seen.values()}) == 3
    assert not displayed and capsys.readouterr() == ("", "")


def test_the_end_of_the_slider_is_the_hard_mask(calls):
    slider = widgets.soft_to_hard(PICTURE, MASK).children[0]
    slider.value = sum([0.05] * 20)  # 1.0000000000000002, or just below 1
    assert calls[-1][2] == 1


def test_each_slider_of_the_gate_changes_the_picture(calls):
    *sliders, image = widgets.gate().children
    assert calls == [(0, 0.2, -0.2, 1)]  # the first picture is that of VISION DIFFMASK's gate
    for place, slider in enumerate(sliders):
        for setting in (slider.min, slider.max):
            before, slider.value = bytes(image.value), setting
            assert calls[-1][place] == pytest.approx(setting, abs=0.03)
        assert bytes(image.value) != before and image.tooltip.startswith("A gate at logit")
    assert [slider.description for slider in sliders] == ["logit", "temperature", "left", "right"]


def test_missing_ipywidgets_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.delitem(sys.modules, widgets.__name__)
    with pytest.raises(ImportError, match=r'^The sliders need ipywidgets.*pip install "diffmask_lite\[lab\]"$'):
        importlib.import_module(widgets.__name__)


# ---- The game ----
def view(names=COUNTS):
    return widgets.beat_the_mask(EXPLAINER, IMAGES, plots.displayable(IMAGES), names)


def parts(box):
    """The patches, the commands by name, the words and the style of a board."""
    board, side = box.children
    score, commands, style = side.children
    patches = [child for child in board.children if "patch" in child._dom_classes]
    return patches, {b.description: b for b in commands.children}, score, style


def off(patches):
    return [n for n, patch in enumerate(patches) if "off" in patch._dom_classes]


def test_clicks_reach_the_game_and_the_words():
    patches, commands, score, style = parts(view())
    assert len(patches) == 9 and off(patches) == []
    number = CELLS[0].flatten().int().argmax().item()
    patches[number].click()
    assert off(patches) == [number]
    assert "lost" in score.value and "<b>8</b> patches" in score.value
    assert f"row {number // 3 + 1}, column {number % 3 + 1}: off" == patches[number].tooltip
    patches[number].click()
    assert off(patches) == [] and "lost" not in score.value
    commands["Show DiffMask's mask"].click()
    assert off(patches) == (~CELLS[0]).flatten().nonzero().flatten().tolist()
    commands["All off"].click()
    assert len(off(patches)) == 9
    commands["All on"].click()
    before = style.value
    commands["Next image"].click()
    assert style.value != before and off(patches) == []


def test_rows_and_columns_are_numbered_and_each_button_shows_its_own_part_of_the_picture():
    box = view()
    board, side = box.children[0].children, 440 // 3
    assert len(board) == 16 and [place.value for place in board[:4]] == ["", "1", "2", "3"]
    for row in (1, 2, 3):
        label, *patches = board[4 * row : 4 * row + 4]
        assert label.value == str(row)
        for column, patch in enumerate(patches, 1):
            n, place = 3 * row + column - 4, f"-{(column - 1) * side}px -{(row - 1) * side}px"
            assert patch.tooltip.startswith(f"row {row}, column {column}:") and f"p{n}" in patch._dom_classes
            assert f".p{n} {{background-position: {place}}}" in parts(box)[3].value


def test_a_patch_off_is_grey_even_without_our_style():
    patches, *_ = parts(view())
    patches[4].click()
    assert patches[4].style.button_color == "#808080"
    mean = plots.displayable(IMAGES)[0][:16, :16].mean((0, 1))
    assert patches[0].style.button_color == "#{:02x}{:02x}{:02x}".format(*(round(255 * float(c)) for c in mean))


def test_names_are_escaped_and_two_boards_keep_their_own_style():
    one, two = view(["<script>"] * 10), view()
    assert "<script>" not in parts(one)[2].value and "&lt;script&gt;" in parts(one)[2].value
    (first,), (second,) = one._dom_classes, two._dom_classes
    assert first != second and first in parts(one)[3].value and first not in parts(two)[3].value
