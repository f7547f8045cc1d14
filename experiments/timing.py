"""Two calls timed in turns: what the benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(call: Callable[[], object], repeats: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the mean seconds of one call, by default those on the wall."""
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def ratios(
    base: Callable[[], object],
    other: Callable[[], object],
    rounds: int,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Return seconds(other) / seconds(base), one ratio a round, after a warm-up.

    The two take turns, in alternating order, so that a busy machine slows both alike. clock: `time.process_time` counts the
    processor's seconds instead of the wall's, which other programs do not lengthen.
    """
    base(), other()
    found = []
    for number in range(rounds):
        if number % 2:
            b, o = seconds(base, repeats, clock), seconds(other, repeats, clock)
        else:
            o, b = seconds(other, repeats, clock), seconds(base, repeats, clock)
        found.append(o / b)
    return found
