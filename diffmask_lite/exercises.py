"""The checkers that the notebooks' exercises call.

A checker takes the reader's function, tries it on small inputs beside an independent answer, and says how it went. It never
raises: a notebook that is run from top to bottom gets past every exercise, attempted or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """status is "passed", "failed" or "not attempted"; hint says in a sentence what to look at."""

    status: str
    hint: str = ""

    def __repr__(self) -> str:
        return {
            "passed": "passed ✓",
            "failed": f"failed: {self.hint}",
            "not attempted": "not attempted yet: replace `raise NotImplementedError` by your answer",
        }[self.status]


class _Wrong(Exception):
    """The answer is wrong, in the way that the text says."""


def _checker(check: Callable[[Callable], None]) -> Callable[[Any], Verdict]:
    @wraps(check)
    def run(function: Any) -> Verdict:
        if not callable(function):
            return Verdict("failed", f"the checker needs your function itself, not {function!r}")
        try:
            check(function)
        except NotImplementedError:
            return Verdict("not attempted")
        except _Wrong as wrong:
            return Verdict("failed", str(wrong))
        except Exception as error:  # whatever the reader's code does, the notebook goes on
            return Verdict("failed", f"it raised {type(error).__name__}: {error}")
        return Verdict("passed")

    return run


def _expect(found: Any, wanted: Tensor, where: str, tolerance: float = 1e-5) -> None:
    if not isinstance(found, Tensor):
        raise _Wrong(f"{where} it should return a tensor, but it returned {type(found).__name__}")
    if found.shape != wanted.shape:
        raise _Wrong(f"{where} the shape should be {tuple(wanted.shape)}, but it is {tuple(found.shape)}")
    if found.dtype == torch.bool or wanted.dtype == torch.bool:
        if found.dtype != wanted.dtype:
            raise _Wrong(f"{where} the dtype should be {wanted.dtype}, but it is {found.dtype}")
        if not torch.equal(found, wanted):
            raise _Wrong(f"{where} it should be {wanted.tolist()}, but it is {found.tolist()}")
    elif not torch.allclose(found.double(), wanted.double(), atol=tolerance):
        raise _Wrong(f"{where} it should be {wanted.tolist()}, but it is {found.tolist()}")


@_checker
def check_kl(kl: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Check `kl(logits, masked)`, both (B, classes) → (B,), KL(p ‖ q) in nats."""
    same = torch.tensor([[1.0, 2.0, 3.0]])
    _expect(kl(same, same), torch.zeros(1), "for two equal predictions")
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = ½ log 2 + ½ log ⅔
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    wanted = 0.5 * torch.tensor([2.0, 2 / 3]).log().sum(0, keepdim=True)
    _expect(kl(p, q), wanted, "for p = (½, ½) and q = (¼, ¾)")
    _expect(kl(p + 7, q - 3), wanted, "after adding a constant to all logits, which changes no probability,")
    draw = torch.Generator().manual_seed(0)
    logits, masked = torch.randn(4, 10, generator=draw), torch.randn(4, 10, generator=draw)
    p, q = logits.double().softmax(-1), masked.double().softmax(-1)
    wanted = (p * (p / q).log()).sum(-1)
    found = kl(logits, masked)
    if (
        isinstance(found, Tensor)
        and found.shape == wanted.shape
        and torch.allclose(found.double(), (q * (q / p).log()).sum(-1))
    ):
        raise _Wrong("that is KL(q ‖ p): let p weigh the sum, not q")
    _expect(found, wanted, "for a batch of four")
    sure = torch.tensor([[0.0, 200.0]])  # softmax gives exactly 0 for the first class, and log 0 is −∞
    _expect(kl(-sure, sure), torch.tensor([200.0]), "for two predictions that are sure of different classes", 1e-2)


@_checker
def check_top_patches(top_patches: Callable[[Tensor, int], Tensor]) -> None:
    """Check `top_patches(mask, m)`: mask (B, h, w) → bool (B, h, w), True at the m most probable patches of each image."""
    mask = torch.tensor([[[0.1, 0.9], [0.4, 0.3]], [[0.8, 0.2], [0.7, 0.6]]])
    _expect(top_patches(mask, 1), torch.tensor([[[0, 1], [0, 0]], [[1, 0], [0, 0]]]).bool(), "for m = 1")
    _expect(top_patches(mask, 3), torch.tensor([[[0, 1], [1, 1]], [[1, 0], [1, 1]]]).bool(), "for m = 3")
    ties = torch.full((1, 2, 2), 0.5)
    if int(top_patches(ties, 2).sum()) != 2:
        raise _Wrong("where all patches are equally probable and m = 2, exactly 2 should be kept")
    _expect(top_patches(mask, 0), torch.zeros(2, 2, 2).bool(), "for m = 0")
    _expect(top_patches(mask, 4), torch.ones(2, 2, 2).bool(), "for m = 4")
