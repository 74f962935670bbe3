"""Ends the manager's wait between two turns once there is something to do, so that its turns may be far apart."""

import os
import select
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from serving.runtime.inotify import ATTRIBUTES, CREATED, MODIFIED, MOVED_TO, read_names, watch
from serving.runtime.run_folder import ENGINES
from serving.wire.demand import DEMAND
from serving.wire.routing_table import NUDGE

UNWATCHED_SECONDS = 0.25
"""How long a wait is at most while no descriptor is left to watch with."""
MIN_TURN_SECONDS = 0.02
"""Between two turns, however often something is written: a registry's file may be written all the time. Untuned."""


class Wakeup:
    """For the one thread that waits; `set` is for any thread. Construct it anywhere: the first `wait` opens it.

    Where nothing can be watched, see `inotify.watch`, only `set` ends a wait early.
    """

    def __init__(self, run: Path, registry_files: Iterable[str] = ()) -> None:
        """run: a server's run folder, of which an engine's report, what fronts ask for, and a nudge are told.

        registry_files: a write to one of them is told, too.
        """
        files = [Path(path) for path in registry_files]
        self._run = run
        self._folders = {path.parent: MODIFIED | MOVED_TO | CREATED for path in files}
        self._names = {NUDGE, "", *(path.name for path in files)}
        self._is_set = False
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._watched: int | None = None
        self._ended = 0.0

    def set(self) -> None:
        """End the wait, or the next one."""
        self._is_set = True
        if (pair := self._pair) is not None:
            with suppress(OSError):  # full: it ends anyway. Closed: nobody waits any more.
                pair[1].send(b"\0")

    def wait(self, seconds: float) -> None:
        """Return once `set` was called or something was written since the last call, at the latest after `seconds`."""
        if self._pair is None:
            try:
                self._open()
            except OSError:  # no descriptor is left; the next wait tries again
                time.sleep(min(seconds, UNWATCHED_SECONDS))
                return
        assert self._pair is not None
        until = time.monotonic() + seconds
        time.sleep(max(0.0, min(self._ended + MIN_TURN_SECONDS - time.monotonic(), seconds)))
        poll = select.poll()
        for descriptor in (self._pair[0].fileno(), self._watched):
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
        own = self._pair[0].fileno()
        while not self._is_set:
            ready = poll.poll(max(0.0, 1000 * (until - time.monotonic())))
            if not ready or own in dict(ready) or self._was_written():
                break
            time.sleep(max(0.0, min(MIN_TURN_SECONDS, until - time.monotonic())))  # others may be written all the time
        # The flag is cleared before the socket is drained: a `set` that comes in between ends the next wait.
        self._is_set = False
        with suppress(BlockingIOError):
            while self._pair[0].recv(4096):
                pass
        self._ended = time.monotonic()

    def close(self) -> None:
        """Watch no more; `wait` is not to be called again."""
        if self._watched is not None:
            os.close(self._watched)
            self._watched = None
        for end in self._pair or ():
            end.close()

    def _open(self) -> None:
        pair = socket.socketpair()
        for end in pair:
            end.setblocking(False)
        self._pair = pair
        told = {self._run / ENGINES: MOVED_TO, self._run / DEMAND: MOVED_TO}
        for folder in told:
            with suppress(OSError):
                folder.mkdir(exist_ok=True)
        folders = {self._run: ATTRIBUTES, **told}
        for folder, events in self._folders.items():
            folders[folder] = folders.get(folder, 0) | events
        self._watched = watch(folders)

    def _was_written(self) -> bool:
        """Whether a file of interest was."""
        names = read_names(self._watched) if self._watched is not None else set()
        return any(name in self._names or name.endswith(".json") for name in names)
