"""A clock for timings of two things in turn, each some times, over and over."""

from collections.abc import Sequence


class Turns:
    """Between two calls it goes on by the next of `seconds`, over and over; else it stands still."""

    def __init__(self, *seconds: float) -> None:
        self._seconds: Sequence[float] = seconds
        self._now, self._calls = 0.0, 0

    def __call__(self) -> float:
        """The time now."""
        self._calls += 1
        if self._calls % 2 == 0:
            self._now += self._seconds[(self._calls // 2 - 1) % len(self._seconds)]
        return self._now
