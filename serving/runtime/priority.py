"""Priorities of threads and processes, so that loading a version does not slow down those that serve.

Fetching, verifying, importing, loading and warming up happen in threads of low priority. On Linux priority belongs to a
thread: the other threads of the process keep theirs, and no privilege is needed to raise it again. Where the kernel
groups processes by session (autogroup, sched(7)), a thread's priority counts within its session only. A forked engine
has a session of its own, so it lowers that one's priority as well.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

LOADING_NICENESS = 5
"""Niceness of a loading thread: a quarter of a core beside a busy serving thread, and all of an idle core. At 10 a load
took 32 s beside full load on two cores."""

GENERATION_NICENESS = 5
"""Niceness of a generating engine on a CPU, which is always busy, while others are busy for moments: a quarter of a
core beside another busy engine, and all of an idle core."""

AUTOGROUP = Path("/proc/self/autogroup")
AUTOGROUP_TRIES, AUTOGROUP_SECONDS = 40, 0.05
"""The kernel takes one change of an autogroup in 100 ms from all users without privileges (Linux 6.18)."""

OomRank = Literal["loading", "serving"]
OOM_SHARES: dict[OomRank, float] = {"loading": 1.0, "serving": 0.25}
"""Where an engine's `oom_score_adj` lies between the process' own and 1000, the highest. When memory runs out, the
kernel kills the process with the largest sum of its memory and `oom_score_adj` thousandths of the limit: first an
engine that loads, or the template, then one that serves, last the fronts and the manager, which keep their own one."""

Result = TypeVar("Result")


def lower_priority() -> None:
    """Give the calling thread, and threads that it starts, LOADING_NICENESS, unless theirs is higher. Only on Linux."""
    _lower(threading.get_native_id(), LOADING_NICENESS)


def lower_process_priority() -> None:
    """Give all threads of this process, and threads that they start, GENERATION_NICENESS, unless theirs is higher.

    Only on Linux. May block for a moment.
    """
    if (autogroup := own_autogroup()) is not None:
        set_session_niceness(max(session_niceness(autogroup), GENERATION_NICENESS), autogroup)
    with suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            _lower(int(thread.name), GENERATION_NICENESS)


def _lower(thread: int, niceness: int) -> None:
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, thread, max(os.getpriority(os.PRIO_PROCESS, thread), niceness))


@contextmanager
def low_session_priority(autogroup: Path | None) -> Iterator[None]:
    """Give the session of this process LOADING_NICENESS in the block. What others have set meanwhile stays.

    autogroup: as of `own_autogroup`; None changes nothing.
    """
    if autogroup is None:
        yield
        return
    before = session_niceness(autogroup)
    lowered = max(before, LOADING_NICENESS)
    set_session_niceness(lowered, autogroup)
    try:
        yield
    finally:
        if session_niceness(autogroup) == lowered:
            set_session_niceness(before, autogroup)


def own_autogroup() -> Path | None:
    """The file of this process' session's niceness; None where another process has started the session."""
    return AUTOGROUP if os.getsid(0) == os.getpid() else None


def session_niceness(path: Path) -> int:
    """The niceness of this process' session; 0 where the kernel does not group processes by it."""
    with suppress(OSError, ValueError, IndexError):
        return int(path.read_text().split()[-1])
    return 0


def set_session_niceness(niceness: int, path: Path) -> None:
    """Set the niceness of this process' session, where the kernel knows one. Blocks for up to 2 s while it is busy."""
    for _ in range(AUTOGROUP_TRIES):
        try:
            path.write_text(str(niceness))
            return
        except BlockingIOError:
            time.sleep(AUTOGROUP_SECONDS)
        except OSError:  # a kernel without autogroups
            return


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
