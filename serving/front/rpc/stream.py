"""One call on the wire: its message as it comes, and its answer as far as the client takes it.

`connection` owns it and has the frames; `calls` reads the message and gives the answer.
"""

import asyncio
import re
from typing import Protocol

from serving.errors import Malformed, Overloaded, ServingError, TooLarge, TooSlow
from serving.front.asgi import Header
from serving.front.connection_guard import MIN_BYTES_PER_SECOND, ConnectionGuard
from serving.front.rpc.codes import RESPONSE_HEAD

PREFIX_BYTES = 5
"""Before each message: whether it is compressed, and its length ("gRPC over HTTP2")."""
TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
"""Seconds."""
RETRY_SECONDS = 1.0
NO_DATA = memoryview(b"")


class Carrier(Protocol):
    """The connection of a call. address: of the client."""

    guard: ConnectionGuard
    loop: asyncio.AbstractEventLoop
    address: str

    def flush(self, stream: "Stream") -> None:
        """Send of an answer what the client takes, and the rest later."""


class Stream:
    """One call. number: of HTTP/2. headers: of the request. max_bytes: of its message.

    window: bytes of the answer that the client takes. unsent: framed messages that wait for it. trailers: the block
    that ends the answer, once it is known. has_begun: whether any of the answer was sent. is_whole: whether the client
    has sent all. is_probe: whether it is answered when the server is full, and may be dropped then.
    """

    def __init__(self, connection: Carrier, number: int, headers: list[Header], max_bytes: int) -> None:
        self.connection, self.number, self.headers, self._max_bytes = connection, number, headers, max_bytes
        self.window = 0
        self.task: asyncio.Task[None] | None = None
        self.unsent = NO_DATA
        self.trailers: bytes | None = None
        self.has_begun = self.is_whole = False
        self._body = bytearray()
        self._arrived: bytes | ServingError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.is_probe = False
        self._is_counted = False
        self._held = 0  # bytes that the guard counts as buffered
        self._since = connection.guard.now
        self._passed = 0  # bytes since `_since`
        self._deadline: float | None = None

    # The message

    def take(self, content: bytes) -> None:
        """A part of the message came. What comes after a message is ignored."""
        if self._arrived is not None:
            return
        guard = self.connection.guard
        self._hold(len(content))
        self._passed += len(content)
        self._body += content
        if len(self._body) < PREFIX_BYTES:
            return
        size = int.from_bytes(self._body[1:PREFIX_BYTES])
        if self._body[0]:
            self._arrive(Malformed("the message is compressed: send it as it is"))
        elif size > self._max_bytes:
            self._arrive(TooLarge(f"the message has more than {self._max_bytes:,} bytes: send less at a time"))
        elif guard.buffered_bytes > guard.max_buffered_bytes:
            self._arrive(Overloaded("the server buffers as much as it may: try again", retry_seconds=RETRY_SECONDS))
        elif len(self._body) >= PREFIX_BYTES + size:
            self._arrive(bytes(self._body[PREFIX_BYTES : PREFIX_BYTES + size]))

    def end_message(self) -> None:
        """The client has sent all that it will."""
        self.is_whole = True
        if self._arrived is None:
            self._arrive(Malformed("the call has no message: send one"))

    def _arrive(self, arrived: bytes | ServingError) -> None:
        self._arrived = arrived
        self._body.clear()
        if isinstance(arrived, ServingError):
            self._hold(-self._held)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def message(self) -> bytes:
        """The message, once it is here. Raises Malformed, TooLarge, Overloaded, TooSlow."""
        if self._arrived is None:
            self._waiter = self.connection.loop.create_future()
            await self._waiter
        assert self._arrived is not None
        if isinstance(self._arrived, ServingError):
            raise self._arrived
        return self._arrived

    def refuse(self, error: ServingError) -> None:
        """Wait for the message no more, unless it is here."""
        if self._arrived is None:
            self._arrive(error)

    def set_timeout(self, value: bytes) -> None:
        """Take the client's deadline up. value: of `grpc-timeout`; one that is not well formed is none."""
        found = TIMEOUT.fullmatch(value)
        if found is not None:
            self._deadline = self.connection.loop.time() + int(found[1]) * UNITS[found[2]]

    def time_remaining(self) -> float | None:
        """Seconds until the client's deadline, None for none."""
        return None if self._deadline is None else max(0.0, self._deadline - self.connection.loop.time())

    # The answer

    def send(self, message: bytes) -> None:
        """Send one message of the answer."""
        self._put(message)
        self.connection.flush(self)

    def finish(self, trailers: bytes, message: bytes | None = None) -> None:
        """End the answer. trailers: their block. message: the last one, None for none any more."""
        if message is not None:
            self._put(message)
        elif not self.has_begun:  # then one block is all
            trailers = RESPONSE_HEAD + trailers
        self.trailers = trailers
        self.connection.flush(self)

    def sent(self, count: int) -> None:
        """So many bytes of the answer were sent."""
        self.window -= count
        self._passed += count
        self.unsent = self.unsent[count:]

    def _put(self, message: bytes) -> None:
        framed = b"".join((self.unsent, b"\0", len(message).to_bytes(PREFIX_BYTES - 1), message))
        self._hold(len(framed) - len(self.unsent))
        if not self.unsent:
            self._since, self._passed = self.connection.guard.now, 0
        self.unsent = memoryview(framed)

    # Its end

    def count(self) -> None:
        """Let the guard count the call as a request, until all of its answer is sent."""
        self._is_counted = True
        self.connection.guard.requests += 1

    def release(self) -> None:
        """The call is over: nothing of it is held, and whoever answers it may stop."""
        self._hold(-self._held)
        if self._is_counted:
            self._is_counted = False
            self.connection.guard.requests -= 1
        self._arrived = self._arrived or Malformed("the call has ended")
        if self.task is not None and self.trailers is None:
            self.task.cancel()

    def is_overdue(self, now: float) -> bool:
        """Look whether the client sends its message, or reads its answer, fast enough. now: on the guard's clock.

        One that sends too slowly is told; of one that reads too slowly it is the result.
        """
        limit = self.connection.guard.limits.client_seconds
        if (self._arrived is not None and not self.unsent) or now - self._since <= limit:
            return False
        is_slow = self._passed < MIN_BYTES_PER_SECOND * limit
        self._since, self._passed = now, 0
        if is_slow and self._arrived is None:
            self._arrive(TooSlow(f"the message did not arrive within {limit:g} s: send it faster, or try again"))
            return False
        return is_slow

    def _hold(self, count: int) -> None:
        self._held += count
        self.connection.guard.buffered_bytes += count
