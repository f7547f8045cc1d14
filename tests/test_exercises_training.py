"""Notebook 03's checkers name the mistakes that readers make."""

import pytest
import torch

from diffmask_lite import exercises
from diffmask_lite.gates import log_open


def descend(alpha, kl, eps, rate, low, high):
    return min(max(alpha - rate * (kl - eps), low), high)


def unbounded(alpha, kl, eps, rate, low, high):
    return alpha + rate * (kl - eps)


LAGRANGIANS = {
    "multiply": lambda g, kl, a, e: log_open(g).exp().mean() + a * (kl.mean() - e),
    "adds probabilities": lambda g, kl, a, e: log_open(g).exp().sum(1).mean() + a * (kl.mean() - e),
    "mean logarithm": lambda g, kl, a, e: log_open(g).sum(1).mean() + a * (kl.mean() - e),
    "not their sum": lambda g, kl, a, e: log_open(g).sum(1).exp().sum(1).mean() + a * (kl.mean() - e),
    "wrong sign": lambda g, kl, a, e: log_open(g).sum(1).exp().mean() - a * (kl.mean() - e),
    "no gradient": lambda g, kl, a, e: log_open(g.detach()).sum(1).exp().mean() + a * (kl.mean() - e),
}


def solver(sign=+1, floor=0.0, copy=True):
    """Exercise 3 solved, or spoilt in one way."""

    def minimise(cost, violation, start, steps, rate):
        x, alpha = (start.clone() if copy else start).requires_grad_(), 0.0
        for _ in range(steps):
            excess = violation(x)
            (gradient,) = torch.autograd.grad(cost(x) + alpha * excess, x)
            x.data -= rate * gradient
            alpha = max(floor, alpha + sign * rate * excess.item())
        return x.detach(), alpha

    return minimise


def penalty(cost, violation, start, steps, rate):
    """A fixed price: the constraint is met only by luck."""
    x = start.clone().requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(cost(x) + 4 / 3 * violation(x).clamp(min=0), x)
        x.data -= rate * gradient
    return x.detach(), 4 / 3


@pytest.mark.parametrize(("wrong", "words"), [(solver(copy=False), "a copy"), (solver(sign=-1), "does α rise")])
def test_mistakes_in_the_minimum_are_named(wrong, words):
    assert words in exercises.check_minimise(wrong).hint


def test_clamped_violation_is_not_the_lagrangian():
    def clamped(g, kl, a, e):
        return log_open(g).sum(1).exp().mean() + a * (kl.mean() - e).clamp(min=0)

    assert "below ε" in exercises.check_lagrangian(clamped).hint


def test_descent_is_named():
    assert "descent" in exercises.check_ascend(descend).hint


def test_bounds_are_asked_for():
    assert "upper bound" in exercises.check_ascend(unbounded).hint


@pytest.mark.parametrize("words", LAGRANGIANS)
def test_mistakes_in_the_lagrangian_are_named(words):
    assert words in exercises.check_lagrangian(LAGRANGIANS[words]).hint


@pytest.mark.parametrize("wrong", [solver(floor=-float("inf")), penalty])  # a price below 0 rewards a violation
def test_constrained_minimum_without_ascent_or_bound_fails(wrong):
    assert exercises.check_minimise(wrong).status == "failed"


def test_right_minimum_passes():
    assert exercises.check_minimise(solver()).status == "passed"
