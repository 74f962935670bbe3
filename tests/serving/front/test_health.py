"""What a front lives through, and what ends it: the table that cannot be read, and background tasks that end."""

import asyncio
import errno
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from registry.settings import RegistrySettings
from serving.front import front as front_module
from serving.front import health as health_module
from serving.front import routing as routing_module
from serving.front.health import Ends, FrontHealth
from serving.front.routing import Routing
from serving.settings import ServingSettings
from serving.wire.routing_table import ModelEntry, Table, TableFile
from tests.serving.front.local_front import MakeFront
from tests.waiting import WAIT_SECONDS

TABLE = Table(models={"m": ModelEntry(live=None, aliases={"champion": None}, versions={}, serves={"m@champion": None})})


class FailingFile(TableFile):
    """A table whose first readings fail."""

    def __init__(self, run: Path, *errors: Exception) -> None:
        super().__init__(run)
        self.errors = list(errors)

    def read_if_changed(self) -> Table | None:
        if self.errors:
            raise self.errors.pop(0)
        return super().read_if_changed()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("headwaiter"), "propagate", True)
    monkeypatch.setattr(routing_module, "RETRY_SECONDS", 0.001)
    return caplog


@pytest.fixture
def settings(tmp_path: Path) -> ServingSettings:
    return ServingSettings(RegistrySettings(tmp_path, ""), (), tmp_path, grace_seconds=WAIT_SECONDS)


@pytest.fixture
def routings() -> Iterator[list[Routing]]:
    made: list[Routing] = []
    yield made
    for routing in made:
        routing.close()


async def followed(routing: Routing, settings: ServingSettings, file: TableFile) -> bool:
    """Whether the front is alive after it has followed TABLE, which it must."""
    health = FrontHealth(settings, file, routing)
    await routing.catch_up()
    health.supervise("follow", routing.follow)
    while "m" not in routing.table.models:
        await asyncio.sleep(0.001)
        assert health.is_alive()
    alive = health.is_alive()
    health.close()
    return alive


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "too many open files"), PermissionError(errno.EACCES, "not allowed")]
)
def test_a_table_that_cannot_be_read_for_a_while_is_followed_later(
    error: Exception,
    settings: ServingSettings,
    tmp_path: Path,
    routings: list[Routing],
    logged: pytest.LogCaptureFixture,
) -> None:
    file = FailingFile(tmp_path, error, error, error)
    file.write(TABLE)
    routings.append(Routing(settings, file))
    assert asyncio.run(asyncio.wait_for(followed(routings[0], settings, file), WAIT_SECONDS))
    assert [record.getMessage() for record in logged.records].count(
        "the routing table could not be read or applied; it is tried again"
    ) == 3


def test_a_table_of_another_release_is_left_until_one_comes_that_can_be_read(
    settings: ServingSettings, tmp_path: Path, routings: list[Routing], logged: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "routes.json").write_text('{"models": {"m": {"live": 7, "another": "release"}}}')
    file = TableFile(tmp_path)
    routings.append(Routing(settings, file))

    async def work() -> bool:
        following = asyncio.create_task(followed(routings[0], settings, file))
        while not logged.records:
            await asyncio.sleep(0.001)
        file.write(TABLE)
        return await following

    assert asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert "got `int`" in str(logged.records[0].exc_info)


def test_a_heartbeat_that_cannot_be_read_counts_as_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(errno.EACCES, "not allowed")

    file = TableFile(tmp_path)
    file.beat()
    assert file.silence_seconds() < 60
    monkeypatch.setattr("serving.wire.routing_table.os.stat", refuse)
    assert file.silence_seconds() == float("inf")


@pytest.mark.parametrize("step_seconds", [-3600.0, 3600.0])
def test_a_step_of_the_clock_is_no_silence_and_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_seconds: float
) -> None:
    file, clock, monotonic = TableFile(tmp_path), time.time, time.monotonic
    file.beat()
    monkeypatch.setattr("time.time", lambda: clock() + step_seconds)
    assert file.silence_seconds() < 60
    monkeypatch.setattr("time.monotonic", lambda: monotonic() + 100)
    assert file.silence_seconds() >= 100


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), asyncio.CancelledError("a bug")])
def test_a_background_task_that_ends_is_logged_and_started_again(
    make_front: MakeFront, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(health_module, "RESTART_SECONDS", 0.0)
    starts: list[int] = []

    async def fail_at_first() -> None:
        starts.append(len(starts))
        if len(starts) == 1:
            raise error
        if len(starts) > 2:
            await asyncio.Event().wait()

    async def work() -> None:
        front = make_front()
        await front.start()
        front.health.supervise("fail", fail_at_first)
        while len(starts) < 3:
            await asyncio.sleep(0)
        assert front.is_alive()
        await front.stop()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert [record.levelno for record in logged.records] == [logging.CRITICAL] * 2
    assert all("'fail' ended: it is started again" in record.getMessage() for record in logged.records)
    assert "a bug" in str(logged.records[0].exc_info)


@pytest.mark.slow
def test_a_front_whose_background_task_ends_on_and_on_is_not_alive(
    make_front: MakeFront, logged: pytest.LogCaptureFixture
) -> None:
    ends: list[None] = []

    async def fail() -> None:
        ends.append(None)
        raise ZeroDivisionError("a bug")

    async def work() -> None:
        front = make_front(grace_seconds=WAIT_SECONDS)
        await front.start()
        front.health.supervise("fail", fail)
        while not ends:
            await asyncio.sleep(0.001)
        assert front.is_alive()
        first, last = front.health._ends["fail"]
        front.health._ends["fail"] = Ends(first - WAIT_SECONDS, last)  # so long ago
        while len(ends) < 2:
            await asyncio.sleep(0.001)
        assert not front.is_alive()
        await front.stop()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert logged.records


def test_a_front_whose_background_task_ended_long_ago_is_alive(
    make_front: MakeFront, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_module, "RESTART_SECONDS", 0.0)
    starts: list[None] = []

    async def fail_at_first() -> None:
        starts.append(None)
        if len(starts) > 1:
            await asyncio.Event().wait()

    async def work() -> None:
        front = make_front(grace_seconds=WAIT_SECONDS)
        await front.start()
        front.health.supervise("fail", fail_at_first)
        while len(starts) < 2:
            await asyncio.sleep(0)
        clock = time.monotonic
        monkeypatch.setattr(front.health, "_file", SimpleNamespace(silence_seconds=lambda: 0.0))
        monkeypatch.setattr("time.monotonic", lambda: clock() + 2 * WAIT_SECONDS)
        assert front.is_alive()
        monkeypatch.undo()
        await front.stop()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert len(logged.records) == 1


def test_the_end_of_a_front_is_no_lost_task(make_front: MakeFront, logged: pytest.LogCaptureFixture) -> None:
    async def work() -> bool:
        front = make_front()
        await front.start()
        await front.stop()
        await asyncio.sleep(0)
        return bool(front.is_alive())

    assert asyncio.run(work())
    assert not logged.records


def test_a_tick_that_fails_is_logged_and_the_next_one_comes(
    make_front: MakeFront, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(front_module, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(front_module, "RETRY_SECONDS", 0.0)

    async def work() -> None:
        front = make_front()
        looked: list[float] = []

        def note(now: float) -> None:
            looked.append(now)
            if len(looked) == 1:
                raise OSError(errno.EMFILE, "too many open files")

        monkeypatch.setattr(front.routing, "note_unserved", note)
        await front.start()
        while len(looked) < 3:
            await asyncio.sleep(0)
        assert front.is_alive()
        await front.stop()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
    assert "too many open files" in str(logged.records[0].exc_info)
