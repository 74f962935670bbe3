"""Threads for work that may never return."""

import subprocess
import sys
import threading

import pytest

from serving.runtime.daemon_pool import DaemonPool
from tests.waiting import WAIT_SECONDS


def test_work_is_done_at_most_so_much_at_a_time() -> None:
    pool, lock, inside, most = DaemonPool(3, "test"), threading.Lock(), 0, 0
    together = threading.Barrier(3)

    def work(number: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        together.wait(WAIT_SECONDS)
        with lock:
            inside -= 1
        return number

    futures = [pool.submit(work, number) for number in range(9)]
    assert [future.result(WAIT_SECONDS) for future in futures] == list(range(9))
    assert most == 3


def test_an_error_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        DaemonPool(1, "test").submit(lambda: 1 / 0).result(WAIT_SECONDS)


def test_after_shutdown_nothing_begins() -> None:
    pool, begun, go = DaemonPool(1, "test"), threading.Event(), threading.Event()
    running, waiting = pool.submit(lambda: begun.set() or go.wait(WAIT_SECONDS)), pool.submit(int)
    assert begun.wait(WAIT_SECONDS)
    pool.shutdown()
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(int)
    go.set()
    assert running.result(WAIT_SECONDS)


def test_a_process_ends_beside_work_that_never_returns() -> None:
    code = (
        "import threading\nfrom serving.runtime.daemon_pool import DaemonPool\n"
        "begun = threading.Event()\n"
        "def work():\n    begun.set()\n    threading.Event().wait()\n"
        "DaemonPool(1, 'test').submit(work)\nassert begun.wait()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=WAIT_SECONDS)
