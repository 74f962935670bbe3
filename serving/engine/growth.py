"""How much memory an engine is going to take beyond what it has when it is ready, so that the manager leaves room.

Forward passes take memory for what they compute. Malloc keeps it for the next ones, see `launch.KEPT_MEMORY`.
"""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

STATUS = Path("/proc/self/status")


def measure_growth(work: Callable[[], Result]) -> tuple[Result, int]:
    """The result of `work`, and the bytes that it has added to the process' memory. Blocks; raises what `work` does.

    Memory that was freed before is given back first, so that `work` cannot use it. 0 bytes where neither can be told.
    """
    with suppress(OSError, AttributeError):  # of glibc only
        ctypes.CDLL(None).malloc_trim(0)
    before = anonymous_bytes()
    result = work()
    return result, max(0, anonymous_bytes() - before)


def anonymous_bytes() -> int:
    """Resident memory of this process that belongs to no file; 0 where that is not told."""
    with suppress(OSError, ValueError):
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) << 10
    return 0
