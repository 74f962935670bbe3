from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import serving.engine
from serving.engine.timing import min_seconds, seconds_of


class Clock:
    """Shows that each call takes the next of these seconds."""

    def __init__(self, *seconds: float) -> None:
        self._shown = self._show(seconds)
        self.calls = 0

    def _show(self, seconds: tuple[float, ...]) -> Iterator[float]:
        now = 0.0
        for each in seconds:
            yield now
            now += each
            yield now

    def __call__(self) -> float:
        return next(self._shown)

    def call(self) -> None:
        self.calls += 1


def test_the_fastest_call_counts() -> None:
    clock = Clock(3.0, 1.0, 2.0)
    assert min_seconds(clock.call, 3, clock) == 1.0
    assert clock.calls == 3
    assert seconds_of(clock.call, Clock(4.0)) == 4.0


def test_a_slow_call_is_repeated_once() -> None:
    clock = Clock(3.0, 2.0, 1.0)
    assert min_seconds(clock.call, 3, clock, max_total_seconds=2.5) == 2.0
    assert clock.calls == 2


def test_a_single_call_may_be_asked_for() -> None:
    clock = Clock(3.0)
    assert min_seconds(clock.call, 1, clock) == 3.0


def test_no_other_module_times_calls_in_a_loop() -> None:
    for path in Path(serving.engine.__path__[0]).rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        loops = [text for before, text in pairwise(lines) if "for _ in range" in before and "clock()" in text]
        assert not loops, path
