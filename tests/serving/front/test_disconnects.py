"""Watching the connections of those who wait: only of those who wait long, and at the cost of these alone."""

import asyncio
import logging
import time
from typing import Any

import pytest

from serving.errors import ClientGone, Failed
from serving.front.disconnects import WATCH_SECONDS, Disconnects
from serving.front.waiter import Waiter
from tests.serving.front.local_front import FakeLink
from tests.waiting import WAIT_SECONDS


def test_a_connection_is_watched_once_its_request_has_waited_long_enough() -> None:
    async def work() -> None:
        asked: list[int] = []

        def connection(number: int) -> Any:
            async def disconnected() -> None:
                asked.append(number)

            return disconnected

        disconnects, link, began = Disconnects(), FakeLink(), time.monotonic()
        waiters = [Waiter(1, 0.0) for _ in range(4)]
        for number, waiter in enumerate(waiters):
            disconnects.expect(waiter, link, connection(number))  # type: ignore[arg-type]
        disconnects.forget(waiters[1])
        disconnects.tick(began)
        await asyncio.sleep(0)
        assert asked == []
        disconnects.tick(time.monotonic() + WATCH_SECONDS)
        for waiter in (waiters[0], waiters[2], waiters[3]):
            with pytest.raises(ClientGone):
                await waiter.done
        assert asked == [0, 2, 3]
        assert not waiters[1].done.done()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


def test_an_answer_ends_the_watching() -> None:
    async def work() -> None:
        cancelled = asyncio.Event()

        async def disconnected() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        disconnects, waiter = Disconnects(), Waiter(1, 0.0)
        disconnects.expect(waiter, FakeLink(), disconnected)  # type: ignore[arg-type]
        disconnects.tick(time.monotonic() + 1)
        await asyncio.sleep(0)
        disconnects.forget(waiter)
        await cancelled.wait()
        assert not waiter.done.done()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))


def test_a_connection_that_cannot_be_watched_is_logged_and_the_request_goes_on(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("headwaiter"), "propagate", True)

    async def work() -> None:
        async def disconnected() -> None:
            raise Failed("a bug")

        disconnects, waiter = Disconnects(), Waiter(1, 0.0)
        disconnects.expect(waiter, FakeLink(), disconnected)  # type: ignore[arg-type]
        disconnects.tick(time.monotonic() + 1)
        while not caplog.records:
            await asyncio.sleep(0)
        assert not waiter.done.done()

    asyncio.run(asyncio.wait_for(work(), WAIT_SECONDS))
