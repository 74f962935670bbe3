"""The short way of a plain request: from uvicorn's parser to the data plane and back as one write, without ASGI.

ASGI costs a scope, two messages, a second write and some awaits a request: about as much as everything that Headwaiter
does itself. A plain request is a whole `POST /models/…` that comes alone on its connection; all others, and those that
were sent before an answer was there, take uvicorn's own way to the same data plane.
"""

import asyncio
import re
from typing import ClassVar

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.app import DataPlane
from serving.http import Headers

PLAIN_ROUTE = re.compile(rb"/models/([\w.@-]+)(?:/versions/(\w+))?")
UNUSUAL = {b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"}


def serve_plainly(plane: DataPlane) -> None:
    """Let uvicorn make its connections so; to be called before its configuration is loaded, as a worker's app is."""
    PlainProtocol.plane = plane
    HTTP_PROTOCOLS["auto"] = f"{PlainProtocol.__module__}:{PlainProtocol.__name__}"


class PlainProtocol(HttpToolsProtocol):
    """A connection. An `Exchange` stands where uvicorn (0.54) keeps its request's cycle."""

    plane: ClassVar[DataPlane]
    cycle: "Exchange"  # type: ignore[assignment]  # or uvicorn's own

    def on_message_begin(self) -> None:
        """Parser: a request begins; the scope waits until it is known to be wanted."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Parser: choose the way."""
        exchange = self._plain_exchange()
        if exchange is not None:
            self.cycle = exchange
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().on_headers_complete()

    def _plain_exchange(self) -> "Exchange | None":
        is_busy = self.cycle is not None and not self.cycle.response_complete
        if is_busy or self.parser.get_method() != b"POST" or self.root_path or self.limit_concurrency is not None:
            return None
        route = PLAIN_ROUTE.fullmatch(self.url)
        if route is None or self.parser.get_http_version() != "1.1":
            return None
        length = b""
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name in UNUSUAL:
                return None
        if not length.isdigit() or int(length) > self.plane.max_body_bytes:
            return None
        return Exchange(self, *route.groups())


class Exchange:
    """One plain request and its answer. uvicorn's protocol fills `body`, and calls `set` when something happened."""

    __slots__ = (
        "_has_begun",
        "_left",
        "_name",
        "_protocol",
        "_version",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "more_body",
        "response_complete",
    )

    def __init__(self, protocol: PlainProtocol, name: bytes, version: bytes | None) -> None:
        self._protocol, self._name, self._version = protocol, name, version
        self._left: asyncio.Future[None] | None = None
        self._has_begun = False
        self.headers: Headers = protocol.headers
        self.keep_alive = protocol.parser.should_keep_alive()
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> "Exchange":
        """What uvicorn sets."""
        return self

    def set(self) -> None:
        """Part of the body came, or all of it, or the connection is lost."""
        if self.disconnected:
            if self._left is not None and not self._left.done():
                self._left.set_result(None)
        elif self.more_body:
            self._protocol.flow.resume_reading()  # paused when much has come; here the body's bound is known
        elif not self._has_begun:
            self._has_begun = True
            task = self._protocol.loop.create_task(self._answer())
            self._protocol.tasks.add(task)
            task.add_done_callback(self._protocol.tasks.discard)

    async def _answer(self) -> None:
        protocol = self._protocol
        version = None if self._version is None else self._version.decode()
        try:
            status, body, headers = await protocol.plane.predict(
                self._name.decode(), version, bytes(self.body), self.headers, self._until_left
            )
        except BaseException:  # the server stops
            protocol.transport.close()
            raise
        if protocol.flow.write_paused and not self.disconnected:
            await protocol.flow.drain()
        self.response_complete = True
        if self.disconnected:
            return
        lines = [STATUS_LINE[status]]
        for name, value in (*protocol.server_state.default_headers, *headers):
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        lines.append(body)
        protocol.transport.write(b"".join(lines))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()

    async def _until_left(self) -> None:
        self._left = self._protocol.loop.create_future()
        if self.disconnected:
            return
        await self._left
