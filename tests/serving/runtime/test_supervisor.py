"""Ended workers are looked at at once, and not again and again; a server that is told to end does so."""

import asyncio
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from circus.exc import ConflictError
from circus.sighandler import SysHandler
from circus.watcher import Watcher

from serving.runtime.supervisor import WorkerWatch, supervise
from tests.e2e.server import wait_until
from tests.waiting import WAIT_SECONDS

pytestmark = pytest.mark.slow


@pytest.fixture
def circus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """circus, which is as before at the end of the test."""
    handler = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(Watcher, "initialize", Watcher.initialize)
    monkeypatch.setattr(SysHandler, "quit", SysHandler.quit)
    yield
    signal.signal(signal.SIGCHLD, handler)


def test_a_worker_is_started_again_although_bentoml_says_otherwise(circus: Any) -> None:
    supervise(2.0)
    watcher = Watcher("fronts", "true", respawn=False)
    arbiter = SimpleNamespace()
    watcher.initialize(None, {}, arbiter)
    assert watcher.respawn
    assert watcher.graceful_timeout == 2.0
    assert watcher.arbiter is arbiter
    assert isinstance(signal.getsignal(signal.SIGCHLD), WorkerWatch)


def test_each_end_is_looked_at_at_once_or_a_little_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.runtime.supervisor.QUIET_SECONDS", 0.2)
    looks: list[float] = []

    async def work() -> None:
        running = asyncio.get_running_loop()
        loop = SimpleNamespace(asyncio_loop=running)
        watch = WorkerWatch(SimpleNamespace(loop=loop, manage_watchers=lambda: looks.append(running.time())))
        watch(signal.SIGCHLD, None)
        while not looks:
            await asyncio.sleep(0)
        for _ in range(10):
            watch(signal.SIGCHLD, None)
        while len(looks) < 2:
            await asyncio.sleep(0.01)
        assert looks[1] - looks[0] >= 0.2
        await asyncio.sleep(0.3)

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert len(looks) == 2, "all ends until the second look are seen by it"


def test_a_look_while_circus_does_something_else_comes_later() -> None:
    looks: list[str] = []

    def manage_watchers() -> None:
        looks.append("")
        if len(looks) < 3:
            raise ConflictError("arbiter is already running start command")

    failed: list[Any] = []

    async def work() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: failed.append(context))
        loop = SimpleNamespace(asyncio_loop=running)
        WorkerWatch(SimpleNamespace(loop=loop, manage_watchers=manage_watchers))(signal.SIGCHLD, None)
        while len(looks) < 3:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert not failed


SERVER = """
import sys
from bentoml._internal.utils.circus import create_standalone_arbiter
from bentoml.serving import create_watcher
from serving.runtime import supervisor

supervisor.QUIET_SECONDS = 0.5
supervisor.supervise(0.2)
worker = "import os, signal, time; print(os.getpid(), flush=True); time.sleep(1000)"
watcher = create_watcher(name="worker", args=["-c", worker], numprocesses=2, warmup_delay=float(sys.argv[1]))
watcher.use_sockets = False
arbiter = create_standalone_arbiter([watcher])
arbiter.ctrl.check_delay = 10**9  # circus' own looks never come, as after the clock was set back
arbiter.start()
"""
"""A server with two workers, of which the second is started some seconds after the first."""


@pytest.mark.parametrize("told", ["while it starts workers", "while a worker stands still"])
def test_a_server_ends_when_it_is_told_to(told: str) -> None:
    is_starting = told == "while it starts workers"
    command = [sys.executable, "-c", SERVER, "2" if is_starting else "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        workers = [int(server.stdout.readline()) for _ in range(1 if is_starting else 2)]
        if not is_starting:
            os.kill(workers[0], signal.SIGSTOP)
        server.terminate()
        assert server.wait(WAIT_SECONDS) == 0
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_workers_that_end_shortly_after_one_another_are_all_started_again() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER, "0"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        workers = [int(server.stdout.readline()) for _ in range(2)]
        for _ in range(3):
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
                wait_until(lambda worker=worker: not psutil.pid_exists(worker), "circus has looked at it")
            ended, workers = workers, [int(server.stdout.readline()) for _ in range(2)]
            assert not set(ended) & set(workers)
        server.terminate()
        assert server.wait(WAIT_SECONDS) == 0
