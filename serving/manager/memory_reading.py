"""The memory of an engine's process, as Linux tells it. Elsewhere a process shares none with a template."""

import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

SHARED_SECONDS = 0.5
"""How often the memory that a process shares is read at most; one reading walks its page table and takes 2 to 8 ms."""


class Memory(NamedTuple):
    """Bytes of resident memory, those of them that are files, and those that are the template's as well.

    highest: the most resident memory that the process has had, 0 if that is not known.
    """

    resident: int = 0
    files: int = 0
    inherited: int = 0
    highest: int = 0

    @property
    def own(self) -> int:
        """What the end of the process would free, without files that are mapped."""
        return max(0, self.resident - self.files - self.inherited)

    @property
    def own_at_most(self) -> int:
        """The most that it has been, also for a moment in which nobody looked."""
        return max(self.own, self.highest - self.files - self.inherited)


class MemoryReader:
    """Reads the memory of one process after another, each known by its id."""

    def __init__(self) -> None:
        self._pid = 0
        self._inherited = 0
        self._read_at = 0.0

    def read(self, pid: int) -> Memory:
        """The memory of the process now; zeros where it is gone. What it inherited may be SHARED_SECONDS old."""
        now = time.monotonic()
        if pid != self._pid or now - self._read_at > SHARED_SECONDS:
            self._pid, self._read_at = pid, now
            self._inherited = inherited_bytes(Path(f"/proc/{pid}/smaps_rollup"))
        try:  # after what it inherited, which would count as its own if it ended in between
            found = psutil.Process(pid).memory_info() if pid else None
        except psutil.Error:
            found = None
        if found is None:
            return Memory()
        highest = highest_bytes(Path(f"/proc/{pid}/status"))
        return Memory(found.rss, getattr(found, "shared", 0), self._inherited, highest)


def highest_bytes(status: Path) -> int:
    """The most resident memory of a process since it was forked, by its `status`; 0 where that is not told."""
    with suppress(OSError, ValueError):
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def inherited_bytes(rollup: Path) -> int:
    """Anonymous memory that a process shares with others since a fork, by its `smaps_rollup`; 0 where there is none."""
    sizes: dict[str, int] = {}
    with suppress(OSError, ValueError):
        for line in rollup.read_text().splitlines()[1:]:
            name, _, size = line.partition(":")
            sizes[name] = int(size.removesuffix("kB")) << 10
    return max(0, sizes.get("Anonymous", 0) - sizes.get("Private_Dirty", 0))
