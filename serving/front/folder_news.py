"""Wakes a front once a file of a folder was replaced, by inotify(7), so that it need not look again and again."""

import asyncio
import ctypes
import os
from contextlib import suppress
from pathlib import Path

MOVED_TO = 0x80
"""IN_MOVED_TO: a file came into the folder by `rename`, as those of `registry.atomic_file` do."""
READ_BYTES = 1 << 16


class FolderNews:
    """The news of one folder, for one task. Construct it anywhere; it watches from the first `wait` on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._news = asyncio.Event()
        self._descriptor: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self) -> None:
        """End the wait. To be called in the event loop."""
        self._news.set()

    async def wait(self, seconds: float, unwatched_seconds: float) -> None:
        """Return once there is news since the last call returned, at the latest after `seconds`.

        unwatched_seconds: instead of these, where nothing can be watched: elsewhere than on Linux, and where the user
        has no inotify instance left.
        """
        if self._loop is None:
            self._open()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), unwatched_seconds if self._descriptor is None else seconds)
        self._news.clear()

    def close(self) -> None:
        """Watch no more."""
        if self._descriptor is not None:
            assert self._loop is not None
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = watch(self._folder)
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._read)
            self.tell()  # of what came before

    def _read(self) -> None:
        self.tell()
        with suppress(BlockingIOError):
            while self._descriptor is not None and os.read(self._descriptor, READ_BYTES):
                pass


def watch(folder: Path) -> int | None:
    """An inotify instance that watches the folder, as a descriptor; None where there is none to be had."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "inotify_init1"):
        return None
    descriptor: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor >= 0 and library.inotify_add_watch(descriptor, os.fsencode(folder), MOVED_TO) < 0:
        os.close(descriptor)
        return None
    return descriptor if descriptor >= 0 else None
