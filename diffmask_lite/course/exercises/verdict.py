"""What every checker is made of: a verdict, and comparisons that say in one sentence what differs.

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


class Wrong(Exception):
    """The answer is wrong, in the way that the text says."""


def checker(check: Callable[[Callable], None]) -> Callable[[Any], Verdict]:
    @wraps(check)
    def run(function: Any) -> Verdict:
        if not callable(function):
            return Verdict("failed", f"the checker needs your function itself, not {function!r}")
        try:
            check(function)
        except NotImplementedError:
            return Verdict("not attempted")
        except Wrong as wrong:
            return Verdict("failed", str(wrong))
        except Exception as error:  # whatever the reader's code does, the notebook goes on
            return Verdict("failed", f"it raised {type(error).__name__}: {error}")
        return Verdict("passed")

    return run


def expect(found: Any, wanted: Tensor, where: str, tolerance: float = 1e-5) -> None:
    if not isinstance(found, Tensor):
        raise Wrong(f"{where} it should return a tensor, but it returned {type(found).__name__}")
    if found.shape != wanted.shape:
        raise Wrong(f"{where} the shape should be {tuple(wanted.shape)}, but it is {tuple(found.shape)}")
    if found.dtype == torch.bool or wanted.dtype == torch.bool:
        if found.dtype != wanted.dtype:
            raise Wrong(f"{where} the dtype should be {wanted.dtype}, but it is {found.dtype}")
        if not torch.equal(found, wanted):
            raise Wrong(f"{where} it should be {wanted.tolist()}, but it is {found.tolist()}")
    elif not torch.allclose(found.double(), wanted.double(), atol=tolerance):
        exact = wanted.tolist(), found.tolist()
        short = _shortened(exact[0]), _shortened(exact[1])
        should, is_now = short if short[0] != short[1] else exact
        raise Wrong(f"{where} it should be {should}, but it is {is_now}")


def _shortened(numbers: Any) -> Any:
    """Numbers, in lists or not, to four significant digits; whole numbers as they are."""
    if isinstance(numbers, list):
        return [_shortened(part) for part in numbers]
    return float(f"{numbers:.4g}") if isinstance(numbers, float) and abs(numbers) < 1e4 else numbers
