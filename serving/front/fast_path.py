"""A plain request, from uvicorn's parser to the data plane and back in one write, without ASGI.

ASGI costs a scope, two messages, a second write and some awaits a request: about as much as everything that Headwaiter
does itself. A plain request is a whole `POST /models/…` that comes alone on its connection. All others, and pipelined
ones, take uvicorn's ASGI way to the same data plane. `connection_choice` enables this module.
"""

import asyncio
import re
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.errors import ServingError
from serving.front.access import Visit
from serving.front.asgi import MAX_DIGITS, Header
from serving.front.connection import Connection
from serving.front.cross_origin import BROWSER_HEADERS
from serving.front.front import Front
from serving.front.protocols.huggingface import HuggingFace
from serving.runtime.audit import AuditLog

ROUTE = re.compile(rb"/models/([\w.@-]+)(?:/versions/(\w+))?")
UNUSUAL_HEADERS = {b"transfer-encoding", b"content-encoding", b"expect", *BROWSER_HEADERS}


class FastConnection(Connection):
    """A connection. Of a plain request, a `FastRequest` stands in for uvicorn's (0.54) `RequestResponseCycle`."""

    front: ClassVar[Front]
    protocol: ClassVar[HuggingFace]
    cycle: "FastRequest"  # type: ignore[assignment]  # or uvicorn's own
    _visit: Visit | None = None
    """Of a plain request that a key let in."""

    def on_message_begin(self) -> None:
        """Parser: a request begins. The ASGI scope is made later, if it is needed."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def begin_request(self) -> None:
        """Choose between the fast path and ASGI."""
        request = self._plain_request()
        if request is not None:
            self.cycle = request
            return
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        super().begin_request()

    def _plain_request(self) -> "FastRequest | None":
        if (
            (self.cycle is not None and not self.cycle.response_complete)
            or self.parser.get_method() != b"POST"
            or self.root_path
            or self.limit_concurrency is not None
        ):
            return None
        route = ROUTE.fullmatch(self.url)
        if route is None or self.parser.get_http_version() != "1.1":
            return None
        length, host, hosts = b"", b"", self.front.hosts
        for name, value in self.headers:
            if name == b"content-length":
                length = value
            elif name == b"host":
                if host:
                    return None
                host = value
            elif name in UNUSUAL_HEADERS:
                return None
        if not length.isdigit() or len(length) > MAX_DIGITS or int(length) > self.front.settings.max_body_bytes:
            return None
        if not hosts.is_open and not hosts.has(host):
            return None
        name, version = route.groups()
        if self.front.may_stream(name.decode()):
            return None
        if self.front.access.is_watched:
            try:
                self._visit = self.front.access.admit(self.headers)
            except ServingError:  # ASGI refuses it in the protocol's form
                return None
        return FastRequest(self, name.decode(), None if version is None else version.decode(), self._visit)

    def _release(self) -> None:
        if self._visit is not None:
            self._visit.leave()
            self._visit = None
        super()._release()


class FastRequest:
    """One plain request and its answer. uvicorn's connection fills `body`, and calls `set` when something happened."""

    __slots__ = (
        "_connection",
        "_has_begun",
        "_left",
        "_name",
        "_version",
        "_visit",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "more_body",
        "response_complete",
    )
    response_started: ClassVar[bool] = False
    """An answer is written as a whole."""

    def __init__(self, connection: FastConnection, name: str, version: str | None, visit: Visit | None) -> None:
        self._connection, self._name, self._version, self._visit = connection, name, version, visit
        self._left: asyncio.Future[None] | None = None
        self._has_begun = False
        self.headers: list[Header] = connection.headers
        self.keep_alive = connection.parser.should_keep_alive()
        self.body = bytearray()
        self.more_body = True
        self.disconnected = False
        self.response_complete = False

    @property
    def message_event(self) -> "FastRequest":
        """The event that uvicorn sets."""
        return self

    def set(self) -> None:
        """Uvicorn tells that a part of the body came, or the last part, or that the connection is lost."""
        if self.disconnected:
            if self._left is not None and not self._left.done():
                self._left.set_result(None)
        elif self.more_body:
            self._connection.flow.resume_reading()  # uvicorn pauses after 64 KiB; here the body's length is bounded
        elif not self._has_begun:
            self._has_begun = True
            if not self._refuse():
                task = self._connection.loop.create_task(self._answer())
                self._connection.tasks.add(task)
                task.add_done_callback(self._connection.tasks.discard)

    def _refuse(self) -> bool:
        """Refuse the request where its queue is full. That takes no task, unless the client does not read."""
        if self._connection.flow.write_paused:
            return False
        refusal = self._connection.protocol.refuse_unread(self._name, self._version, self.headers)
        if refusal is not None:
            self._write(*refusal)
        return refusal is not None

    async def _answer(self) -> None:
        connection = self._connection
        if self._visit is not None:
            self._visit.begin()
        try:
            status, body, headers = await connection.protocol.predict(
                self._name, self._version, bytes(self.body), self.headers, self._until_left
            )
        except BaseException:  # the server stops
            connection.transport.close()
            raise
        finally:
            if self._visit is not None:
                self._visit.leave()
        audit = connection.front.access.audit
        if audit is not None and self._visit is not None:
            self._record(audit, self._visit.key.name, status, dict(headers))
        if connection.flow.write_paused and not self.disconnected:
            await connection.flow.drain()
        self._write(status, body, headers)

    def _write(self, status: int, body: bytes, headers: list[Header]) -> None:
        """Send the answer in one write, unless the client has left."""
        connection = self._connection
        self.response_complete = True
        if self.disconnected:
            return
        lines = [STATUS_LINE[status]]
        for name, value in (*connection.server_state.default_headers, *headers):
            lines.append(b"%b: %b\r\n" % (name, value))
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % len(body))
        lines.append(body)
        connection.transport.write(b"".join(lines))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def _record(self, audit: AuditLog, who: str, status: int, headers: dict[bytes, bytes]) -> None:
        address = self._connection.client
        audit.write(
            who or "anybody",
            f"POST {self._path()}",
            status=status,
            model=self._name,
            version=headers.get(b"x-model-version", b"").decode(),
            address=str(address[0]) if address else "",
            request_id=headers.get(b"x-request-id", b"").decode(),
        )

    def _path(self) -> str:
        return f"/models/{self._name}" + (f"/versions/{self._version}" if self._version is not None else "")

    async def _until_left(self) -> None:
        self._left = self._connection.loop.create_future()
        if self.disconnected:
            return
        await self._left
