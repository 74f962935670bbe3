"""The server process, BentoML's supervisor, with which all other processes of a server end.

Engines survive the end of their manager, and end with the server process.
"""

import asyncio
import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from serving.runtime.run_folder import LOCK

LOOK_SECONDS = 0.5
"""How often a thread looks whether the server process still runs."""


class ServerProcess:
    """The server process, by the lock that it holds on the run folder. Not for use from several threads."""

    def __init__(self, run: Path) -> None:
        """run: the run folder. Raises OSError where it cannot be looked at; if it is gone, so is the server."""
        self._lock: int | None = None
        try:
            self._lock = os.open(run / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return

    def is_gone(self) -> bool:
        """Whether the server process has ended; False where the system cannot tell. Takes a microsecond."""
        if self._lock is not None:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return False
            os.close(self._lock)
            self._lock = None
        return True


def end_with_server(run: Path, seconds: float) -> None:
    """End this process at the latest `seconds` after the server process, whatever its other threads do then."""
    server = ServerProcess(run)

    def watch() -> None:
        while not server.is_gone():
            time.sleep(LOOK_SECONDS)
        end_process(seconds)

    threading.Thread(target=watch, name="headwaiter-server", daemon=True).start()


def end_process(seconds: float) -> None:
    """Let this process finish what it has and leave, as SIGTERM does; after `seconds` it ends anyway."""
    os.kill(os.getpid(), signal.SIGTERM)
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def at_end(work: Callable[[], object]) -> None:
    """Also do `work`, in the running event loop, when a signal tells this process to end.

    Called in the main thread, after the signals have got their handlers, which are called as before.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if not callable(before):  # the process ends at once, or not at all
            continue

        def handle(
            number: int, frame: FrameType | None, before: Callable[[int, FrameType | None], object] = before
        ) -> None:
            if not loop.is_closed():  # as at a second signal
                loop.call_soon_threadsafe(work)
            before(number, frame)

        signal.signal(number, handle)
