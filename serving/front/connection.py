"""The connection of a client, as every route uses it: uvicorn's, with deadlines and bounds.

A client has a deadline for a request's headers, a least rate for its body and for reading the answer, and a bound on
what it may send ahead. What breaks a rule is refused before a protocol sees it. `connection_guard` has the bounds over
all connections; `fast_path` derives the connection that answers plain requests without ASGI.
"""

import logging
import re
from asyncio import BaseTransport
from typing import Any, ClassVar, Literal, cast

import httptools

from serving.errors import Malformed, ServingError, TooSlow
from serving.front import refusals
from serving.front.connection_guard import (
    LINGER_SECONDS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_PIPELINED,
    MIN_BYTES_PER_SECOND,
    ConnectionGuard,
    has_unread,
)
from serving.front.request_stream import RequestStream, codings
from serving.front.unread_answers import UnreadAnswers

PROBES = re.compile(rb"/(livez|readyz|metrics|ping|v2/health/(live|ready))/?(\?.*)?")
"""Routes that are answered to GET and HEAD when the server is full, up to the guard's bound of their own."""
MAX_SMALL_PIECES, MIN_PIECE_BYTES = 4096, 16
"""A body may have MAX_SMALL_PIECES pieces of any size. Past that, its pieces must have MIN_PIECE_BYTES on average: each
costs the event loop the same, whatever its size. 1 MB in chunks of one byte blocked it for a tenth of a second."""

logger = logging.getLogger("headwaiter.front")

Phase = Literal["idle", "head", "body", "answer", "linger"]
"""What the server waits for: a request, the rest of its headers or its body, its own answer, or the rest of a request
that was answered before it had come. The deadline of each is in `Connection.look`."""


class Connection(RequestStream):
    """One connection. uvicorn's parser calls the `on_…` methods, the guard's sweep calls `look`."""

    guard: ClassVar[ConnectionGuard]

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.phase: Phase = "head"
        self._since = 0.0
        self._passed = 0  # bytes of the body since `_since`
        self._pieces = self._piece_bytes = 0  # of bodies
        self._quiet = 0  # bytes since the headers, a part of the body or a request were complete
        self._held = 0  # bytes of bodies that are counted as buffered
        self.is_busy = False  # with a request whose answer is not complete
        self._is_past_head = False  # of the request that is being received
        self._trailers = 0

    # asyncio's side

    def connection_made(self, transport: BaseTransport) -> None:
        """A client connected."""
        super().connection_made(cast(Any, transport))
        self._unread = UnreadAnswers(self.transport, self.guard)
        self.guard.join(self, self.loop)
        self._since = self.guard.now

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, by either side."""
        self.guard.leave(self)
        self._release()
        self._unread.release()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is the rest of a request that was refused. uvicorn's logs each invalid request."""
        if self._discards:
            return
        self._quiet += len(data)
        try:
            self.parse(data)
        except httptools.HttpParserError as error:
            logger.debug("a client sent what is no HTTP", exc_info=error)
            self._refuse(Malformed("this is no valid request of HTTP/1.1"))
        if self._quiet:
            if self.phase == "idle":
                self._enter("head")
            if self._quiet > MAX_HEAD_BYTES:  # an endless header, trailer or extension of a chunk
                self._refuse(refusals.head_too_large())

    def pause_writing(self) -> None:
        """More of an answer waits for the client than the transport may buffer."""
        super().pause_writing()
        self._unread.pause()

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        self._unread.release()

    # The parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer of a body in chunks: that is dropped, as nothing may take it for a header."""
        if not self._is_past_head:
            super().on_header(name, value)
            return
        self._trailers += 1
        if self._trailers + len(self.headers) > MAX_HEADERS:
            self._refuse(refusals.head_too_large())

    def on_headers_complete(self) -> None:
        """A request's headers are complete: refuse it or begin it."""
        guard = self.guard
        self._is_past_head = True
        if self.parser.should_upgrade():  # its head is parsed again without
            return
        if self._discards or self._is_refused():
            return
        self._quiet = 0
        if not self.is_busy:
            self.is_busy = True
            guard.requests += 1
            self.phase, self._since, self._passed = "body", guard.now, 0
            self._pieces = self._piece_bytes = 0
        elif len(self.pipeline) >= MAX_PIPELINED:
            self._close_after_answers()
            return
        self.begin_request()

    def begin_request(self) -> None:
        """Make the request's cycle and start the app."""
        match codings(self.headers):
            case [coding, *_, b"chunked"]:  # llhttp refuses what ends otherwise: the body has no end then
                self._refuse(refusals.unknown_coding(coding))
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body came."""
        self._quiet = 0
        if self._discards:
            return
        if self.is_busy:
            size, guard = len(body), self.guard
            self._passed += size
            self._pieces += 1
            self._piece_bytes += size
            if self._pieces > MAX_SMALL_PIECES and self._piece_bytes < MIN_PIECE_BYTES * self._pieces:
                self._refuse(Malformed("the body comes in chunks of a few bytes: send larger ones"))
                return
            self._held += size
            guard.buffered_bytes += size
            if guard.buffered_bytes > guard.max_buffered_bytes:
                self._refuse(refusals.no_room_for_body())
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request came to its end."""
        self._is_past_head = False
        if self._discards or self.parser.should_upgrade():
            return
        has_trailers = self._trailers > 0
        self._quiet = self._trailers = 0
        if self.is_busy:
            self.phase = "answer"
        else:
            self._enter("idle")
        super().on_message_complete()
        if has_trailers and not self.parser.should_keep_alive():  # to the parser `Connection` is a header there, too
            self._close_after_answers()

    # The answers' side

    def on_response_complete(self) -> None:
        """An answer was written: begin the next request if it is here. uvicorn's, without a timer for each request."""
        self.server_state.total_requests += 1
        is_closing = self.transport.is_closing()
        if self.pipeline and not is_closing:
            cycle, app = self.pipeline.pop()
            self._enter("body" if cycle.more_body else "answer")
            self._start_asgi_task(cycle, app)
        else:
            self._release()
            self._enter("linger" if self.cycle.more_body else "idle")
        if not is_closing:
            self.flow.resume_reading()

    # The guard's side

    def waits_since(self) -> float | None:
        """Since when it has been waiting for a request; None while one is in progress."""
        return self._since if self.phase in ("idle", "head", "linger") else None

    def has_unread(self) -> bool:
        """Whether its client has sent what was not read yet, because a flood of connections keeps the loop busy."""
        return has_unread(self.transport.get_extra_info("socket"))

    def drop(self) -> None:
        """Close it at once, with all that it has not sent."""
        self.transport.abort()

    def look(self, now: float) -> None:
        """End the connection if its client is overdue. now: on the guard's clock."""
        if self.flow.write_paused:
            if self._unread.is_overdue(now):
                self.guard.count(TooSlow(""))
                self.drop()
            return
        seconds, limit = now - self._since, self.guard.limits.client_seconds
        match self.phase:
            case "idle" if seconds > self.timeout_keep_alive:
                self._close(now)
            case "head" if seconds > limit:
                if self._quiet and not self.transport.is_closing():
                    self._refuse(TooSlow(f"the headers were not complete after {limit:g} s: send them at once"))
                else:
                    self._close(now)
            case "body" if self.flow.read_paused:
                self._enter("body")  # it is the server that does not read
            case "body" if seconds > limit:
                if self._passed < MIN_BYTES_PER_SECOND * limit:
                    rate = f"less than {MIN_BYTES_PER_SECOND} bytes/s of the body came in {limit:g} s"
                    self._refuse(TooSlow(f"{rate}: send it faster, or try again"))
                else:
                    self._enter("body")
            case "linger" if seconds > min(LINGER_SECONDS, limit):
                self.drop()

    # Own state

    def _enter(self, phase: Phase) -> None:
        self.phase, self._since, self._passed = phase, self.guard.now, 0

    def _release(self) -> None:
        """No request is in progress, and no body is held."""
        self.guard.buffered_bytes -= self._held
        self._held = 0
        if self.is_busy:
            self.is_busy = False
            self.guard.requests -= 1

    def _is_refused(self) -> bool:
        """Refuse the request whose headers have come if there are too many of them, or no room for it."""
        if len(self.headers) > MAX_HEADERS or (self._quiet > MAX_HEAD_BYTES and self._head_bytes() > MAX_HEAD_BYTES):
            self._refuse(refusals.head_too_large())
            return True
        if self.guard.requests >= self.guard.max_requests and not self.is_busy and not self._is_taken_as_probe():
            self._refuse(refusals.no_room_for_request())
            return True
        return False

    def _is_taken_as_probe(self) -> bool:
        is_probe = self.parser.get_method() in (b"GET", b"HEAD") and PROBES.fullmatch(self.url) is not None
        return is_probe and self.guard.has_room_for_probes()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _close_after_answers(self) -> None:
        """Answer what has come, then close; what still comes is not answered."""
        self._discards = True
        self.cycle.keep_alive = False
        if self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, error: ServingError) -> None:
        """Answer the request that is being received with an error, and close."""
        if self._discards or self.transport.is_closing():
            return
        self.guard.count(error)
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:  # of requests that came before; their answers go first
                self._close_after_answers()
                return
            if self.pipeline or cycle.response_started:
                self.drop()
                return
            cycle.disconnected = cycle.response_complete = True
            cycle.message_event.set()
        self._discards = True
        self._release()
        self._enter("linger")
        self.transport.write(refusals.encode(error, self.server_state.default_headers))
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _close(self, now: float) -> None:
        """Close it when all is sent; at once if that was tried before."""
        if self.transport.is_closing():
            self.drop()
        else:
            self._since = now
            self.transport.close()
