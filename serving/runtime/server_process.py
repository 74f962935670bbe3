"""The server process, BentoML's supervisor, with which all other processes of a server end.

Engines survive the end of their manager, and end with the server process.
"""

import shutil
import time
from pathlib import Path

import psutil

ENGINES = "engines"
"""The folder of the engines' orders, reports and sockets, in the run folder."""
OWNER = "server"
LOOK_SECONDS = 0.5
"""How often the process table is read at most; one reading takes about 20 µs."""


class ServerProcess:
    """The server process `pid`, identified by its start time as well, because ids are reused."""

    def __init__(self, pid: int) -> None:
        self._looked = 0.0
        self._process: psutil.Process | None = None
        try:
            self._process = psutil.Process(pid)
            self.identity = f"{pid}@{self._process.create_time():.2f}"
        except psutil.NoSuchProcess:
            self.identity = ""

    def is_gone(self) -> bool:
        """Whether the server process has ended, by the latest reading."""
        now = time.monotonic()
        if self._process is not None and now - self._looked > LOOK_SECONDS:
            self._looked = now
            if not is_alive(self._process):
                self._process = None
        return self._process is None


def claim(run: Path, server: int) -> bool:
    """Claim the run folder for this server and make the engines' folder in it. Returns whether it was claimed before.

    Run folders of servers that were killed are removed; their engines end when their folder is gone.
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
    """Whether the process runs. A zombie, which waits to be reaped, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
