"""Priorities of threads and processes, so that loading a version does not slow down those that serve.

Fetching, verifying, importing, loading and warming up happen in threads of low priority. On Linux priority belongs to a
thread: the other threads of the process keep theirs, and no privilege is needed to raise it again.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

LOADING_NICENESS = 10
"""Niceness of a loading thread: about 10 % of a core beside a busy serving thread, and all of an idle core."""

GENERATION_NICENESS = 5
"""Niceness of a generating engine on a CPU, which is always busy, while others are busy for moments: a quarter of a
core beside another busy engine, and all of an idle core."""

OomRank = Literal["loading", "serving"]
OOM_SHARES: dict[OomRank, float] = {"loading": 1.0, "serving": 0.25}
"""Where an engine's `oom_score_adj` lies between the process' own and 1000, the highest. When memory runs out, the
kernel kills the process with the largest sum of its memory and `oom_score_adj` thousandths of the limit: first an
engine that loads, or the template, then one that serves, last the fronts and the manager, which keep their own one."""

Result = TypeVar("Result")


def lower_priority() -> None:
    """Give the calling thread, and threads that it starts, LOADING_NICENESS. Only on Linux."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_NICENESS)


def lower_process_priority() -> None:
    """Give all threads of this process, and threads that they start, GENERATION_NICENESS. Only on Linux."""
    with suppress(OSError, AttributeError):
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), GENERATION_NICENESS)


class OomScore:
    """This process' `oom_score_adj`, by which the kernel chooses what to kill when memory runs out. Only on Linux."""

    def __init__(self, path: Path = Path("/proc/self/oom_score_adj")) -> None:
        self._path = path
        try:
            self._base = int(path.read_text())
        except OSError:
            self._base = 1000

    def become(self, rank: OomRank) -> None:
        """Take the score of an engine of this rank. Going from "loading" to "serving" needs no privilege."""
        with suppress(OSError):
            self._path.write_text(str(self._base + round(OOM_SHARES[rank] * (1000 - self._base))))


def run_at_low_priority(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread of low priority, and return or raise what it does. Blocks."""
    with ThreadPoolExecutor(1, thread_name_prefix="headwaiter-loading", initializer=lower_priority) as pool:
        return pool.submit(work).result()
