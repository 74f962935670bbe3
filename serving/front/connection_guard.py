"""The bounds on all connections of one front, and the sweep that ends those whose clients are overdue.

`connection` reports here what its client sends and reads. The bounds hold for every route, because they apply before a
request is parsed.
"""

import asyncio
import logging
import resource
import select
from contextlib import suppress
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from serving.errors import ServingError
from serving.runtime.instruments import instruments
from serving.settings import ServingSettings

if TYPE_CHECKING:
    from _typeshed import HasFileno

MAX_HEAD_BYTES = 32 * 1024
"""Bytes of a request's line and headers together, as in Kestrel (ASP.NET Core 8)."""
MAX_HEADERS = 100
"""Headers of a request, as in Kestrel and Apache."""
MAX_PIPELINED = 16
"""Requests that are parsed before the first of them is answered. Later ones are not answered (RFC 9112, 9.3.2)."""
MIN_BYTES_PER_SECOND = 1024
"""What a client must send of a body, or read of an answer, on average over each `client_seconds`."""
LINGER_SECONDS = 2.0
"""How long a refused client may go on sending, so that it reads the refusal before the connection is reset."""
RESERVED = 32
"""Connections beyond those with requests, so that probes are answered when the server is full."""
SPARE_DESCRIPTORS = 64
"""Descriptors that connections leave to the routing table, links to engines and files."""
BODIES_BUFFERED = 16
"""The bodies of the largest size that may be held at once, where the buffer has no size of its own."""
MIN_CONNECTIONS = 8
SWEEP_SECONDS = 0.5

logger = logging.getLogger("headwaiter.front")


class ConnectionLimits(msgspec.Struct, frozen=True):
    """What clients of one front may take; see docs/settings.md.

    max_requests: requests in progress. client_seconds: for a request's headers, and the window in which a body or an
    answer must go on. buffer_bytes: of bodies and unread answers, over all connections.
    """

    max_requests: int
    client_seconds: float
    buffer_bytes: int

    @classmethod
    def of(cls, settings: ServingSettings) -> "ConnectionLimits":
        """The limits that the settings declare."""
        buffer = settings.buffer_bytes or BODIES_BUFFERED * settings.max_body_bytes
        return cls(settings.max_connections, settings.client_seconds, buffer)


def raise_descriptor_limit(limits: ConnectionLimits) -> None:
    """Let this process open what the limits need, as far as its hard limit of descriptors allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_requests + RESERVED + 2 * SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a system's own bound below the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def has_unread(socket: "HasFileno | None") -> bool:
    """Whether a socket has data that was not read yet; a closed one, or none, has not."""
    if socket is None or socket.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Guarded(Protocol):
    """A connection, as the guard sees it."""

    def look(self, now: float) -> None:
        """End the connection if its client is overdue. now: on the guard's clock."""

    def waits_since(self) -> float | None:
        """Since when it has been waiting for a request; None while one is in progress."""

    def has_unread(self) -> bool:
        """Whether its client has sent what was not read yet."""

    def drop(self) -> None:
        """Close it at once, without an answer."""


class ConnectionGuard:
    """Counts connections, requests in progress and buffered bytes of one front. Everything runs in its event loop.

    requests: in progress; at most `max_requests`, and half of the reserve for probes. buffered_bytes: of bodies and
    unread answers, at most `max_buffered_bytes`. now: the clock of all deadlines, in seconds. It advances with the
    sweeps, so the time in which the loop is blocked and cannot see what clients send does not count.
    """

    def __init__(self, limits: ConnectionLimits, *, counts: bool = True) -> None:
        """counts: whether refusals are counted in the metrics."""
        self.limits = limits
        self._counts = counts
        self.requests = 0
        self.max_requests = limits.max_requests
        self.max_buffered_bytes = limits.buffer_bytes
        self.buffered_bytes = 0
        self.now = 0.0
        self._open: dict[Guarded, None] = {}  # in the order of their arrival
        self._sweep_seconds = min(SWEEP_SECONDS, limits.client_seconds / 10)
        self._timer: asyncio.TimerHandle | None = None
        self._room = limits.max_requests + RESERVED
        self._look_at_descriptors()
        if self._room < limits.max_requests + RESERVED:
            logger.warning(
                "file descriptors allow %d connections, not the %d of HEADWAITER_MAX_CONNECTIONS: raise `ulimit -Hn`",
                self.max_requests,
                limits.max_requests,
            )

    def join(self, connection: Guarded, loop: asyncio.AbstractEventLoop) -> None:
        """A connection was made. When there are too many, those that have waited longest for a request are dropped.

        The new one is dropped if none waits.
        """
        if len(self._open) >= self._room:
            self._make_room()
            if len(self._open) >= self._room:
                connection.drop()
                return
        self._open[connection] = None
        if self._timer is None:
            self._timer = loop.call_later(self._sweep_seconds, self._sweep, loop)

    def leave(self, connection: Guarded) -> None:
        """A connection was lost."""
        self._open.pop(connection, None)

    def count(self, error: ServingError) -> None:
        """Count a refusal by its reason."""
        if self._counts:
            instruments().rejected_total.labels("", "", "", error.reason).inc()

    def has_room_for_probes(self) -> bool:
        """Whether one more probe may be in progress. The rest of the reserve stays for new connections."""
        return self.requests < self.max_requests + max(1, self._reserved() // 2)

    def _reserved(self) -> int:
        return min(RESERVED, self._room // 4)

    def _make_room(self) -> None:
        """Drop several at a time, as finding the oldest takes a look at all; but none whose request is on its way."""
        waiting = [(since, each) for each in self._open if (since := each.waits_since()) is not None]
        silent = (each for _, each in sorted(waiting, key=itemgetter(0)) if not each.has_unread())
        for connection in islice(silent, max(1, self._reserved() // 2)):
            del self._open[connection]
            connection.drop()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now += self._sweep_seconds
        self._timer = None
        if not self._open:
            return
        self._timer = loop.call_later(self._sweep_seconds, self._sweep, loop)
        if 2 * len(self._open) > self._room:
            self._look_at_descriptors()
        for connection in list(self._open):
            try:
                connection.look(self.now)
            except Exception:  # one connection must not keep the others from being looked at
                logger.exception("a connection could not be looked at, so it is dropped")
                self._open.pop(connection, None)
                connection.drop()

    def _look_at_descriptors(self) -> None:
        """Bound the connections by what the process' limit of descriptors leaves to them."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.limits.max_requests + RESERVED
        if limit != resource.RLIM_INFINITY:
            with suppress(OSError):  # there is no descriptor left to count them with
                others = len(list(Path("/dev/fd").iterdir())) - len(self._open)
                self._room = min(wanted, max(MIN_CONNECTIONS, limit - others - SPARE_DESCRIPTORS))
                self.max_requests = min(self.limits.max_requests, self._room - self._reserved())
