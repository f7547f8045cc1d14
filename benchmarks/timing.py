"""Two calls timed in turns: what the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Return the mean wall seconds of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def ratios(base: Callable[[], object], other: Callable[[], object], rounds: int, repeats: int = 1) -> list[float]:
    """Return seconds(other) / seconds(base), one ratio a round, after a warm-up.

    The two take turns, in alternating order, so that a busy machine slows both alike.
    """
    base(), other()
    found = []
    for number in range(rounds):
        if number % 2:
            b, o = seconds(base, repeats), seconds(other, repeats)
        else:
            o, b = seconds(other, repeats), seconds(base, repeats)
        found.append(o / b)
    return found
