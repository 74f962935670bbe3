"""What hangs and what is only slow, told of real processes; the clock is the test's, so that nothing is waited for."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest

from serving.runtime.watchdog import LOOK_SECONDS, SPIN_FACTOR, Watchdog, read_activity
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.surroundings,
    pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc"),
]

LIMIT = 5.0
DEADLOCK = "import threading; lock = threading.Lock(); print(flush=True); lock.acquire(); lock.acquire()"
DEADLOCKED_THREADS = """
import threading
lock = threading.Lock()
lock.acquire()
others = [threading.Thread(target=lock.acquire) for _ in range(4)]
for each in others: each.start()
print(flush=True)
others[0].join()
"""
BUSY = "print(flush=True)\nwhile True: pass"


@contextmanager
def running(code: str) -> Iterator[int]:
    """The id of a Python process that has come to its first print."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


def stands_still(pid: int) -> bool:
    found = read_activity(pid)
    return found is not None and not found.is_runnable


def seconds_until_hanging(pid: int, *, at_most: float, expected: float = 0.0) -> float | None:
    """After how many seconds of silence the process counts as hanging; None if it does not."""
    watchdog = Watchdog(LIMIT)
    for look in count():
        now = 1000.0 + look * LOOK_SECONDS
        if watchdog.hangs(pid, "the same step", expected, now):
            return now - 1000.0
        if now - 1000.0 > at_most:
            return None
    raise AssertionError


@pytest.mark.parametrize("code", [DEADLOCK, DEADLOCKED_THREADS])
def test_a_deadlocked_process_hangs(code: str) -> None:
    with running(code) as pid:
        wait_until(lambda: stands_still(pid), "it waits for ever")
        found = seconds_until_hanging(pid, at_most=4 * LIMIT)
        assert found is not None
        assert LIMIT < found < LIMIT + 4 * LOOK_SECONDS


def test_a_stopped_process_hangs_however_busy_it_was() -> None:
    with running(BUSY) as pid:
        psutil.Process(pid).send_signal(signal.SIGSTOP)
        wait_until(lambda: stands_still(pid), "it is stopped")
        found = seconds_until_hanging(pid, at_most=4 * LIMIT)
        assert found is not None
        assert LIMIT < found < LIMIT + 4 * LOOK_SECONDS


def test_a_step_that_should_take_long_may(tmp_path: Path) -> None:
    with running(DEADLOCK) as pid:
        wait_until(lambda: stands_still(pid), "it waits for ever")
        assert seconds_until_hanging(pid, at_most=29.0, expected=10.0) is None
        assert seconds_until_hanging(pid, at_most=60.0, expected=10.0) is not None


def test_a_process_that_computes_does_not_hang() -> None:
    with running(BUSY) as pid:
        assert seconds_until_hanging(pid, at_most=SPIN_FACTOR * LIMIT) is None


def test_a_process_that_is_starved_does_not_hang() -> None:
    """It has used next to nothing, for it never gets the core that another one has."""
    with running(BUSY) as other, running(BUSY) as pid:
        core = psutil.Process(other).cpu_affinity()[:1]
        for each in (other, pid):
            psutil.Process(each).cpu_affinity(core)
        psutil.Process(pid).nice(19)
        assert seconds_until_hanging(pid, at_most=SPIN_FACTOR * LIMIT * 2) is None


def test_a_process_that_spins_hangs_once_it_had_the_processor_for_long_enough() -> None:
    with running(BUSY) as pid:
        watchdog = Watchdog(LIMIT / 100)
        before = read_activity(pid)
        looks = (watchdog.hangs(pid, "the same step", 0.0, 1000.0 + look * LOOK_SECONDS) for look in count())
        wait_until(lambda: next(looks), "its 50 ms are over many times")
        after = read_activity(pid)
        assert before is not None
        assert after is not None
        assert after.is_runnable, "it did not stand still"
        assert after.cpu_seconds - before.cpu_seconds > LIMIT / 100


def test_a_process_that_gets_on_does_not_hang() -> None:
    with running(DEADLOCK) as pid:
        wait_until(lambda: stands_still(pid), "it waits for ever")
        watchdog = Watchdog(LIMIT)
        for look in range(200):
            assert not watchdog.hangs(pid, look // 8, 0.0, 1000.0 + look * LOOK_SECONDS)


def test_the_time_in_which_the_watcher_itself_stood_still_does_not_count() -> None:
    """Both were stopped together: a suspended machine, a frozen container, Ctrl-Z."""
    with running(DEADLOCK) as pid:
        wait_until(lambda: stands_still(pid), "it waits for ever")
        watchdog = Watchdog(LIMIT)
        for hour in range(4):
            assert not watchdog.hangs(pid, "the same step", 0.0, 1000.0 + 3600 * hour)


def test_a_process_that_is_gone_does_not_hang() -> None:
    with running(BUSY) as pid:
        psutil.Process(pid).kill()
        psutil.Process(pid).wait(WAIT_SECONDS)
    assert read_activity(pid) is None
    assert seconds_until_hanging(pid, at_most=4 * LIMIT) is None


def test_a_name_may_look_like_the_fields_that_follow_it(tmp_path: Path) -> None:
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    rest = " ".join(["1"] * 10 + ["200", "300"] + ["0"] * 30)
    for stat in (tmp_path / "7" / "stat", tmp_path / "7" / "task" / "7" / "stat"):
        stat.write_text(f"7 (a) R 1 (b) S {rest}\n")
    found = read_activity(7, tmp_path)
    assert found is not None
    assert found.cpu_seconds == pytest.approx(5.0, rel=1.0)
    assert not found.is_runnable
