"""BentoML's supervisor (circus), which starts the fronts and the manager, and ends them with the server.

It starts ended workers again, but not in a container, where it ends when none is left, and looks for them every ten
seconds only. It forgets a signal to end that comes while it starts workers; BentoML lets it wait a day for one that
does not leave. Read in BentoML 1.4.39 and kantoku 0.18.3, its circus.
"""

import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from circus.arbiter import Arbiter
    from circus.watcher import Watcher

SHUT_DOWN_SECONDS = 30.0
"""How long the manager may take to end its engines, beside the time for the fronts to leave."""
LEAVE_SECONDS = 5.0
"""How long the manager's process may take to leave once its loop has ended."""
QUIET_SECONDS = 10.0
"""Between two ends that are looked at at once; others wait for circus' own look, so that workers which end while they
start do not take all cores."""
AGAIN_SECONDS = 0.1
"""How long to wait where circus cannot end yet, because it starts workers."""


def supervise(leave_seconds: float) -> None:
    """Let circus start ended workers again, and at once; and let it end when it is told to, although workers hang.

    Call it in the server's process before it starts any. leave_seconds: how long a worker may take to leave; then it
    is killed.
    """
    from circus.sighandler import SysHandler
    from circus.watcher import Watcher

    initialize = Watcher.initialize

    def initialize_and_respawn(watcher: "Watcher", *given: object) -> None:
        initialize(watcher, *given)
        watcher.respawn = True
        watcher.graceful_timeout = leave_seconds
        with suppress(ValueError):  # not in the main thread: as late as circus does it by itself
            signal.signal(signal.SIGCHLD, WorkerWatch(watcher.arbiter))

    Watcher.initialize = initialize_and_respawn
    SysHandler.quit = lambda handler: handler.controller.loop.add_callback_from_signal(
        end_server, handler.controller.arbiter
    )


def end_server(arbiter: "Arbiter") -> None:
    """Stop circus' arbiter, and try again while it runs another command, such as a reload. Runs in its event loop."""
    from circus.exc import ConflictError

    try:
        stopped = arbiter.stop()
        if stopped is not None:  # as a thread's
            arbiter.loop.add_future(stopped, lambda future: future.result())  # an error is logged
    except ConflictError:
        if not arbiter._stopping:
            arbiter.loop.call_later(AGAIN_SECONDS, end_server, arbiter)


class WorkerWatch:
    """A handler of SIGCHLD that lets circus look at its workers."""

    def __init__(self, arbiter: "Arbiter") -> None:
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
