"""Ended workers are looked at at once, and not again and again; a server that is told to end does so."""

import asyncio
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from circus.exc import ConflictError
from circus.sighandler import SysHandler
from circus.watcher import Watcher

from serving.runtime.supervisor import QUIET_SECONDS, WorkerWatch, supervise
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


def test_ended_workers_are_looked_at_at_once_but_not_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    async def work() -> None:
        loop = SimpleNamespace(asyncio_loop=asyncio.get_running_loop())
        watch = WorkerWatch(SimpleNamespace(loop=loop, manage_watchers=lambda: looks.append(moment)))
        for moment in ("the first", "a second later", "much later"):
            seconds = {"the first": 0.0, "a second later": 1.0, "much later": QUIET_SECONDS}[moment]
            monkeypatch.setattr("serving.runtime.supervisor.time.monotonic", lambda seconds=seconds: 100.0 + seconds)
            watch(signal.SIGCHLD, None)
            monkeypatch.undo()
            await asyncio.sleep(0)

    asyncio.run(work())
    assert looks == ["the first", "much later"]


def test_a_look_while_circus_does_something_else_is_left_to_circus() -> None:
    def manage_watchers() -> None:
        raise ConflictError("arbiter is already running start command")

    failed: list[Any] = []

    async def work() -> None:
        running = asyncio.get_running_loop()
        running.set_exception_handler(lambda _, context: failed.append(context))
        loop = SimpleNamespace(asyncio_loop=running)
        WorkerWatch(SimpleNamespace(loop=loop, manage_watchers=manage_watchers))(signal.SIGCHLD, None)
        await asyncio.sleep(0)

    asyncio.run(work())
    assert not failed


SERVER = """
import sys
from bentoml._internal.utils.circus import create_standalone_arbiter
from bentoml.serving import create_watcher
from serving.runtime.supervisor import supervise

supervise(0.2)
worker = "import os, signal, time; print(os.getpid(), flush=True); time.sleep(1000)"
watcher = create_watcher(name="worker", args=["-c", worker], numprocesses=2, warmup_delay=float(sys.argv[1]))
watcher.use_sockets = False
create_standalone_arbiter([watcher]).start()
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
