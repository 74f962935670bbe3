"""Ended workers are looked at at once, and not again and again."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

import pytest
from circus.exc import ConflictError
from circus.watcher import Watcher

from serving.runtime.respawn import QUIET_SECONDS, WorkerWatch, respawn_workers


@pytest.fixture
def circus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """circus, which is as before at the end of the test."""
    handler = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(Watcher, "initialize", Watcher.initialize)
    yield
    signal.signal(signal.SIGCHLD, handler)


def test_a_worker_is_started_again_although_bentoml_says_otherwise(circus: Any) -> None:
    respawn_workers()
    watcher = Watcher("fronts", "true", respawn=False)
    arbiter = SimpleNamespace()
    watcher.initialize(None, {}, arbiter)
    assert watcher.respawn
    assert watcher.arbiter is arbiter
    assert isinstance(signal.getsignal(signal.SIGCHLD), WorkerWatch)


def test_ended_workers_are_looked_at_at_once_but_not_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    async def work() -> None:
        loop = SimpleNamespace(asyncio_loop=asyncio.get_running_loop())
        watch = WorkerWatch(SimpleNamespace(loop=loop, manage_watchers=lambda: looks.append(moment)))
        for moment in ("the first", "a second later", "much later"):
            seconds = {"the first": 0.0, "a second later": 1.0, "much later": QUIET_SECONDS}[moment]
            monkeypatch.setattr("serving.runtime.respawn.time.monotonic", lambda seconds=seconds: 100.0 + seconds)
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
