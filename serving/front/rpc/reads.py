"""How many messages may be on their way into one front, so that clients who send slowly hold no memory of others.

gRPC tells how large a message is only once it is whole, so each counts as the largest one while it comes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serving.errors import TooSlow

Message = TypeVar("Message")


class Reads:
    """Reads at most `room` messages at once; when there are more, the read that has taken longest is given up."""

    def __init__(self, room: int, limit_seconds: float) -> None:
        """limit_seconds: how long one read may take."""
        self._room = room
        self._limit_seconds = limit_seconds
        self._running: dict[asyncio.Task[object], asyncio.Timeout] = {}

    async def read(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        """What `receive` gives. Raises TooSlow where that takes too long, or another one needs the room."""
        while len(self._running) >= self._room:
            oldest = next(iter(self._running))
            self._running.pop(oldest).reschedule(0)
        own = asyncio.current_task()
        assert own is not None
        try:
            async with asyncio.timeout(self._limit_seconds) as timeout:
                self._running[own] = timeout
                return await receive()
        except TimeoutError as error:
            raise TooSlow(
                f"the message did not arrive within {self._limit_seconds:g} s, or was aborted to make room for newer "
                "ones: send it faster, or try again"
            ) from error
        finally:
            self._running.pop(own, None)
