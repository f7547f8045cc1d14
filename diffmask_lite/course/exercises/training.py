"""The checkers of notebook 03."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...gates import log_open
from .verdict import Wrong, checker, expect


@checker
def check_ascend(ascend: Callable[..., float]) -> None:
    """Check `ascend(alpha, kl, eps, rate, low, high)`, all floats → the new multiplier, a float in [low, high]."""
    cases = (
        ((1.0, 0.5, 0.1, 0.3, 0.0, 200.0), 1.12, "for a constraint that is violated (KL 0.5, ε 0.1), α 1 and rate 0.3"),
        ((1.0, 0.0, 0.1, 0.3, 0.0, 200.0), 0.97, "for a constraint with slack (KL 0, ε 0.1), α 1 and rate 0.3"),
        ((1.0, 0.1, 0.1, 0.3, 0.0, 200.0), 1.0, "where KL equals ε"),
        ((199.9, 9.0, 0.1, 0.3, 0.0, 200.0), 200.0, "at the upper bound of 200"),
        ((0.1, 0.0, 0.1, 0.3, 0.1, 200.0), 0.1, "at the lower bound of 0.1"),
    )
    found = float(ascend(*cases[0][0]))
    if abs(found - 0.88) < 1e-6:
        raise Wrong("that is descent: where KL is above ε, the price α has to rise")
    for arguments, wanted, where in cases:
        found = float(ascend(*arguments))
        if not abs(found - wanted) < 1e-6:
            raise Wrong(f"{where} α should become {wanted:g}, but it is {found:g}")


@checker
def check_lagrangian(lagrangian: Callable[..., Tensor]) -> None:
    """Check `lagrangian(gate_logits, kl, alpha, eps)`: (B, k + 1, N), (B,), floats → scalar tensor with a gradient."""
    draw = torch.Generator().manual_seed(0)
    logits, kl = torch.randn(3, 4, 5, generator=draw), torch.rand(3, generator=draw)
    each = log_open(logits)  # (3, 4, 5)
    kept, excess = each.exp().prod(1).mean(), kl.mean() - 0.1
    found = lagrangian(logits, kl, 2.0, 0.1)
    if isinstance(found, Tensor) and found.ndim == 0:
        mistakes = {
            "the gates of all layers must let a patch through: multiply their probabilities over the layers": each.exp().mean(),
            "that adds probabilities over the layers; a patch is kept if all gates keep it": each.exp().sum(1).mean(),
            "that is the mean logarithm, which rewards shut gates without end; take the probability itself": each.sum(1).mean(),
            "every patch counts the same: take the mean over patches, not their sum": each.exp().prod(1).sum(1).mean(),
        }
        for hint, cost in mistakes.items():
            if torch.isclose(found, cost + 2.0 * excess, atol=1e-5):
                raise Wrong(hint)
        if torch.isclose(found, kept - 2.0 * excess, atol=1e-5):
            raise Wrong("the price has the wrong sign: a violated constraint must make the Lagrangian larger")
    expect(found, kept + 2.0 * excess, "for random logits, α = 2 and ε = 0.1")
    slack = lagrangian(logits, torch.zeros(3), 2.0, 0.1)
    expect(slack, kept - 0.2, "where KL is 0, below ε, so that the second term is negative,")
    free = logits.clone().requires_grad_()
    value = lagrangian(free, kl, 0.0, 0.1)
    if not value.requires_grad:
        raise Wrong("the result has no gradient with respect to the gates' logits; keep it a tensor")
    expect(value.detach(), kept, "with a price of 0")


@checker
def check_minimise(minimise: Callable[..., tuple[Tensor, float]]) -> None:
    """Check `minimise(cost, violation, start, steps, rate)` → (x, alpha): a constrained minimum and its multiplier."""
    pull = torch.tensor([3.0, 4.0])
    cases = (
        ("minimise x² + 2y² subject to x + y ≥ 1", lambda x: x[0] ** 2 + 2 * x[1] ** 2, lambda x: 1 - x.sum(),
         [1.0, 1.0], [2 / 3, 1 / 3], 4 / 3),
        ("come as near to (3, 4) as x₁ + x₂ ≤ 3 allows", lambda x: (x - pull).square().sum(), lambda x: x.sum() - 3,
         [0.0, 0.0], [1.0, 2.0], 4.0),
        ("minimise x² where x ≤ 5 is no hindrance", lambda x: x.square().sum(), lambda x: x.sum() - 5, [4.0], [0.0], 0.0),
    )  # fmt: skip
    begin = torch.tensor([1.0, 1.0])
    first, _ = minimise(cases[0][1], cases[0][2], begin, 1, 0.05)
    if not torch.equal(begin, torch.ones(2)):
        raise Wrong("it changed `start` itself; work on a copy")
    expect(first.detach(), torch.tensor([0.9, 0.8]), "after one step from (1, 1) with α = 0, that is along −∇cost alone,")
    for where, cost, violation, start, wanted, price in cases:
        x, alpha = minimise(cost, violation, torch.tensor(start), 2000, 0.05)
        if float(violation(x)) > 0.1:
            raise Wrong(f"asked to {where}, it ends outside what is allowed: does α rise while the constraint is violated?")
        expect(x.detach(), torch.tensor(wanted), f"asked to {where},", 1e-2)
        if not abs(float(alpha) - price) < 1e-2:
            raise Wrong(f"asked to {where}, α should end at {price:.3g}, but it is {float(alpha):.3g}")
