"""One keep-alive connection of the load generator: sends, reads the answer, notes the time, sends the next."""

import asyncio
import random
import time
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

PAUSE_SECONDS = 0.02
"""Pause of a client that was refused or cut off, so that retries do not overload a full server."""


@dataclass(frozen=True)
class Tally:
    """The state that all connections share. start, end: seconds of `time.perf_counter` between which answers count.

    latencies: seconds of the answers with status 200. errors: other statuses, and "lost", to their count. refusals:
    seconds from sending a request to an answer with status 429 or 503. retry_after: what these answers say, to their
    count. ever: as `errors` and with "200", of the whole run, before and after the measured time as well.
    """

    start: float
    end: float
    latencies: "array[float]"
    errors: Counter[str]
    refusals: "array[float]" = field(default_factory=lambda: array("d"))
    retry_after: Counter[str] = field(default_factory=Counter)
    ever: Counter[str] = field(default_factory=Counter)


class Connection(asyncio.Protocol):
    """A client that never has more than one request on its way. Nothing here blocks."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int, requests: Iterator[bytes], tally: Tally
    ) -> None:
        self._loop = loop
        self._address = (host, port)
        self._requests = requests
        self._tally = tally
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._since = 0.0
        self._sent = 0.0
        self.is_waiting = False

    async def connect(self) -> None:
        """Open the connection; the first request goes out at once."""
        await self._loop.create_connection(lambda: self, *self._address)

    def close(self) -> None:
        """Cut the connection; nothing is sent any more."""
        self.is_waiting = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._buffer = b""
        self._send()

    def data_received(self, data: bytes) -> None:
        """Note the time where this completes the answer, and send the next request."""
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or len(buffer) < end + 4 + _content_length(buffer[: end + 2]):
            self._buffer = buffer
            return
        self._buffer = b""
        self.is_waiting = False
        now = time.perf_counter()
        status = buffer[9:12]
        if status in (b"429", b"503") and self._tally.start <= now < self._tally.end:
            self._tally.refusals.append(now - self._sent)
            self._tally.retry_after[_header(buffer[: end + 2], b"retry-after").decode()] += 1
        if status != b"200":
            self._fail(status.decode(), now)
            return
        self._tally.ever["200"] += 1
        if self._tally.start <= now < self._tally.end:
            self._tally.latencies.append(now - self._since)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that was on its way, and connect again."""
        self._transport = None
        if not self.is_waiting:
            return
        self.is_waiting = False
        self._fail("lost", time.perf_counter())

    def _send(self) -> None:
        now = time.perf_counter()
        if now < self._tally.end:
            self.ask(now)

    def ask(self, since: float) -> None:
        """Send the next request, where the connection is open; its latency counts from `since`."""
        if self._transport is not None:
            self._since, self._sent = since, time.perf_counter()
            self.is_waiting = True
            self._transport.write(next(self._requests))

    def _fail(self, what: str, now: float) -> None:
        self._tally.ever[what] += 1
        if self._tally.start <= now < self._tally.end:
            self._tally.errors[what] += 1
        self._loop.call_later(PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._transport is not None:
            self._send()
        elif time.perf_counter() < self._tally.end:
            task = self._loop.create_task(self.connect())
            task.add_done_callback(self._connected)

    def _connected(self, task: "asyncio.Task[None]") -> None:
        if task.exception() is not None:
            self._fail("lost", time.perf_counter())


class Arrivals:
    """Requests that come at random moments, whatever the server does: an open loop, as Poisson's process."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._random = random.Random(0)
        self._idle: list[PacedConnection] = []
        self._due: deque[float] = deque()

    def take(self, connection: "PacedConnection") -> None:
        """A connection is free."""
        if self._due:
            connection.ask(self._due.popleft())
        else:
            self._idle.append(connection)

    async def run(self, end: float) -> None:
        """Let requests come until `end`, seconds of `time.perf_counter`; a late one counts from when it was due."""
        due = time.perf_counter()
        while (due := due + self._random.expovariate(self._per_second)) < end:
            if (pause := due - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            connection = self._idle.pop() if self._idle else None  # the one that was free last: servers close idle ones
            if connection is not None and connection.is_open:
                connection.ask(due)
                continue
            self._due.append(due)
            if connection is not None:
                connection.connect_again()


class PacedConnection(Connection):
    """A client that sends when a request comes."""

    arrivals: Arrivals

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._transport is not None

    def connect_again(self) -> None:
        """Connect to the server, which has closed the idle connection; then this client is free."""
        self._resume()

    def _send(self) -> None:
        self.arrivals.take(self)


def _content_length(head: bytes) -> int:
    """The length that an answer's head states; raises ValueError where it states none, as no server here does."""
    length = _header(head, b"content-length")
    if not length:
        raise ValueError(f"the answer has no Content-Length: {head!r}")
    return int(length)


def _header(head: bytes, name: bytes) -> bytes:
    """The value of a header, b"" where it is not there. name: in lower case."""
    lowered = head.lower()
    at = lowered.find(b"\n" + name + b":")
    return lowered[at + len(name) + 2 : lowered.find(b"\r", at)].strip() if at >= 0 else b""
