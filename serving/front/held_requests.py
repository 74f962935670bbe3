"""Requests that a front holds while the engine of their version is replaced, in the bounds of the engine's queue."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from serving.errors import ClientGone, DeadlineExceeded, EngineLost
from serving.front.admission import QueueShare
from serving.front.disconnects import Disconnected
from serving.wire.messages import EncodedRow


class HeldRequests:
    """The held requests of one version, first come, first served. Runs in the front's event loop.

    share: what this front may hold, and holds.
    """

    def __init__(self) -> None:
        self.share = QueueShare()
        self._waiting: dict[asyncio.Future[bool], None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, rows: Sequence[EncodedRow], deadline: float, disconnected: Disconnected | None) -> None:
        """Return once an engine takes requests. rows: of the request. deadline: in monotonic seconds.

        Raises TooLarge and QueueFull at once, DeadlineExceeded, ClientGone, and EngineLost where none will come.
        """
        taken = self.share.take(rows)
        come: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        left = None if disconnected is None else asyncio.ensure_future(disconnected())
        self._waiting[come] = None
        try:
            await _first_of(come, left, deadline)
        finally:
            self.share.give_back(*taken)
            self._waiting.pop(come, None)
            if left is not None:
                left.cancel()

    def release(self) -> None:
        """An engine takes requests."""
        self._end(has_come=True)

    def give_up(self) -> None:
        """No engine of this version will come."""
        self._end(has_come=False)

    def _end(self, *, has_come: bool) -> None:
        waiting, self._waiting = self._waiting, {}
        for come in waiting:
            come.set_result(has_come)


async def _first_of(come: "asyncio.Future[bool]", left: "asyncio.Future[object] | None", deadline: float) -> None:
    """Wait for the engine, the client's leaving, or the deadline."""
    while not come.done():
        awaited: set[asyncio.Future[Any]] = {come} if left is None or left.done() else {come, left}
        await asyncio.wait(awaited, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if come.done():
            break
        if time.monotonic() >= deadline:
            raise DeadlineExceeded("no engine took the request before the deadline: try again later")
        if left is not None and left.done() and left.exception() is None:
            raise ClientGone("the client left")
    if not come.result():
        raise EngineLost("the version has left: try again", retry_seconds=1.0, had_begun=False)
