"""Folders that belong to one user alone: `HEADWAITER_HOME`, and the run folders in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IRWXG, S_IRWXO, S_IWGRP, S_IWOTH

from registry.environment import InvalidSetting

MODE, FILE_MODE = 0o700, 0o600
ROOT = 0
"""Whose folders are trusted, too: a volume of a container belongs to root, who may do anything anyway."""
CONTENTS = frozenset({"run", "cache", "bentoml", "mlflow.db", "last-live"})
"""By which a home is known that an earlier release made."""


def make_home(home: Path) -> None:
    """Make the home for this user alone, or take one that is there. Raises OSError, and InvalidSetting as `check_own`.

    An empty folder, and one of this software that others may read, is closed to them. A folder that has other things in
    it is left as it is, if nobody else may write there.
    """
    home.mkdir(mode=MODE, parents=True, exist_ok=True)
    status = home.stat()
    if status.st_uid == os.geteuid() and status.st_mode & (S_IRWXG | S_IRWXO):
        contents = {entry.name for entry in home.iterdir()}
        if not contents:
            home.chmod(MODE)
        check_own(home)
        if len(contents & CONTENTS) > 1:
            home.chmod(MODE)
    check_own(home)


def make_file(path: Path) -> None:
    """Make an empty file for this user alone, whatever the folder allows; one that is there is left. Raises OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))


@contextmanager
def own_files() -> Iterator[None]:
    """What this process makes meanwhile, in any thread, is for this user alone: for programs, not for libraries."""
    before = os.umask(S_IRWXG | S_IRWXO)
    try:
        yield
    finally:
        os.umask(before)


def make_own(folder: Path) -> None:
    """Make the folder for this user alone, or check one that is there. Raises OSError, InvalidSetting."""
    folder.mkdir(mode=MODE, exist_ok=True)
    check_own(folder)


def check_own(folder: Path) -> None:
    """Raise InvalidSetting for a folder in which another user could put something that is then trusted."""
    status, user = folder.stat(), os.geteuid()
    if status.st_uid not in (user, ROOT):
        raise InvalidSetting(
            f"{folder} belongs to user {status.st_uid}, and this is user {user}, so what is in it is not to be "
            "trusted: let HEADWAITER_HOME name a folder of this user"
        )
    if status.st_uid == user and status.st_mode & (S_IWGRP | S_IWOTH):
        raise InvalidSetting(
            f"others can write to {folder}, so what is in it is not to be trusted: take their right away "
            f"(chmod go-w {folder}), or let HEADWAITER_HOME name another folder"
        )
