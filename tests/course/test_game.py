"""The game's rules on a ViT whose truth is known, the greedy opponent, and the view's buttons, without a browser."""

import pytest
import torch

from diffmask_lite import plots, weights, widgets
from diffmask_lite.datasets import ColourGrid
from diffmask_lite.game import Game, Position, greedy_subset, verdict

VIT, EXPLAINER = weights.pretrained("grid")
FRESH = ColourGrid(40, seed=5)
SOME = [i for i in range(40) if 2 <= FRESH.cells[i].sum() <= 5][:3]
IMAGES, CELLS = FRESH.images[SOME], FRESH.cells[SOME]
COUNTS = [f"{n} blue" for n in range(10)]


def position(kept=3, same=True, rival=5, rival_same=True, helped=False, kl=0.1):
    keep = torch.arange(9).view(3, 3) < kept
    return Position(keep, torch.zeros(10), torch.zeros(10), kl, same, rival, 0.3, rival_same, helped)


def test_a_board_opens_with_every_patch_on_and_the_answer_kept():
    seen = Game(EXPLAINER, IMAGES).look()
    assert seen.keep.all() and seen.same and not seen.won and not seen.helped
    assert seen.kl == pytest.approx(0, abs=1e-5)
    assert torch.allclose(seen.before, seen.after, atol=1e-4)


def test_toggling_a_counted_cell_off_loses_the_answer_and_on_again_restores_it():
    board = Game(EXPLAINER, IMAGES)
    row, column = CELLS[0].nonzero()[0].tolist()
    board.toggle(row, column)
    lost = board.look()
    assert not lost.same and lost.kl > 0.5 and lost.kept == 8 and not lost.keep[row, column]
    board.toggle(row, column)
    assert board.look().same


def test_one_board_does_not_touch_another_nor_the_explanation():
    board = Game(EXPLAINER, IMAGES)
    before = board.result.keep.clone()
    board.show_diffmask()
    board.toggle(0, 0)
    shown = board.look()
    board.toggle(1, 1)
    assert torch.equal(board.result.keep, before)
    assert not torch.equal(shown.keep, board.keep)
    board.open(1)
    assert board.look().keep.all()


def test_each_look_asks_the_vit_once(monkeypatch):
    board, calls = Game(EXPLAINER, IMAGES), []
    handle = VIT.register_forward_hook(lambda *_: calls.append(1))
    board.toggle(0, 0)
    board.look()
    handle.remove()
    assert len(calls) == 1


def test_what_the_board_says_is_what_verify_says():
    board = Game(EXPLAINER, IMAGES)
    board.open(2)
    board.show_diffmask()
    seen, check = board.look(), EXPLAINER.verify(IMAGES[2:], board.result.keep[2:])
    assert seen.kl == pytest.approx(check.kl.item(), abs=1e-5)
    assert seen.rival_kl == pytest.approx(seen.kl, abs=1e-5)
    assert seen.kept == seen.rival == int(CELLS[2].sum())
    assert seen.helped and not seen.won


def test_images_follow_in_a_circle_and_all_off_and_on():
    board = Game(EXPLAINER, IMAGES)
    board.open(len(IMAGES))
    assert board.index == 0
    board.show_diffmask()
    board.fill(False)
    assert board.look().kept == 0 and not board.helped
    board.fill(True)
    assert board.look().kept == 9


@pytest.mark.parametrize(
    ("state", "won", "words"),
    [
        (position(4), True, "You win"),
        (position(5), False, "Still"),  # as many are not fewer
        (position(6), False, "Still"),
        (position(4, same=False), False, "lost"),
        (position(4, helped=True), True, "started from its mask"),
        (position(8, rival_same=False), True, "anything below 9 wins"),
        (position(9, rival_same=False), False, "anything below 9 wins"),
        (position(0), True, "0 patches"),
    ],
)
def test_verdict(state, won, words):
    assert state.won == won
    assert words in verdict(state, "cat", "dog")
    assert ("dog" in verdict(state, "cat", "dog")) == (not state.same)


@pytest.mark.parametrize(
    ("state", "close", "words"),
    [
        (position(4, kl=0.3), True, "no larger than its 0.30: reached"),  # as large is no larger
        (position(4, kl=0.31), False, "no larger than its 0.30: not yet (0.31)"),
        (position(5, kl=0.0), False, "Still"),  # no win, so no second level either
        (position(4, kl=0.0, same=False), False, "lost"),
    ],
)
def test_the_second_level_asks_for_a_kl_no_larger_than_diffmasks(state, close, words):
    assert state.close == close
    assert words in verdict(state, "cat", "dog")
    assert ("Level 2" in verdict(state, "cat", "dog")) == state.won


def test_a_record_needs_a_win_without_help_and_only_falls(monkeypatch):
    board = Game(EXPLAINER, IMAGES)
    board.check.agree[:] = False  # so that any answer kept with fewer than 9 patches wins
    empty = (~CELLS[0]).nonzero().tolist()
    board.show_diffmask()
    assert board.look().won and board.best == {}
    board.fill(True)
    for row, column in empty[:2]:
        board.toggle(row, column)
    board.look()
    assert board.best == {0: 7}
    board.toggle(*empty[0])
    board.look()
    assert board.best == {0: 7}


def test_greedy_finds_the_true_cells_one_move_at_a_time():
    keep, kl = greedy_subset(EXPLAINER, IMAGES[0])
    assert keep.shape == (10, 3, 3) and kl.shape == (10,)
    assert keep.flatten(1).sum(1).tolist() == list(range(9, -1, -1))
    assert ((keep[:-1] & ~keep[1:]).flatten(1).sum(1) == 1).all() and not (keep[1:] & ~keep[:-1]).any()
    n = int(CELLS[0].sum())
    assert torch.equal(keep[9 - n], CELLS[0])  # the only set of n cells that keeps the count
    check = EXPLAINER.verify(IMAGES[:1].expand(10, -1, -1, -1), keep)
    assert torch.allclose(kl, check.kl, atol=1e-5)
    # each first move is the best of all, by brute force
    trials = ~torch.eye(9).bool().view(9, 3, 3)
    every = EXPLAINER.verify(IMAGES[:1].expand(9, -1, -1, -1), trials).kl
    assert kl[1] == pytest.approx(every.min().item(), abs=1e-5)


# ---- The view -------------------------------------------------------------------------------------------------------


def parts(box):
    """The patches, the commands by name, the words and the style of a board."""
    board, side = box.children
    score, commands, style = side.children
    patches = [child for child in board.children if "patch" in child._dom_classes]
    return patches, {b.description: b for b in commands.children}, score, style


def view(names=COUNTS):
    return widgets.beat_the_mask(EXPLAINER, IMAGES, plots.displayable(IMAGES), names)


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


def test_rows_and_columns_are_numbered_along_the_edges():
    board = view().children[0].children
    assert len(board) == 16 and [place.value for place in board[:4]] == ["", "1", "2", "3"]
    for row in (1, 2, 3):
        label, *patches = board[4 * row : 4 * row + 4]
        assert label.value == str(row)
        for column, patch in enumerate(patches, 1):
            assert patch.tooltip.startswith(f"row {row}, column {column}:")


def test_a_patch_off_is_grey_even_without_our_style():
    patches, *_ = parts(view())
    patches[4].click()
    assert patches[4].style.button_color == "#808080"
    assert patches[0].style.button_color == "#{:02x}{:02x}{:02x}".format(
        *(round(255 * float(c)) for c in plots.displayable(IMAGES)[0][:16, :16].mean((0, 1)))
    )


def test_names_are_escaped_and_two_boards_keep_their_own_style():
    one, two = view(["<script>"] * 10), view()
    assert "<script>" not in parts(one)[2].value and "&lt;script&gt;" in parts(one)[2].value
    (first,), (second,) = one._dom_classes, two._dom_classes
    assert first != second and first in parts(one)[3].value and first not in parts(two)[3].value


def test_each_button_shows_its_own_part_of_the_picture():
    style = parts(view())[3].value
    side = 440 // 3
    for n in range(9):
        assert f".p{n} {{background-position: -{n % 3 * side}px -{n // 3 * side}px}}" in style


def test_the_browser_shows_the_mask_that_its_controls_ask_for():
    result, asked = EXPLAINER.explain(IMAGES), []
    box = widgets.browse(plots.displayable(IMAGES), result, lambda i, keep: asked.append((i, keep)) or "words", list("abc"))
    image, layer, limit, shown = box.children
    assert layer.value == layer.max == result.layers.shape[1] - 1
    assert asked[-1][0] == 0 and torch.equal(asked[-1][1], result.mask[:1] > 0.5)
    first = bytes(shown.value)
    image.value, layer.value, limit.value = 2, 0, 0.2
    assert asked[-1][0] == 2 and torch.equal(asked[-1][1], result.layers[2, :1] > 0.2)
    assert bytes(shown.value) != first and bytes(shown.value).startswith(b"\x89PNG") and "words" in shown.tooltip
