"""Linux' inotify(7): told what happens in folders, a process need not look again and again."""

import ctypes
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

MODIFIED = 0x02
"""IN_MODIFY: something was written to a file of the folder."""
ATTRIBUTES = 0x04
"""IN_ATTRIB: a file's times, rights or owner were set."""
MOVED_TO = 0x80
"""IN_MOVED_TO: a file came into the folder by `rename`, as those of `registry.atomic_file` do."""
CREATED = 0x100
"""IN_CREATE: a file was made in the folder."""
READ_BYTES = 1 << 16
_EVENT = struct.Struct("iIII")
"""struct inotify_event: the watch, the event, a cookie, and the length of the name that follows."""


def watch(folders: Mapping[Path, int]) -> int | None:
    """An inotify instance that watches these folders, as a descriptor that does not block; None where there is none.

    folders: the events of each, or-ed. There is none elsewhere than on Linux, and where the user has no instance left.
    A folder that cannot be watched, as one that does not exist, is left out; None where all are.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "inotify_init1"):
        return None
    descriptor: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    watched = sum(library.inotify_add_watch(descriptor, os.fsencode(path), mask) >= 0 for path, mask in folders.items())
    if watched:
        return descriptor
    os.close(descriptor)
    return None


def read_names(descriptor: int) -> set[str]:
    """The names of the files with events that have not been read; "" where the kernel dropped some of too many."""
    names: set[str] = set()
    with suppress(BlockingIOError):
        while events := os.read(descriptor, READ_BYTES):
            at = 0
            while at < len(events):
                size = _EVENT.unpack_from(events, at)[3]
                at += _EVENT.size
                names.add(os.fsdecode(events[at : at + size].rstrip(b"\0")))
                at += size
    return names
