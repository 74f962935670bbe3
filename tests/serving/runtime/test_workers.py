"""A worker that hangs is killed by those that watch it, and no other process is."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psutil
import pytest

from serving.runtime.watchdog import LOOK_SECONDS
from serving.runtime.workers import WORKERS, WorkerBeat, WorkerWatchdog
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.surroundings,
    pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc"),
]

WORKER = """
import sys, time
from pathlib import Path
from serving.runtime.workers import WorkerBeat
beat = WorkerBeat(Path(sys.argv[1]), "front")
print(flush=True)
while True:
    beat.beat(time.monotonic())
    time.sleep(0.02)
"""
LIMIT = 5.0


@contextmanager
def worker(run: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", WORKER, str(run)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def look(watchdog: WorkerWatchdog, seconds: float) -> None:
    """Look as often as a watchdog does in `seconds`, without waiting."""
    for number in count():
        if number * LOOK_SECONDS > seconds:
            return
        watchdog.look(1000.0 + number * LOOK_SECONDS)


def test_a_worker_that_stands_still_is_killed(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        psutil.Process(process.pid).suspend()
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it stands still")
        watchdog = WorkerWatchdog(tmp_path, "front", LIMIT)
        look(watchdog, LIMIT - LOOK_SECONDS)
        assert process.poll() is None
        look(WorkerWatchdog(tmp_path, "manager", LIMIT), 3 * LIMIT)
        assert process.poll() is None, "it is no manager"
        look(WorkerWatchdog(tmp_path, "front", LIMIT), 3 * LIMIT)
        assert process.wait(WAIT_SECONDS) == -9
    look(watchdog, 0)
    WorkerWatchdog(tmp_path, "front", LIMIT).look(2000.0)
    assert not list((tmp_path / WORKERS).iterdir()), "what it left is removed"


def test_a_worker_whose_loop_turns_is_not_killed(tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        watchdog = WorkerWatchdog(tmp_path, "front", LIMIT)
        now = 1000.0
        (path,) = (tmp_path / WORKERS).iterdir()
        for _ in range(3):
            before = path.stat().st_mtime_ns
            wait_until(lambda before=before: path.stat().st_mtime_ns != before, "its loop turns")
            for _ in range(int(LIMIT)):
                now += LOOK_SECONDS
                watchdog.look(now)
        assert process.poll() is None


def test_a_process_that_has_a_dead_workers_id_is_not_killed(tmp_path: Path) -> None:
    (tmp_path / WORKERS).mkdir()
    with subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"]) as process:
        (tmp_path / WORKERS / f"front.{process.pid}").touch()
        (tmp_path / WORKERS / "front.no-number").touch()
        psutil.Process(process.pid).suspend()
        look(WorkerWatchdog(tmp_path, "front", LIMIT), 3 * LIMIT)
        assert process.poll() is None
        process.kill()


def test_a_worker_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    beat = WorkerBeat(tmp_path, "manager")
    assert len(list((tmp_path / WORKERS).iterdir())) == 1
    beat.close()
    assert not list((tmp_path / WORKERS).iterdir())
