"""The workers of a server, which are the fronts and the manager, are started again when they end, wherever it runs.

BentoML's supervisor (circus) starts ended workers again, but not in a container, where it ends when none is left. It
looks for them every ten seconds only. Read in BentoML 1.4.39 and kantoku 0.18.3, its circus.
"""

import signal
import time
from contextlib import suppress
from typing import Any

QUIET_SECONDS = 10.0
"""Between two ends that are looked at at once; others wait for circus' own look, so that workers which end while they
start do not take all cores."""


def respawn_workers() -> None:
    """Let circus start ended workers again, and at once. Call it in the server's process before it starts any."""
    from circus.watcher import Watcher

    initialize = Watcher.initialize

    def initialize_and_respawn(watcher: Any, *given: Any) -> None:
        initialize(watcher, *given)
        watcher.respawn = True
        with suppress(ValueError):  # not in the main thread: as late as circus does it by itself
            signal.signal(signal.SIGCHLD, WorkerWatch(watcher.arbiter))

    Watcher.initialize = initialize_and_respawn


class WorkerWatch:
    """A handler of SIGCHLD that lets circus look at its workers."""

    def __init__(self, arbiter: Any) -> None:
        """arbiter: circus'."""
        self._arbiter = arbiter
        self._looked = -QUIET_SECONDS

    def __call__(self, number: int, frame: object) -> None:
        """A child has ended, or was stopped. Runs between two instructions of the main thread."""
        now = time.monotonic()
        if now - self._looked >= QUIET_SECONDS:
            self._looked = now
            self._arbiter.loop.asyncio_loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        from circus.exc import ConflictError

        with suppress(ConflictError):  # circus does something else; it looks by itself later
            self._arbiter.manage_watchers()
