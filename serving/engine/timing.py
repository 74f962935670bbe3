"""How long a call takes: the one timing loop of everything that the engine measures before it serves."""

import time
from collections.abc import Callable
from math import inf

Clock = Callable[[], float]
CLOCK: Clock = time.perf_counter
"""Seconds; tests pass a clock of their own."""


def seconds_of(call: Callable[[], object], clock: Clock = CLOCK) -> float:
    """Seconds of one call."""
    began = clock()
    call()
    return clock() - began


def min_seconds(
    call: Callable[[], object], repeats: int, clock: Clock = CLOCK, *, max_total_seconds: float = inf
) -> float:
    """The fastest of `repeats` calls: what disturbs a measurement only adds time.

    max_total_seconds: after two calls, no further one once all together took this long.
    """
    took: list[float] = []
    while len(took) < min(2, repeats) or (len(took) < repeats and sum(took) < max_total_seconds):
        took.append(seconds_of(call, clock))
    return min(took)
