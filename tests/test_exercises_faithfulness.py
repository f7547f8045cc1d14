"""Notebook 05's checkers name the mistakes that readers make."""

import numpy as np
import pytest
import torch

from diffmask_lite import exercises


def srg(p_of, relevance, steps=None, area=None, batch=True):
    """Exercise 1 solved, or spoilt in one way."""
    n = len(relevance)
    area = area or (lambda p: torch.trapezoid(p, dx=1 / n))

    def curve(order):
        keep = order.argsort() >= torch.arange(n + 1 if steps is None else steps)[:, None]
        return area(p_of(keep) if batch else torch.cat([p_of(row[None]) for row in keep]))

    return (curve(relevance.argsort()) - curve(relevance.argsort(descending=True))).item()


def no_ends(p):
    return torch.trapezoid(torch.cat([p, torch.zeros(1)]), dx=1 / 5)


SRGS = {
    "the sign is turned": lambda p, r: -srg(p, r),
    "a mean over the points": lambda p, r: srg(p, r, area=torch.mean),
    "divide by n": lambda p, r: srg(p, r, area=torch.trapezoid),
    "called 12 times": lambda p, r: srg(p, r, batch=False),
    "about none": lambda p, r: srg(p, r, steps=5, area=no_ends),
    "LeRF alone": lambda p, r: torch.trapezoid(p(r.argsort().argsort() >= torch.arange(6)[:, None]), dx=1 / 5),
    "MoRF alone": lambda p, r: torch.trapezoid(p(r.argsort(descending=True).argsort() >= torch.arange(6)[:, None]), dx=1 / 5),
    "negative score": lambda p, r: abs(srg(p, r)),
    "should be": lambda p, r: srg(p, r.roll(1)),
}


@pytest.mark.parametrize("words", SRGS)
def test_mistakes_in_srg_are_named(words):
    said = exercises.check_srg(SRGS[words])
    assert said.status == "failed" and words in said.hint


def paired(a, b, draws, rng, tails=(2.5, 97.5)):
    pick = rng.integers(len(a), size=(draws, len(a)))
    return tuple(np.percentile((a - b)[pick].mean(1), tails))


def unpaired(a, b, draws, rng):
    first, second = (rng.integers(len(a), size=(draws, len(a))) for _ in "ab")
    return tuple(np.percentile(a[first].mean(1) - b[second].mean(1), (2.5, 97.5)))


def single(a, b, draws, rng):
    return tuple(np.percentile((a - b)[rng.integers(len(a), size=draws)], (2.5, 97.5)))


PAIRED = {
    "different images": unpaired,
    "spread of single images": single,
    "a − b": lambda a, b, draws, rng: paired(b, a, draws, rng),
    "one standard error": lambda a, b, draws, rng: paired(a, b, draws, rng, (16, 84)),
    "take every random number from `rng`": lambda a, b, draws, rng: paired(a, b, draws, np.random.default_rng()),
    "draw the images with `rng`": lambda a, b, draws, rng: paired(a, b, draws, np.random.default_rng(0)),
    "should be about": lambda a, b, draws, rng: paired(a, b, draws, rng, (0.005, 99.995)),
    "below high": lambda a, b, draws, rng: paired(a, b, draws, rng)[::-1],
    "two numbers": lambda a, b, draws, rng: (a - b).mean(),
}  # fmt: skip


@pytest.mark.parametrize("words", PAIRED)
def test_mistakes_in_the_paired_bootstrap_are_named(words):
    said = exercises.check_paired(PAIRED[words])
    assert said.status == "failed" and words in said.hint


def auroc(values, truth, tie=0.5):
    inside, outside = values[truth][:, None], values[~truth]
    return (inside > outside).float().mean() + tie * (inside == outside).float().mean()


@pytest.mark.parametrize(("tie", "words"), [(1.0, "not a win"), (0.0, "not a loss")])
def test_ties_that_count_for_one_side_are_named(tie, words):
    assert words in exercises.check_auroc(lambda values, truth: auroc(values, truth, tie)).hint


def test_auroc_of_values_and_not_of_ranks_fails():
    assert exercises.check_auroc(lambda v, t: 0.5 + (v[t].mean() - v[~t].mean()) / 2).status == "failed"


@pytest.mark.parametrize("check", [exercises.check_srg, exercises.check_paired, exercises.check_auroc])
def test_right_answers_pass(check):
    right = {"check_srg": srg, "check_paired": paired, "check_auroc": auroc}[check.__name__]
    assert check(right).status == "passed", check(right).hint


def test_another_way_to_draw_images_passes():
    def by_weights(a, b, draws, rng):
        weights = rng.multinomial(len(a), np.full(len(a), 1 / len(a)), size=draws) / len(a)
        return np.quantile(weights @ (a - b), [0.025, 0.975])

    assert exercises.check_paired(by_weights).status == "passed"
