"""The checkers of notebook 03. Their answers come by ways of their own: counting over u, and sums in double precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...gates import LEFT, RIGHT, TEMPERATURE
from .verdict import Wrong, checker, expect

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


class _Damage:
    """A smooth damage for `check_optimise`; it remembers whether the masks it was given were samples."""

    def __init__(self, of: Callable[[Tensor], Tensor], n_gates: int):
        self.of, self.n_gates, self.calls, self.shut, self.varied = of, n_gates, 0, False, False

    def __call__(self, z: Tensor) -> Tensor:
        if not isinstance(z, Tensor) or z.ndim != 2 or z.shape[1] != self.n_gates:
            raise Wrong(f"damage takes masks (n, {self.n_gates}), a row for each sample")
        if not (z.min() >= 0 and z.max() <= 1):
            raise Wrong("damage takes masks in [0, 1], but these are not: sample z from the logits first")
        self.calls += 1
        self.shut |= bool((z == 0).any())
        self.varied |= bool((z != z[0]).any())
        return self.of(z)


@checker
def check_optimise(optimise: Callable[..., Tensor]) -> None:
    """Check `optimise(damage, n_gates, price)` → P(z > 0) of each gate after training, (n_gates,)."""
    for words, n_gates, needed, of in (
        ("where gates 0 and 3 matter, each for itself", 4, [0, 3], lambda z: (1 - z[:, [0, 3]]).square().sum(1) * 2),
        ("where gates 1 and 5 are needed together", 6, [1, 5], lambda z: 3 * (1 - z[:, 1] * z[:, 5]).square()),
    ):
        damage = _Damage(of, n_gates)
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(0)
            found = optimise(damage, n_gates, 0.1)
        _judge_optimised(found, needed, n_gates, words, damage)


def _judge_optimised(found: Any, needed: list[int], n_gates: int, words: str, damage: _Damage) -> None:
    truth = torch.zeros(n_gates, dtype=torch.bool)
    truth[needed] = True
    if not isinstance(found, Tensor) or found.shape != (n_gates,):
        raise Wrong(f"it should return a tensor of shape ({n_gates},): P(z > 0) of each gate")
    found = found.detach()
    if not (found.min() >= 0 and found.max() <= 1):
        raise Wrong("it should return probabilities, but these numbers are not in [0, 1]: apply gates.prob_open to the logits")
    if not damage.calls:
        raise Wrong("damage was never called, so the gates cannot know which of them are needed")
    if (found < 0.1).all():
        raise Wrong(
            f"{words}, all gates are shut: does the damage reach the loss with a plus, and do the logits start above 0?"
        )
    if not damage.varied:
        raise Wrong("all masks in a step were the same: draw a row for each sample, with fresh uniform numbers")
    if not damage.shut:
        raise Wrong("no mask had a gate at exactly 0: draw z with gates.sample, which stretches and cuts off")
    if ((found > 0.9) == truth).all() and ((found < 0.1) == ~truth).all():
        return
    if ((found < 0.1) == truth).all():
        raise Wrong(f"{words}, exactly these are shut and the others open: the sign of the loss is turned round")
    if (found > 0.8).all():
        raise Wrong(f"{words}, all gates stay open: does the price reach the logits? A count, z != 0, has no gradient")
    if (found[truth] > 0.9).all():
        raise Wrong(f"{words}, the others are not shut yet ({_two(found[~truth])}): take more steps, or larger ones")
    raise Wrong(f"{words}, P(z > 0) of these should be above 0.9 and of the others below 0.1, but they are {_two(found)}")


def _two(values: Tensor) -> str:
    return ", ".join(f"{value:.2f}" for value in values.tolist())


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


def _close(found: Any, wanted: Tensor, tolerance: float) -> bool:
    return isinstance(found, Tensor) and found.shape == wanted.shape and torch.allclose(found.double(), wanted, atol=tolerance)


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong("it should return two tensors, P(z = 0) and P(z = 1)")
    return tuple(found)
