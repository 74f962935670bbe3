"""Whether a front is alive and ready, and the background tasks that it cannot live without."""

import asyncio
import logging
import time
from collections.abc import Coroutine

from serving.front.routing import Routing
from serving.settings import ServingSettings
from serving.wire.routing_table import TableFile

logger = logging.getLogger("headwaiter.front")


class Health:
    """The health of one front."""

    def __init__(self, settings: ServingSettings, file: TableFile, routing: Routing) -> None:
        self._grace_seconds = settings.grace_seconds
        self._file = file
        self._routing = routing
        self._started = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_lost_a_task = False

    def supervise(self, name: str, work: Coroutine[object, object, None]) -> None:
        """Run an endless background task. When it ends by itself, that is logged, and the front is no longer alive."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def close(self) -> None:
        """Cancel the background tasks."""
        for task in self._tasks:
            task.remove_done_callback(self._task_ended)
            task.cancel()

    def is_alive(self) -> bool:
        """False when the front should be replaced.

        Either a background task has ended, or the manager or the engines of all live models have been gone for longer
        than the grace period.
        """
        if self._has_lost_a_task:
            return False
        grace, now = self._grace_seconds, time.monotonic()
        if now - self._started < grace:
            return True
        return self._file.silence_seconds() <= grace and self._routing.unserved_seconds(now) <= grace

    def is_ready(self) -> bool:
        """Whether the server has started; see `Routing.is_ready`."""
        return self._routing.is_ready()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._has_lost_a_task = True
        error = None if task.cancelled() else task.exception()
        logger.critical("the background task %r ended: this front must be restarted", task.get_name(), exc_info=error)
