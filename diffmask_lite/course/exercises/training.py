"""The checkers of notebook 04."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from ...gates import log_open
from ..results import folder, read
from .verdict import Wrong, checker, expect


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
def check_slopes(slopes: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Check `slopes(p)`: P(z > 0) of some gates → the slopes of P and of log P with respect to the logit."""
    logits = torch.linspace(-6, 6, 13).view(1, 13).requires_grad_()
    p = log_open(logits).exp()
    (of_p,) = torch.autograd.grad(p.sum(), logits, retain_graph=True)
    (of_log,) = torch.autograd.grad(p.log().sum(), logits)
    p = p.detach()
    found = slopes(p)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("return two tensors: the slope of P, and the slope of log P")
    if all(isinstance(part, Tensor) and part.shape == p.shape for part in found):
        if torch.allclose(found[0], of_log, atol=1e-5) and torch.allclose(found[1], of_p, atol=1e-5):
            raise Wrong("the two slopes are in the wrong order: P comes first, log P second")
        if torch.allclose(found[1], 1 / p, atol=1e-5):
            raise Wrong(
                "1 / P is the slope of log P with respect to P; multiply it by the slope of P with respect to the logit"
            )
    expect(found[0], of_p, "for the slope of P with respect to the logit", 1e-5)
    expect(found[1], of_log, "for the slope of log P with respect to the logit", 1e-5)


# Exercise "four histories": lesson, run, seed, how many of the stored rows (None: all), and the diagnosis
UNLABELLED = {
    "A": ("placeholder", "blue placeholder", 1, 20, "violated"),
    "B": ("reference", "sound", 0, None, "settled"),
    "C": ("raw states", "as they are", 1, 26, "idle"),
    "D": ("sparsity", "mean log P", 0, None, "collapsed"),
}
CLUES = {
    "violated": "look at its KL: where does it end, compared with ε?",
    "settled": "look at its end: is the KL below ε, and is the share kept at rest below 1?",
    "idle": "look at its share kept: has it removed anything?",
    "collapsed": "look at the end of its share kept and of its KL together",
}


def unlabelled_histories() -> dict[str, pd.DataFrame]:
    """Return four trainings on the colour grid by a letter, as `History.frame` gives them; two were stopped early."""
    stored = read(folder() / "training_histories.csv")
    stored = stored[stored["task"] == "grid"]
    keys = ["lesson", "run", "seed"]
    return {
        name: stored[(stored[keys] == pd.Series(dict(zip(keys, key, strict=True)))).all(axis=1)].iloc[:rows]
        for name, (*key, rows, _) in UNLABELLED.items()
    }


@checker
def check_diagnose(diagnose: Callable[[], dict[str, str]]) -> None:
    """Check `diagnose()` → {"A": word, …}, a diagnosis of each of the `unlabelled_histories`."""
    found = diagnose()
    if not isinstance(found, dict) or set(found) != set(UNLABELLED):
        raise Wrong(f"return a dictionary with the keys {', '.join(UNLABELLED)}")
    for name, (*_, right) in UNLABELLED.items():
        if found[name] != right:
            raise Wrong(f"{name} is not {found[name]!r}: {CLUES[right]}")
