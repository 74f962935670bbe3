"""A request that waits for an engine: collects the arrays of its rows, or hands on the tokens of its stream."""

import asyncio
import time

from serving.errors import ServingError
from serving.front.request_compute import RequestCompute
from serving.tasks.base.generated_text import to_arrays
from serving.wire.messages import RowArrays, TokenDelta


class Waiter:
    """A request that waits for its rows. `done` resolves to each row's arrays in order, or raises ServingError."""

    def __init__(self, rows: int, deadline: float) -> None:
        self.done: asyncio.Future[list[RowArrays]] = asyncio.get_running_loop().create_future()
        self.deadline = deadline
        self.forward_seconds = 0.0
        self.computed = RequestCompute()
        self.ids: list[int] = []
        self.rows_left = 0
        """Rows that the link has neither got back nor given up."""
        self._arrays: list[RowArrays] = [()] * rows
        self._missing = rows

    def put(self, index: int, arrays: RowArrays, forward_seconds: float) -> None:
        """Take a row's arrays."""
        self._arrays[index] = arrays
        self.forward_seconds = max(self.forward_seconds, forward_seconds)
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(self._arrays)

    def take(self, index: int, part: TokenDelta) -> None:
        """Take a row's whole text."""
        self.put(index, to_arrays(part), part.forward_seconds)

    def fail(self, error: ServingError) -> None:
        """End the wait."""
        if not self.done.done():
            self.done.set_exception(error)


class StreamWaiter(Waiter):
    """A request whose tokens are handed on as they come, in `parts`, which an error ends.

    deadline: of the first tokens.
    """

    def __init__(self, rows: int, deadline: float) -> None:
        super().__init__(rows, deadline)
        self.parts: asyncio.Queue[tuple[int, TokenDelta] | ServingError] = asyncio.Queue()

    def take(self, index: int, part: TokenDelta) -> None:
        """Hand a row's newest tokens on."""
        self.deadline = float("inf")
        self.parts.put_nowait((index, part))

    def fail(self, error: ServingError) -> None:
        """End the stream."""
        self.parts.put_nowait(error)


def deadline_in(seconds: float) -> float:
    """A deadline in seconds of the machine's monotonic clock, which all its processes share."""
    return time.monotonic() + seconds
