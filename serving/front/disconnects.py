"""Clients that leave before their answer: the rows of their requests leave the engine's queue."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from serving.errors import ClientGone
from serving.front.engine_link import EngineLink
from serving.front.waiter import Waiter

WATCH_SECONDS = 0.2
"""A request that waits longer has its connection watched. Most requests are shorter and save the task."""

Disconnected = Callable[[], Awaitable[object]]
"""Returns when the client has left."""

logger = logging.getLogger("headwaiter.front")


class Disconnects:
    """Watches the connections of requests that wait for an engine. Runs in the front's event loop."""

    def __init__(self) -> None:
        self._unwatched: OrderedDict[Waiter, tuple[float, EngineLink, Disconnected]] = OrderedDict()
        self._watchers: dict[Waiter, asyncio.Task[None]] = {}

    def expect(self, waiter: Waiter, link: EngineLink, disconnected: Disconnected) -> None:
        """Watch the request's connection once it has waited for WATCH_SECONDS."""
        self._unwatched[waiter] = (time.monotonic() + WATCH_SECONDS, link, disconnected)

    def forget(self, waiter: Waiter) -> None:
        """The request waits no longer, or was never expected."""
        if self._unwatched.pop(waiter, None) is None and (watcher := self._watchers.pop(waiter, None)):
            watcher.cancel()

    def tick(self, now: float) -> None:
        """Begin to watch what is due; `now` is in monotonic seconds. Takes time for what is due only."""
        while self._unwatched:
            waiter, (due, link, disconnected) = next(iter(self._unwatched.items()))
            if due > now:
                return
            del self._unwatched[waiter]
            self._watchers[waiter] = asyncio.create_task(_watch(waiter, link, disconnected))


async def _watch(waiter: Waiter, link: EngineLink, disconnected: Disconnected) -> None:
    try:
        await disconnected()
    except Exception:  # the request goes on until its answer or its deadline
        logger.exception("a connection could not be watched")
    else:
        link.abandon(waiter, ClientGone("the client left"))
