"""BentoML's supervisor (circus), which starts the fronts and the manager, and ends them with the server.

It starts ended workers again, but not in a container, where it ends when none is left, and looks for them every ten
seconds only, by the wall clock: not for a day once that was set back by one. It forgets a signal to end that comes
while it starts workers; BentoML lets it wait a day for one that does not leave. Read in BentoML 1.4.39, kantoku 0.18.3,
its circus, and tornado 6.5.
"""

import math
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import TimerHandle

    from circus.arbiter import Arbiter
    from circus.watcher import Watcher

SHUT_DOWN_SECONDS = 30.0
"""How long the manager may take to end its engines, beside the time for the fronts to leave."""
LEAVE_SECONDS = 5.0
"""How long the manager's process may take to leave once its loop has ended."""
QUIET_SECONDS = 10.0
"""Least time between two looks at the workers, so that those which end while they start do not take all cores."""
AGAIN_SECONDS = 0.1
"""How long to wait where circus cannot end or look yet, because it does something else, such as starting workers."""


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
    """A handler of SIGCHLD that lets circus look at its workers: at once, or QUIET_SECONDS after its last look."""

    def __init__(self, arbiter: "Arbiter") -> None:
        """arbiter: circus'."""
        self._arbiter = arbiter
        self._looked = -math.inf
        self._planned: TimerHandle | None = None

    def __call__(self, number: int, frame: object) -> None:
        """A child has ended, or was stopped. Runs between two instructions of the main thread."""
        self._arbiter.loop.asyncio_loop.call_soon_threadsafe(self._plan)

    def _plan(self) -> None:
        loop = self._arbiter.loop.asyncio_loop
        if self._planned is None:
            self._planned = loop.call_later(max(0.0, self._looked + QUIET_SECONDS - loop.time()), self._look)

    def _look(self) -> None:
        from circus.exc import ConflictError

        loop = self._arbiter.loop.asyncio_loop
        self._planned, self._looked = None, loop.time()
        try:
            self._arbiter.manage_watchers()
        except ConflictError:
            self._planned = loop.call_later(AGAIN_SECONDS, self._look)
