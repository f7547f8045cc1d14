"""The game's rules on a ViT whose truth is known, and the greedy opponent."""

import pytest
import torch

from diffmask_lite import weights
from diffmask_lite.course.game import Game, Position, greedy_subset, standing
from diffmask_lite.datasets import ColourGrid

VIT, EXPLAINER = weights.pretrained("grid")
FRESH = ColourGrid(40, seed=5)
SOME = [i for i in range(40) if 2 <= FRESH.cells[i].sum() <= 5][:3]
IMAGES, CELLS = FRESH.images[SOME], FRESH.cells[SOME]


@pytest.fixture
def board():
    return Game(EXPLAINER, IMAGES)


def position(kept=3, same=True, rival=5, rival_same=True, helped=False, kl=0.1):
    keep = torch.arange(9).view(3, 3) < kept
    return Position(keep, torch.zeros(10), torch.zeros(10), kl, same, rival, 0.3, rival_same, helped)


def test_a_board_opens_full_and_a_counted_cell_taken_away_loses_the_answer(board):
    seen = board.look()
    assert seen.keep.all() and seen.same and not seen.won and not seen.helped
    assert seen.kl == pytest.approx(0, abs=1e-5)
    assert torch.allclose(seen.before, seen.after, atol=1e-4)
    row, column = CELLS[0].nonzero()[0].tolist()
    board.toggle(row, column)
    lost = board.look()
    assert not lost.same and lost.kl > 0.5 and lost.kept == 8 and not lost.keep[row, column]
    board.toggle(row, column)
    assert board.look().same


def test_boards_are_filled_shown_and_opened_without_touching_each_other_or_the_explanation(board):
    before = board.result.keep.clone()
    board.show_diffmask()
    board.toggle(0, 0)
    shown = board.look()
    board.toggle(1, 1)
    assert torch.equal(board.result.keep, before)
    assert not torch.equal(shown.keep, board.keep)
    board.open(1)
    assert board.index == 1 and board.look().keep.all()
    board.open(len(IMAGES))  # after the last comes the first
    assert board.index == 0
    board.show_diffmask()
    board.fill(False)
    assert board.look().kept == 0 and not board.helped
    board.fill(True)
    assert board.look().kept == 9


def test_each_look_asks_the_vit_once(board):
    calls = []
    handle = VIT.register_forward_hook(lambda *_: calls.append(1))
    board.toggle(0, 0)
    board.look()
    handle.remove()
    assert len(calls) == 1


def test_what_the_board_says_is_what_verify_says(board):
    board.open(2)
    board.show_diffmask()
    seen, check = board.look(), EXPLAINER.verify(IMAGES[2:], board.result.keep[2:])
    assert seen.kl == pytest.approx(check.kl.item(), abs=1e-5)
    assert seen.rival_kl == pytest.approx(seen.kl, abs=1e-5)
    assert seen.kept == seen.rival == int(CELLS[2].sum())
    assert seen.helped and not seen.won


@pytest.mark.parametrize(
    ("state", "won", "close", "words"),
    [
        (position(4), True, True, "You win"),
        (position(5), False, False, "Still"),  # as many are not fewer
        (position(6), False, False, "Still"),
        (position(4, same=False), False, False, "lost"),
        (position(4, helped=True), True, True, "started from its mask"),
        (position(8, rival_same=False), True, True, "anything below 9 wins"),
        (position(9, rival_same=False), False, False, "anything below 9 wins"),
        (position(0), True, True, "0 patches"),
        (position(4, kl=0.3), True, True, "no larger than its 0.30: reached"),  # as large is no larger
        (position(4, kl=0.31), True, False, "no larger than its 0.30: not yet (0.31)"),
        (position(5, kl=0.0), False, False, "Still"),  # no win, so no second level either
        (position(4, kl=0.0, same=False), False, False, "lost"),
    ],
)
def test_standing(state, won, close, words):
    said = standing(state, "cat", "dog")
    assert (state.won, state.close) == (won, close) and words in said
    assert ("dog" in said) == (not state.same)
    assert ("Level 2" in said) == (won and not state.helped)


def test_a_record_needs_a_win_without_help_and_only_falls(board):
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
    assert not (keep[1:] & ~keep[:-1]).any()
    assert torch.equal(keep[9 - int(CELLS[0].sum())], CELLS[0])  # the only set of so many cells that keeps the count
    check = EXPLAINER.verify(IMAGES[:1].expand(10, -1, -1, -1), keep)
    assert torch.allclose(kl, check.kl, atol=1e-5)
    # The first move is the best of all, by brute force.
    every = EXPLAINER.verify(IMAGES[:1].expand(9, -1, -1, -1), ~torch.eye(9).bool().view(9, 3, 3)).kl
    assert kl[1] == pytest.approx(every.min().item(), abs=1e-5)
