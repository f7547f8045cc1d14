"""Notebook 06's checkers name the mistakes that readers make."""

import pytest
import torch
from torch.nn import functional as F

from diffmask_lite import exercises


def ranks(a):
    return (a[:, None] > a).sum(1) + ((a[:, None] == a).sum(1) - 1) / 2


def spearman(a, b, rank=ranks):
    return torch.corrcoef(torch.stack([rank(a).double(), rank(b).double()]))[0, 1].item()


SPEARMANS = {
    "the scores themselves": lambda a, b: spearman(a, b, lambda x: x),
    "sort once more": lambda a, b: spearman(a, b, torch.argsort),
    "for a score and its negative": lambda a, b: abs(spearman(a, b)),
    "three methods tie": lambda a, b: spearman(a, b, lambda x: x.argsort(stable=True).argsort()),
    "the same order": lambda a, b: -spearman(a, b),
}


@pytest.mark.parametrize("words", SPEARMANS)
def test_mistakes_in_the_rank_correlation_are_named(words):
    said = exercises.check_spearman(SPEARMANS[words])
    assert said.status == "failed" and words in said.hint


def torn(heat, patch, gone, whole=False, descending=True):
    lost = torch.zeros(heat.numel())
    lost[heat.flatten().argsort(descending=descending, stable=True)[:gone]] = 1
    share = F.avg_pool2d(lost.view(1, 1, *heat.shape), patch)
    return int(((share > 0) & ((share < 1) | whole)).sum())


TORN = {
    "is not torn": lambda *a: torn(*a, whole=True),
    "highest": lambda *a: torn(*a, descending=False),
    "one number": lambda heat, patch, gone: torch.zeros(4),
    "it says 0": lambda *a: 0,
    "nothing goes": lambda heat, patch, gone: torn(heat, patch, gone) if gone else 1,
}


@pytest.mark.parametrize("words", TORN)
def test_mistakes_in_counting_torn_patches_are_named(words):
    said = exercises.check_torn(TORN[words])
    assert said.status == "failed" and words in said.hint


def mosaic(tiles, labels, counted, side):
    b, g, _, c, s, _ = tiles.shape
    pictures = tiles.permute(0, 3, 1, 4, 2, 5).reshape(b, c, g * s, g * s)
    there = labels == counted
    return pictures, there.sum((1, 2)), there.repeat_interleave(side, 1).repeat_interleave(side, 2)


def changed(place, how):
    def wrong(*arguments):
        answer = list(mosaic(*arguments))
        answer[place] = how(answer[place], *arguments)
        return tuple(answer)

    return wrong


MOSAICS = {
    "scrambled": changed(0, lambda right, tiles, *_: tiles.reshape(right.shape)),
    "scrambled: before": changed(0, lambda right, tiles, *_: tiles.permute(0, 3, 1, 2, 4, 5).reshape(right.shape)),
    "exchanged": changed(0, lambda right, tiles, *rest: mosaic(tiles.transpose(1, 2), *rest)[0]),
    "not in row": changed(0, lambda right, *_: right.flip(2)),
    "counts, of class 3": changed(1, lambda right, tiles, labels, counted, side: (labels != counted).sum((1, 2))),
    "one entry a tile": changed(2, lambda right, tiles, labels, counted, side: labels == counted),
    "tiled, not spread": changed(2, lambda right, tiles, labels, counted, side: (labels == counted).repeat(1, side, side)),
    "dtype": changed(2, lambda right, *_: right.int()),
    "three tensors": lambda *arguments: mosaic(*arguments)[0],
    "2 × 2 tiles, counts": changed(1, lambda right, tiles, labels, counted, side: (labels == 3).sum((1, 2))),
}


@pytest.mark.parametrize("words", MOSAICS)
def test_mistakes_in_the_mosaic_are_named(words):
    said = exercises.check_mosaic(MOSAICS[words])
    assert said.status == "failed" and words in said.hint, said.hint


def by_hand(tiles, labels, counted, side):
    rows = [torch.cat(list(row.unbind(1)), dim=3) for row in tiles.unbind(1)]
    truth = torch.zeros(len(labels), *(side * n for n in labels.shape[1:])).bool()
    for b, i, j in (labels == counted).nonzero().tolist():
        truth[b, side * i : side * (i + 1), side * j : side * (j + 1)] = True
    return torch.cat(rows, dim=2), torch.tensor([int((one == counted).sum()) for one in labels]), truth


RIGHT = {"check_spearman": [spearman], "check_torn": [torn], "check_mosaic": [mosaic, by_hand]}


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name, answers in RIGHT.items() for answer in answers])
def test_right_answers_pass(name, answer):
    assert getattr(exercises, name)(answer).status == "passed", getattr(exercises, name)(answer).hint
