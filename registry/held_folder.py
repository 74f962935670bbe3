"""Temporary folders that do not outlive their process, even one that is killed: the next process removes them."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def held_folder(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """A folder of this process alone, removed in the end. What killed processes of this user left is removed, too.

    prefix: of its name, which says what it is for. place: where it is made; default: the folder of temporary files.
    It is renamed to its final name after it is locked, so a folder of that name without a lock belongs to no process.
    """
    place = Path(tempfile.gettempdir()) if place is None else place
    for left in place.glob(f"{prefix}*"):
        with suppress(OSError):  # another process removed it
            if left.lstat().st_uid == os.geteuid() and is_free(left):
                shutil.rmtree(left)
    hidden = Path(tempfile.mkdtemp(prefix=f".{prefix}", dir=place))
    folder = hidden.with_name(hidden.name.removeprefix("."))
    descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # a file system without locks, where nothing is found to be free
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        hidden.rename(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def is_free(folder: Path) -> bool:
    """Whether no process holds a lock on the folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
