"""Divides the processor time of a thread among stages: functions come in, and leave as functions that tell a clock."""

import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from types import coroutine
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
OUTSIDE = "outside"
"""The stage of what is in none."""
CALLS = 20_000
"""Of a function that does nothing, by which the clock's own cost is found."""


class StageClock:
    """A stage gets the time that its functions take, without that in functions of other stages that these call.

    now: seconds of the thread's processor time. overhead: seconds that each reading costs, which `seconds` leaves out.
    """

    def __init__(self, now: Callable[[], float] = time.thread_time, overhead: float = 0.0) -> None:
        self._now = now
        self._overhead = overhead
        self._seconds: Counter[str] = Counter()
        self._readings: Counter[str] = Counter()
        self._stages = [OUTSIDE]
        self._since = now()

    @classmethod
    def calibrated(cls) -> "StageClock":
        """A clock that knows what it costs. Blocks for some hundredths of a second."""
        trial = cls()
        timed = trial.of(OUTSIDE, lambda: None)
        began = time.thread_time()
        for _ in range(CALLS):
            timed()
        return cls(overhead=(time.thread_time() - began) / (2 * CALLS))

    def of(self, stage: str, called: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """`called`, whose time is the stage's."""

        @wraps(called)
        def timed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            self._enter(stage)
            try:
                return called(*args, **kwargs)
            finally:
                self._leave()

        return timed

    def of_coroutine(
        self, stage: str, called: Callable[Arguments, Coroutine[Any, Any, Result]]
    ) -> Callable[Arguments, Coroutine[Any, Any, Result]]:
        """`called`, whose time is the stage's but for that in which it waits. It cannot be cancelled."""

        @coroutine
        def steps(work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
            given = None
            while True:
                self._enter(stage)
                try:
                    awaited = work.send(given)
                except StopIteration as end:
                    result: Result = end.value
                    return result
                finally:
                    self._leave()
                given = yield awaited

        @wraps(called)
        async def timed(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return await steps(called(*args, **kwargs))

        return timed

    def seconds(self) -> dict[str, float]:
        """The time of each stage until now."""
        self._read()
        return {stage: took - self._overhead * self._readings[stage] for stage, took in self._seconds.items()}

    def _enter(self, stage: str) -> None:
        self._read()
        self._stages.append(stage)

    def _leave(self) -> None:
        self._read()
        self._stages.pop()

    def _read(self) -> None:
        now, stage = self._now(), self._stages[-1]
        self._seconds[stage] += now - self._since  # type: ignore[assignment]  # a Counter may hold any numbers
        self._readings[stage] += 1
        self._since = now
