"""Whether a front is alive and ready, and the background tasks that it cannot live without, which it starts again."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import NamedTuple

from serving.front.routing import Routing
from serving.settings import ServingSettings
from serving.wire.routing_table import TableFile

RESTART_SECONDS = 1.0
"""Pause before a background task that ended is started again."""
STEADY_SECONDS = 10 * RESTART_SECONDS
"""A task that has run for so long works again."""

logger = logging.getLogger("headwaiter.front")


class Ends(NamedTuple):
    """When a background task ended for the first and the last time since it worked, in monotonic seconds."""

    first: float
    last: float


class FrontHealth:
    """The health of one front."""

    def __init__(self, settings: ServingSettings, file: TableFile, routing: Routing) -> None:
        self._grace_seconds = settings.grace_seconds
        self._file = file
        self._routing = routing
        self._started = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ends: dict[str, Ends] = {}

    def supervise(self, name: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Run an endless background task, and start it again when it ends by itself, which is logged."""
        self._tasks.add(asyncio.create_task(self._keep_running(name, work), name=name))

    def close(self) -> None:
        """Cancel the background tasks."""
        for task in self._tasks:
            task.cancel()

    def is_alive(self) -> bool:
        """False when the front should be replaced.

        Either a background task has ended again and again for longer than the grace period, or the manager or the
        engines of all live models have been gone for so long.
        """
        grace, now = self._grace_seconds, time.monotonic()
        if any(last - first > grace and now - last <= STEADY_SECONDS for first, last in self._ends.values()):
            return False
        if now - self._started < grace:
            return True
        return self._file.silence_seconds() <= grace and self._routing.unserved_seconds(now) <= grace

    async def _keep_running(self, name: str, work: Callable[[], Coroutine[object, object, None]]) -> None:
        while True:
            started = time.monotonic()
            error: BaseException | None = None
            try:
                await work()
            except asyncio.CancelledError as raised:
                if (current := asyncio.current_task()) is not None and current.cancelling():
                    raise
                error = raised  # what it waited for was cancelled, and not the task
            except Exception as raised:
                error = raised
            now = time.monotonic()
            before = self._ends.get(name)
            self._ends[name] = Ends(now if before is None or now - started > STEADY_SECONDS else before.first, now)
            logger.critical("the background task %r ended: it is started again", name, exc_info=error)
            await asyncio.sleep(RESTART_SECONDS)
