"""Divides the time of a thread among stages: functions come in, and leave as functions that tell a clock.

The clock is read without a system call: a dozen calls a request would make the code between them half as slow again. So
a part in which the thread lost its core is too long, and is left out.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from types import coroutine
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
OUTSIDE = ""
"""The stage of what is in none. It has no time, as much of it may be spent waiting."""
MAX_SECONDS = 0.002
"""A longer part is left out. Stages take microseconds, and the kernel gives a core away for milliseconds."""


class StageClock:
    """A stage gets the time that its functions take, without that in functions of other stages that these call.

    now: seconds of a clock. seconds: of each stage until now.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._now = now
        self._stages = [OUTSIDE]
        self._since = now()

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

    def _enter(self, stage: str) -> None:
        self._end_part()
        self._stages.append(stage)

    def _leave(self) -> None:
        self._end_part()
        self._stages.pop()

    def _end_part(self) -> None:
        now, stage = self._now(), self._stages[-1]
        if stage is not OUTSIDE and now - self._since <= MAX_SECONDS:
            self.seconds[stage] += now - self._since
        self._since = now
