"""Wakes a front once a file of a folder was replaced, by inotify(7), so that it need not look again and again."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from serving.runtime.inotify import MOVED_TO, read_names, watch


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
        self._descriptor = watch({self._folder: MOVED_TO})
        if self._descriptor is not None:
            self._loop.add_reader(self._descriptor, self._read)
            self.tell()  # of what came before

    def _read(self) -> None:
        self.tell()
        if self._descriptor is not None:
            read_names(self._descriptor)
