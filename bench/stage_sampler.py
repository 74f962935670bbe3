"""Divides the processor time of a process among stages: functions come in, and leave as functions that mark theirs.

A timer of the process' own processor time samples which stage is marked. To read a clock wherever a stage begins or
ends is no use: that of processor time takes a system call, a dozen of which slow down all code between them, and one of
the wall goes on where the thread has lost its core.
"""

import signal
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from types import coroutine
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
OUTSIDE = "event loop and system calls"
"""The stage of what is in none, in a thread that runs an event loop."""
SAMPLE_SECONDS = 0.001
"""Of processor time between two samples; the kernel makes it a tick, usually 4 ms."""


class StageSampler:
    """A stage gets the samples in its functions, without those in functions of other stages that these call.

    samples: of each stage until now. To be used in one thread, the main one.
    """

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self._stages = [OUTSIDE]

    def start(self) -> None:
        """Sample from now on."""
        signal.signal(signal.SIGPROF, lambda *_: self.sample())
        signal.siginterrupt(signal.SIGPROF, False)
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)

    def sample(self) -> None:
        """Count the stage that is marked now."""
        self.samples[self._stages[-1]] += 1

    def of(self, stage: str, called: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        """`called`, which marks the stage."""

        @wraps(called)
        def marked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            self._stages.append(stage)
            try:
                return called(*args, **kwargs)
            finally:
                self._stages.pop()

        return marked

    def of_coroutine(
        self, stage: str, called: Callable[Arguments, Coroutine[Any, Any, Result]]
    ) -> Callable[Arguments, Coroutine[Any, Any, Result]]:
        """`called`, which marks the stage but where it waits. It cannot be cancelled."""

        @coroutine
        def steps(work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
            given = None
            while True:
                self._stages.append(stage)
                try:
                    awaited = work.send(given)
                except StopIteration as end:
                    result: Result = end.value
                    return result
                finally:
                    self._stages.pop()
                given = yield awaited

        @wraps(called)
        async def marked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return await steps(called(*args, **kwargs))

        return marked
