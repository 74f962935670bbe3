"""What ties a server's processes together: each lives only as long as the server process that all of them belong to.

The server is BentoML's supervisor. A manager that dies does not take its engines along; a server that dies does.
"""

import shutil
import time
from pathlib import Path

import psutil

ENGINES = "engines"
"""The folder of the engines' orders, reports and sockets, in the run folder."""
OWNER = "server"
LOOK_SECONDS = 0.5
"""A look at the process table costs some 20 µs; nobody looks more often than this."""


class ServerProcess:
    """The server process `pid`. It is known by its start time as well, so that a reused id is not taken for it."""

    def __init__(self, pid: int) -> None:
        self._looked = 0.0
        self._process: psutil.Process | None = None
        try:
            self._process = psutil.Process(pid)
            self.identity = f"{pid}@{self._process.create_time():.2f}"
        except psutil.NoSuchProcess:
            self.identity = ""

    def is_gone(self) -> bool:
        """Whether the server is gone, by the last look."""
        now = time.monotonic()
        if self._process is not None and now - self._looked > LOOK_SECONDS:
            self._looked = now
            if not is_alive(self._process):
                self._process = None
        return self._process is None


def claim(run: Path, server: int) -> bool:
    """Make the run folder this server's own, with a folder for its engines; whether it was before.

    Folders of servers that were killed are removed; engines follow their folder.
    """
    identity = ServerProcess(server).identity
    owner = run / OWNER
    is_own = owner.is_file() and owner.read_text() == identity
    if not is_own:
        shutil.rmtree(run / ENGINES, ignore_errors=True)
    for other in run.parent.glob("*/" + OWNER):
        if (
            other.parent != run
            and ServerProcess(int(other.read_text().partition("@")[0] or 0)).identity != other.read_text()
        ):
            shutil.rmtree(other.parent, ignore_errors=True)
    (run / ENGINES).mkdir(parents=True, exist_ok=True)
    owner.write_text(identity)
    return is_own


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie, which only waits to be reaped, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
