"""The checkers of notebook 02. Their answers come by ways of their own: counting over u, and sums in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...gates import LEFT, RIGHT, TEMPERATURE
from .verdict import Wrong, checker, expect

AN_AXIS = "t needs an axis of its own: logits[..., None]"
AT_ONE = "for r = 1 the formula divides by r − 1 = 0: what does the logarithm tend to, and what σ of it?"


@checker
def check_log_kept(log_kept: Callable[[Tensor], Tensor]) -> None:
    """Check `log_kept(logits)`: gates (L, N) → log-probability (N,) that all L gates of a patch are open."""
    shift = TEMPERATURE * torch.tensor(-LEFT / RIGHT, dtype=torch.float64).log()
    logits = torch.tensor([[0.0, 3.0, -1.0], [2.0, 3.0, 5.0]])
    found = log_kept(logits)
    each = F.logsigmoid(logits.double() - shift)
    if isinstance(found, Tensor) and found.shape == (3,):
        if torch.allclose(found.double(), each.sum(0).exp(), atol=1e-4):
            raise Wrong("that is the probability; return its logarithm")
        if torch.allclose(found.double(), F.logsigmoid(logits.double()).sum(0), atol=1e-4):
            raise Wrong("that is log σ(logit), without the shift by temperature · log(−l / r)")
        if torch.allclose(found.double(), each.mean(0), atol=1e-4):
            raise Wrong("log-probabilities of independent gates add up; that is their mean")
    expect(found, each.sum(0), "for 2 layers of 3 patches")
    hopeless = torch.full((8, 1), -40.0)  # the probability is about 1e-138, and 0 in float32
    expect(log_kept(hopeless), F.logsigmoid(hopeless.double() - shift).sum(0), "for 8 gates with logit −40", 1e-2)


@checker
def check_masses(masses: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Check `masses(logits, temperature, left, right)` → (P(z = 0), P(z = 1)), each shaped as the logits."""
    logits = torch.tensor([-3.0, 0.0, 0.5, 4.0])
    for name, temperature, left, right in (
        ("VISION DIFFMASK's setting (0.2, −0.2, 1)", 0.2, -0.2, 1.0),
        ("the setting of Louizos et al. (2/3, −0.1, 1.1)", 2 / 3, -0.1, 1.1),
        ("a lopsided stretch (0.5, −0.3, 1.05)", 0.5, -0.3, 1.05),
    ):
        z = _stretched(logits, temperature, left, right)
        wanted = [(z <= 0).double().mean(-1), (z >= 1).double().mean(-1)]
        shut, full = _pair(_masses_of(masses, logits, temperature, left, right))
        if _close(shut, wanted[1], 1e-3) and _close(full, wanted[0], 1e-3):
            raise Wrong("these two are swapped: P(z = 0) comes first, then P(z = 1)")
        if _close(shut, 1 - wanted[0], 1e-3):
            raise Wrong("the first number should be P(z = 0), and that is P(z > 0)")
        expect(shut, wanted[0], f"with {name} P(z = 0):", 1e-3)
        if right == 1 and isinstance(full, Tensor) and not full.isfinite().all():
            raise Wrong(AT_ONE)
        expect(full, wanted[1], f"with {name} P(z = 1):", 1e-3)


@checker
def check_mean_gate(mean_gate: Callable[[Tensor], Tensor]) -> None:
    """Check `mean_gate(logits)` → E[z] at temperature 0.2 and stretch (−0.2, 1), shaped as the logits."""
    logits = torch.tensor([-4.0, -1.0, 0.0, 2.0, 5.0])
    stretched = _stretched(logits, TEMPERATURE, LEFT, RIGHT)
    found, wanted = _mean_of(mean_gate, logits), stretched.clamp(0, 1).mean(-1)
    if isinstance(found, Tensor) and found.shape != wanted.shape:
        raise Wrong(AN_AXIS + f"; the answer should have shape {tuple(wanted.shape)}, but it has {tuple(found.shape)}")
    if isinstance(found, Tensor) and found.shape == wanted.shape:
        if torch.allclose(found.double(), stretched.mean(-1), atol=2e-3):
            raise Wrong("that is the mean before cutting off at 0: negative values count as 0")
        if torch.allclose(found.double(), (stretched > 0).double().mean(-1), atol=2e-3):
            raise Wrong("that is P(z > 0): a gate that is not shut need not be fully open")
    expect(found, wanted, "for logits −4, −1, 0, 2 and 5", 2e-3)
    expect(mean_gate(logits.view(5, 1)), wanted.view(5, 1), "for logits of shape (5, 1)", 2e-3)


def _stretched(logits: Tensor, temperature: float, left: float, right: float) -> Tensor:
    """The stretched variable at 200,000 evenly spaced u, (…, 200000), in double precision: no sample, so no chance."""
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    s = torch.sigmoid((logits.double()[..., None] + torch.logit(u)) / temperature)
    # Doubles close to 1 round to it, and a stretch that ends at 1 never gets there.
    return (s * (right - left) + left).where(s < 1, torch.tensor(right if right > 1 else 1 - 1e-15, dtype=torch.float64))


def _masses_of(masses: Callable, logits: Tensor, temperature: float, left: float, right: float) -> Any:
    """The reader's answer; where r = 1 makes it stop, in words that lead on."""
    try:
        return masses(logits, temperature, left, right)
    except (ZeroDivisionError, ValueError) as error:  # (1 − l) / 0, or math.log(0)
        if right == 1:
            raise Wrong(AT_ONE) from error
        raise


def _mean_of(mean_gate: Callable[[Tensor], Tensor], logits: Tensor) -> Any:
    """The reader's answer; where logits and t do not fit beside each other, in words that lead on."""
    try:
        return mean_gate(logits)
    except RuntimeError as error:
        if "must match the size" in str(error):
            raise Wrong(AN_AXIS) from error
        raise


def _close(found: Any, wanted: Tensor, tolerance: float) -> bool:
    return isinstance(found, Tensor) and found.shape == wanted.shape and torch.allclose(found.double(), wanted, atol=tolerance)


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("it should return two tensors, P(z = 0) and P(z = 1)")
    return tuple(found)
