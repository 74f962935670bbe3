"""The run folder of a server: sockets, orders, routing table and metrics, under a random name, held by a lock.

The server process holds flock(2) on the file `lock` in it as long as it lives; the kernel lets go however the process
ends. So neither process ids, which each container counts from 1, nor clocks tell whose a folder is, and a folder whose
lock is free was left by a server that was killed. A folder without a lock belongs to nobody that is known, and stays.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

from registry.environment import InvalidSetting
from registry.own_folder import make_home, make_own

RUN_VARIABLE = "_HEADWAITER_RUN"
"""Tells the processes of a server its run folder."""
LOCK_VARIABLE = "_HEADWAITER_RUN_LOCK"
"""The descriptor that holds the lock, for the program that the server process becomes by execve(2)."""
LOCK = "lock"
ENGINES = "engines"
"""The folder of the engines' orders, reports and sockets, in the run folder."""
METRICS = "metrics"
"""The folder that a server's processes count in, in the run folder."""
MAX_RUNS_FOLDER = 61
"""Bytes of the path of the run folders, so that a socket in one stays within the 107 bytes of a socket's path."""


class RunFolder:
    """A run folder that this process holds, until it ends or calls `close`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """descriptor: of the lock, which it holds."""
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def make(cls, path: Path) -> Self:
        """Hold the folder at `path`, which nobody holds; it is made if there is none. Raises OSError.

        The lock is taken before the file gets its name, so that it is never seen free.
        """
        (path / ENGINES).mkdir(mode=0o700, parents=True, exist_ok=True)
        hidden = path / f"{LOCK}.new"
        descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(path / LOCK)
        return cls(path, descriptor)

    @classmethod
    def inherited(cls) -> Self | None:
        """The folder that this process held as another program, see `hand_over`; None where there is none."""
        path, descriptor = Path(os.environ.get(RUN_VARIABLE, "")), os.environ.pop(LOCK_VARIABLE, "")
        with suppress(OSError):
            if descriptor.isdecimal() and os.path.samestat(os.fstat(int(descriptor)), os.stat(path / LOCK)):
                fcntl.flock(int(descriptor), fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.set_inheritable(int(descriptor), False)
                return cls(path, int(descriptor))
        return None

    def hand_over(self) -> dict[str, str]:
        """The variables by which the program that this process becomes takes over. To be called right before."""
        os.set_inheritable(self._descriptor, True)
        return {RUN_VARIABLE: str(self.path), LOCK_VARIABLE: str(self._descriptor)}

    def close(self) -> None:
        """Let go of the folder, which stays."""
        os.close(self._descriptor)


def runs_of(home: Path) -> Path:
    """The folder of the run folders of all servers with this home."""
    return home / "run"


def check_home(home: Path) -> None:
    """Raise InvalidSetting for a home whose path is too long for the sockets in a run folder."""
    if len(os.fsencode(runs_of(home))) > MAX_RUNS_FOLDER:
        raise InvalidSetting(
            f"HEADWAITER_HOME={home} is too long: a socket's path may have 107 bytes, so choose a folder "
            "whose path has at most 50 bytes"
        )


def claim(home: Path) -> RunFolder:
    """The run folder of the server that this process is: inherited or new. Removes what killed servers left.

    Raises OSError where there can be none, InvalidSetting where other users could change it.
    """
    runs = runs_of(home)
    make_home(home)
    make_own(runs)
    remove_left(runs)
    own = RunFolder.inherited()
    if own is None:
        own = RunFolder.make(Path(tempfile.mkdtemp(prefix="", dir=runs)))
    return own


def remove_left(runs: Path) -> None:
    """Remove the run folders whose lock is free; whatever else is there, or cannot be removed, stays."""
    for lock in runs.glob(f"*/{LOCK}"):
        with suppress(OSError):
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(lock.parent)
            finally:
                os.close(descriptor)


def remove(run: Path) -> None:
    """Remove a run folder, as far as that is possible; its lock last, so that what is left can be removed later."""
    with suppress(OSError):
        for entry in run.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK:
                with suppress(OSError):
                    entry.unlink()
        shutil.rmtree(run, ignore_errors=True)
