"""Processes that end with their server, or with their own work, although something in them would go on for ever."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.runtime.instruments import instruments
from serving.runtime.run_folder import RUN_VARIABLE, RunFolder
from serving.runtime.server_process import at_end
from serving.runtime.workers import WorkerBeat
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


STUCK = (
    "import signal, sys, threading, time\n"
    "from pathlib import Path\n"
    "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
    "threading.Thread(target=threading.Event().wait).start()\n"
    "print('begun', flush=True)\n"
    "{begin}\n"
    "while True: time.sleep(0.05)  # a signal just before signal.pause would wait for the next one\n"
)
"""A process that does not leave when it is asked to, and has a thread that never ends."""
WITH_SERVER = (
    "from serving.runtime.server_process import end_with_server\nend_with_server(Path(sys.argv[1]), {seconds})"
)
MANAGER = (
    "from serving import service\n"
    "class Loop:\n"
    "    def run(self): {end}\n"
    "service.LEAVE_SECONDS = 0.1\n"
    "manager = object.__new__(service.ManagerService.inner)\n"
    "manager._loop = Loop()\n"
    "threading.Timer(0.1, manager._run).start()"
)


@contextmanager
def stuck(begin: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A stuck process that has begun."""
    command = [sys.executable, "-c", STUCK.format(begin=begin), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "begun\n"
            yield process
        finally:
            process.kill()


WHEN_ASKED = (
    "import os\nfrom serving.runtime import server_process\n"
    "asked, leave = threading.Event(), os._exit\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), asked.set()))\n"
    "server_process.os._exit = lambda status: asked.wait() and leave(status)\n"
)
"""Its end waits until it was asked, however late its main thread runs."""


def test_a_process_ends_with_its_server_and_is_asked_first(tmp_path: Path) -> None:
    run = RunFolder.make(tmp_path / "run")
    with stuck(WHEN_ASKED + WITH_SERVER.format(seconds=0.1), str(run.path)) as process:
        run.close()
        assert process.wait(WAIT_SECONDS) == 1
        assert process.stdout is not None
        assert process.stdout.read() == "asked\n"


def test_a_process_that_learns_of_its_server_too_late_ends_as_well(tmp_path: Path) -> None:
    with stuck(WITH_SERVER.format(seconds=0.1), str(tmp_path / "removed")) as process:
        assert process.wait(WAIT_SECONDS) == 1


@pytest.mark.server
@pytest.mark.parametrize("end", ["return", "raise OSError('torn')"])
def test_the_managers_process_ends_with_its_loop(end: str) -> None:
    with stuck(MANAGER.format(end=end)) as process:
        assert process.wait(WAIT_SECONDS) == 1


@pytest.mark.parametrize("late", ["instruments", "worker"])
def test_a_process_that_comes_too_late_makes_no_new_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    run = tmp_path / "removed"
    monkeypatch.setenv(RUN_VARIABLE, str(run))
    with pytest.raises(FileNotFoundError):
        instruments.__wrapped__() if late == "instruments" else WorkerBeat(run, "front")
    assert not run.exists()


def test_work_is_done_at_a_signal_beside_what_was_done_before() -> None:
    done: list[object] = []

    async def wait() -> None:
        ended = asyncio.Event()
        at_end(lambda: (done.append("work"), ended.set()))
        os.kill(os.getpid(), signal.SIGTERM)
        await ended.wait()

    before = signal.signal(signal.SIGTERM, lambda number, frame: done.append(number))
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        asyncio.run(asyncio.wait_for(wait(), WAIT_SECONDS))
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)
    assert done == [signal.SIGTERM, "work"]
