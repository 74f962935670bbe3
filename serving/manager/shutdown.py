"""The end of a server: its fronts leave first, as their accepted requests need the engines."""

import fcntl
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from serving.manager.managed_version import ManagedVersion
from serving.wire.routing_table import FRONTS_LOCK, TableFile

PAUSE_SECONDS = 0.05


def wait_for_fronts(run: Path, file: TableFile, seconds: float) -> None:
    """Wait until the last front has ended, which frees their lock; at most so long. The heartbeat goes on."""
    deadline = time.monotonic() + seconds
    with suppress(OSError), (run / FRONTS_LOCK).open("a") as lock:  # the folder may be gone
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.beat()
                time.sleep(PAUSE_SECONDS)


def end_engines(versions: Iterable[ManagedVersion]) -> None:
    """Kill the engines of all versions, and wait until they have ended."""
    engines = [engine for managed in versions for engine in managed.engines]
    for engine in engines:
        engine.kill()
    while any(engine.is_running() for engine in engines):
        time.sleep(PAUSE_SECONDS)  # at most KILL_SECONDS
