"""Loading may not starve serving: whatever fetches, verifies, imports, loads or warms up does so in a thread of low
priority. Priority belongs to threads on Linux, so that the process' other threads serve at full priority, and nobody
needs the privilege to raise it again.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

LOADING_NICENESS = 10
"""Of a loading thread: against a busy serving thread it gets about 10 % of a core, an idle core it gets whole."""

WRITING_NICENESS = 5
"""Of an engine that writes texts on a CPU: it is always busy, others are for moments. Against a busy one of them it
gets a quarter of a core, an idle core it gets whole."""

OomRank = Literal["loading", "serving"]
OOM_SHARES: dict[OomRank, float] = {"loading": 1.0, "serving": 0.25}
"""How far from the process' own `oom_score_adj` to 1000, the highest. When memory runs out, the kernel kills the
process that takes most, and counts `oom_score_adj` thousandths of the limit as taken. So an engine that loads goes
first, then one that serves, and last the fronts and the manager, which keep their own."""

Result = TypeVar("Result")


def lower_priority() -> None:
    """Give the calling thread, and those that it starts, the priority of loading. Elsewhere than on Linux: nothing."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOADING_NICENESS)


def give_way() -> None:
    """Give all threads of this process, and those that they start, the priority of writing. Only on Linux."""
    with suppress(OSError, AttributeError):
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), WRITING_NICENESS)


class OomScore:
    """This process' place in the kernel's choice of whom to kill when memory runs out. Only on Linux."""

    def __init__(self, path: Path = Path("/proc/self/oom_score_adj")) -> None:
        self._path = path
        try:
            self._base = int(path.read_text())
        except OSError:
            self._base = 1000

    def become(self, rank: OomRank) -> None:
        """Take the place of an engine of this rank; nobody needs a privilege to go from "loading" to "serving"."""
        with suppress(OSError):
            self._path.write_text(str(self._base + round(OOM_SHARES[rank] * (1000 - self._base))))


def run_at_low_priority(work: Callable[[], Result]) -> Result:
    """What `work` returns or raises, done in a thread of low priority that ends with it. Blocks."""
    with ThreadPoolExecutor(1, thread_name_prefix="headwaiter-loading", initializer=lower_priority) as pool:
        return pool.submit(work).result()
