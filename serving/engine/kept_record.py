"""Records that an engine keeps in the cache for later engines: a file each, read whole and checked, or ignored.

A file starts with the sha256 of the rest in hex, and a newline. Only this user can have written it.
"""

import hashlib
import os
import stat
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TypeVar

import msgspec

from registry.atomic_file import replace_file
from registry.plain_files import OPEN_FLAGS

FOLDER_MODE = 0o700
MAX_KEPT_BYTES = 1 << 20
"""A larger file is no record."""
T = TypeVar("T", bound=msgspec.Struct)


def open_own(path: Path) -> FileIO:
    """The file, opened for reading. Raises OSError, PermissionError where others could have put or changed it."""
    file = os.fdopen(os.open(path, OPEN_FLAGS), "rb", buffering=0)
    status = os.fstat(file.fileno())
    is_private = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and not stat.S_IMODE(status.st_mode) & 0o077
    if not is_private or status.st_uid != os.geteuid():
        file.close()
        raise PermissionError(f"{path} is not a file of this user alone")
    return file


def read_record(path: Path, kind: type[T]) -> T | None:
    """The record, which counts as used now; None for no file and one that is damaged, foreign or of another kind."""
    try:
        with open_own(path) as file:
            digest, _, text = (file.read(MAX_KEPT_BYTES) or b"").partition(b"\n")
        if digest.decode() != hashlib.sha256(text).hexdigest():
            return None
        record = msgspec.json.decode(text, type=kind)
    except (OSError, ValueError, msgspec.DecodeError):
        return None
    with suppress(OSError):
        os.utime(path)
    return record


def write_record(path: Path, record: msgspec.Struct, max_records: int) -> None:
    """Write the record in one step, mode 0600. Of the folder's records the `max_records` that were used last stay.

    Raises OSError.
    """
    path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
    text = msgspec.json.encode(record)
    replace_file(path, hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
    found = {each: _used(each) for each in path.parent.glob(f"*{path.suffix}")}
    for old in sorted(found, key=lambda each: found[each])[:-max_records]:
        old.unlink(missing_ok=True)


def _used(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:  # another process has removed it
        return 0
