"""How long to wait before something that failed is tried again."""

import random
from collections.abc import Callable

MAX_DOUBLINGS = 16
SPREAD = 0.2
"""By how much a pause is shorter, at most. Untuned: after some polls, replicas no longer come at once."""


def backoff_seconds(first: float, failures: int, max_seconds: float) -> float:
    """The pause after `failures` (at least 1) in a row: `first`, doubled with each further one, up to `max_seconds`."""
    return min(max_seconds, first * float(2 ** min(failures - 1, MAX_DOUBLINGS)))


def jittered(seconds: float, draw: Callable[[], float] = random.random) -> float:
    """A pause that is not that of other servers which began it at the same time, at most `seconds`. draw: in 0..1."""
    return seconds * (1 - SPREAD * draw())


def jittered_by(seconds: float, began: float) -> float:
    """As `jittered`, always the same for a pause that began at that time, in this process' monotonic seconds."""
    return jittered(seconds, random.Random(began).random)  # noqa: S311  # nothing is secret here
