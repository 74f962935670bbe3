"""The workers of a server watch one another: the manager the fronts, and each front the manager.

Each worker holds a lock on a file in the run folder for as long as it lives, and touches the file while its loop turns.
One that hangs is killed by those that watch it; the supervisor starts another in its place.
"""

import fcntl
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Literal

from serving.runtime.watchdog import LOOK_SECONDS, Watchdog

WORKERS = "workers"
"""The folder of the workers' files, in the run folder."""
BEAT_SECONDS = 1.0

WorkerKind = Literal["front", "manager"]

logger = logging.getLogger("headwaiter.server")


class WorkerBeat:
    """This process' file. Not for use from several threads."""

    def __init__(self, run: Path, kind: WorkerKind) -> None:
        """Raises OSError where the file cannot be."""
        folder = run / WORKERS
        folder.mkdir(exist_ok=True)  # not its parent: a run folder that is gone is not made again
        self._path = folder / f"{kind}.{os.getpid()}"
        self._file = self._path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._beaten = 0.0

    def beat(self, now: float) -> None:
        """The loop turns. now: monotonic seconds."""
        if now - self._beaten >= BEAT_SECONDS:
            self._beaten = now
            with suppress(OSError):
                os.utime(self._file.fileno())

    def close(self) -> None:
        """The loop ends."""
        self._path.unlink(missing_ok=True)
        self._file.close()


class WorkerWatchdog:
    """Watches the workers of one kind. limit_seconds: how long one may stand still before it is killed."""

    def __init__(self, run: Path, kind: WorkerKind, limit_seconds: float) -> None:
        self._folder = run / WORKERS
        self._kind = kind
        self._limit = limit_seconds
        self._look_at = 0.0
        self._watchdogs: dict[Path, Watchdog] = {}

    def look(self, now: float) -> None:
        """Kill the workers that hang; to be called all the time. now: monotonic seconds."""
        if now < self._look_at or not hasattr(os, "pidfd_open"):  # elsewhere than on Linux
            return
        self._look_at = now + LOOK_SECONDS
        found = {path: self._watchdogs.get(path) or Watchdog(self._limit) for path in self._files()}
        self._watchdogs = found
        for path, watchdog in found.items():
            with suppress(OSError, ValueError):
                self._look_at_one(path, watchdog, now)

    def _files(self) -> list[Path]:
        return list(self._folder.glob(f"{self._kind}.*"))

    def _look_at_one(self, path: Path, watchdog: Watchdog, now: float) -> None:
        pid = int(path.suffix[1:])
        try:
            process = os.pidfd_open(pid)  # before its lock is looked at, so that it is the process that holds it
        except ProcessLookupError:
            path.unlink(missing_ok=True)
            return
        try:
            if _is_held(path) and watchdog.hangs(pid, path.stat().st_mtime_ns, 0.0, now):
                logger.critical("the %s %d hangs and is killed: %s", self._kind, pid, watchdog.describe())
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)


def _is_held(path: Path) -> bool:
    """Whether the worker that this file is of still lives; its process id may be another process' by now."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
