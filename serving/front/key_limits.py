"""The counts behind a key's rate and concurrency, in memory that all fronts of a server share.

Nothing is locked for a request. Two fronts that look at the same moment may both admit, so a bound may be passed by as
many requests as there are other fronts.
"""

import fcntl
import mmap
import os
import time
from pathlib import Path

from serving.errors import KeyLimitReached, Overloaded
from serving.runtime.key_file import AccessKey

SLOTS = 4096
"""Keys with limits that one server may have seen since its start."""
_ID, _DUE, _COUNTS = 0, 1, 2
"""Offsets in a slot: the key's id, when its next request is due, and the requests in progress in each front."""
_ID_BYTES = 6
"""Of a key's digest: a whole number that a double holds exactly."""
_ROUNDING = 1e-6
"""Of a request, so that sums of seconds that are no binary fractions cost none."""
RETRY_SECONDS = 1.0
"""When to ask again after too many at once: their ends are not known."""


class KeyLimits:
    """The counts, as one front sees them."""

    def __init__(self, folder: Path, fronts: int, own: int = 0) -> None:
        """folder: of the server's run state. own: this front's place among `fronts`, from 0. Raises OSError."""
        self._width = _COUNTS + fronts
        self._own = _COUNTS + own
        self._places: dict[str, int] = {}
        size = 8 * SLOTS * self._width
        self._file = (folder / f"key-limits.{fronts}").open("a+b")
        if hasattr(os, "posix_fallocate"):  # else a write to a full disk would end the process (SIGBUS)
            os.posix_fallocate(self._file.fileno(), 0, size)
        self._file.truncate(size)
        self._memory = mmap.mmap(self._file.fileno(), size)
        self._cells = memoryview(self._memory).cast("d")
        for at in range(self._own, len(self._cells), self._width):  # of a front that crashed
            if self._cells[at]:
                self._cells[at] = 0.0

    def enter(self, key: AccessKey) -> None:
        """Count a request that begins. Raises KeyLimitReached, which says when to try again."""
        at, cells = self._place(key), self._cells
        if key.concurrency and sum(cells[at + _COUNTS : at + self._width]) >= key.concurrency:
            raise KeyLimitReached(
                f"the key {key.name!r} has {key.concurrency} requests in progress, as many as it may: "
                "try again when one has ended",
                retry_seconds=RETRY_SECONDS,
            )
        if key.rate:
            now, each = time.monotonic(), 1 / key.rate
            ahead = max(0.0, 1.0 - each)  # a second's requests may come at once
            due = cells[at + _DUE]
            if not now <= due <= now + ahead + 2 * each:  # far ahead: of another start of the machine
                due = now
            if due - now > ahead + _ROUNDING * each:
                raise KeyLimitReached(
                    f"the key {key.name!r} may ask {key.rate:g} times a second: try again later",
                    retry_seconds=due - now - ahead,
                )
            cells[at + _DUE] = due + each
        cells[at + self._own] += 1

    def leave(self, key: AccessKey) -> None:
        """Count the end of a request that entered."""
        self._cells[self._place(key) + self._own] -= 1

    def close(self) -> None:
        """Let go of the memory."""
        self._cells.release()
        self._memory.close()
        self._file.close()

    def _place(self, key: AccessKey) -> int:
        """Where the key's slot begins; a free one is taken for a new key."""
        found = self._places.get(key.sha256)
        if found is None:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                found = self._places[key.sha256] = self._take(1 + int(key.sha256[: 2 * _ID_BYTES], 16))
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        return found

    def _take(self, wanted: int) -> int:
        for step in range(SLOTS):
            at = (wanted + step) % SLOTS * self._width
            if self._cells[at + _ID] in (0.0, wanted):
                self._cells[at + _ID] = wanted
                return at
        raise Overloaded(
            f"this server has seen more than {SLOTS:,} keys with limits since its start: restart it",
            retry_seconds=RETRY_SECONDS,
        )
