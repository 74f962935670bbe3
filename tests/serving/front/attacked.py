"""A front's HTTP server in this process, on a real socket, and clients that write what they want."""

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import uvicorn
import uvloop
from uvicorn.server import ServerState

from serving.front.app import DataPlane
from serving.front.connection import Connection
from serving.front.connection_guard import ConnectionGuard, ConnectionLimits
from serving.front.front import Front
from tests.serving.front.local_front import Letters
from tests.waiting import WAIT_SECONDS

LARGE = 64 * 2**20
"""Bytes of an answer that no kernel buffers whole."""
LIMITS = ConnectionLimits(max_requests=4, client_seconds=0.2, buffer_bytes=2**20)
PATIENT = msgspec.structs.replace(LIMITS, client_seconds=60.0)
ROOMY = msgspec.structs.replace(LIMITS, max_requests=10, buffer_bytes=10 * 2**20)
MAX_BODY = 200_000
BODY = json.dumps({"inputs": "a text"}).encode()

Answer = tuple[int, dict[bytes, bytes], bytes]
"""Status, headers, body."""


async def other_app(scope: Any, receive: Any, send: Any) -> None:
    """Stands where BentoML's app does: `/large` and `/stream` answer much, other routes with the size of the body."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/stream":
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(LARGE // 64), "more_body": True})
    answer = bytes(LARGE) if scope["path"] == "/large" else b"%d" % len(body)
    await send({"type": "http.response.body", "body": answer})


class Attacked:
    """A server with these limits. keep_alive: seconds that a connection may be idle. tls: of a server with TLS."""

    def __init__(
        self,
        front: Front,
        limits: ConnectionLimits,
        kind: type[Connection],
        keep_alive: float,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        app = DataPlane(front, other_app)
        self.guard = ConnectionGuard(limits)
        made: Any = type("Made", (kind,), {"guard": self.guard, "front": front, "protocol": app.huggingface})
        config = uvicorn.Config(app, http=made, ws="none", lifespan="off", log_config=None)
        config.timeout_keep_alive = keep_alive
        config.load()
        self.state = ServerState()
        self._connect = lambda: made(config=config, server_state=self.state, app_state={})
        self._tls = tls
        self._clients: list[Client] = []

    @property
    def open(self) -> int:
        """Connections that the server has."""
        return len(self.state.connections)

    async def start(self) -> None:
        self._listener = await asyncio.get_running_loop().create_server(self._connect, "127.0.0.1", 0, ssl=self._tls)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Shut down gracefully, as uvicorn's server does: what is in progress goes on."""
        self._listener.close()
        for connection in list(self.state.connections):
            connection.shutdown()
        await self.until(lambda server: server.open == 0)

    async def leave(self) -> None:
        """All clients leave, and the server stops."""
        for client in self._clients:
            client.leave()
        await self.stop()

    async def client(self, **given: Any) -> "Client":
        """given: what asyncio takes to open a connection."""
        self._clients.append(Client(*await asyncio.open_connection("127.0.0.1", self._port, **given)))
        return self._clients[-1]

    async def ask(self, data: bytes) -> Answer:
        """The answer to a request on a connection of its own."""
        client = await self.client()
        client.send(data)
        answer = await client.answer()
        client.leave()
        return answer

    async def until(self, condition: Callable[["Attacked"], bool]) -> None:
        """Wait for it."""
        while not condition(self):
            await asyncio.sleep(0.002)


Serve = Callable[..., None]
Work = Callable[[Attacked], Awaitable[None]]


class Client:
    """One connection, seen from the client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def trickle(self, data: bytes, pause: float) -> Answer:
        """Send the same bytes again and again, with pauses, until there is an answer."""
        answering = asyncio.create_task(self.answer())
        while not answering.done():
            if not self.writer.is_closing():
                self.send(data)
            await asyncio.sleep(pause)
        return await answering

    async def answer(self) -> Answer:
        """The next answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if line)
        if b"content-length" in headers:
            return int(lines[0].split()[1]), headers, await self.reader.readexactly(int(headers[b"content-length"]))
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return int(lines[0].split()[1]), headers, body

    async def end(self) -> bytes:
        """What the server still sends before it closes the connection."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    def leave(self) -> None:
        self.writer.transport.abort()


def attack(
    server: Callable[[], Attacked],
    work: Callable[[Attacked], Awaitable[None]],
    loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> None:
    """Do `work` on a server in uvicorn's own event loop; afterwards nothing is counted there any more."""

    async def run() -> None:
        attacked = server()
        await attacked.start()
        try:
            await asyncio.wait_for(work(attacked), WAIT_SECONDS)
        finally:
            await asyncio.wait_for(attacked.leave(), WAIT_SECONDS)
        assert (attacked.guard.requests, attacked.guard.buffered_bytes) == (0, 0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


class Whole(Letters):
    """Answers at once, so nothing of it can be a stream."""

    generates = False


def head(path: str, *lines: str, method: str = "POST", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: here", *lines, "", ""]).encode()


def sized(path: str, size: int) -> bytes:
    """The head of a request whose body has this many bytes."""
    return head(path, f"Content-Length: {size}")


def chunked(path: str) -> bytes:
    """The head of a request whose body comes in chunks."""
    return head(path, "Transfer-Encoding: chunked")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


ROUTES = ["/models/m", "/v1/embeddings", "/v2/models/m/infer", "/invocations", "/predict"]


async def on_every_route(ask: Callable[[str], Awaitable[None]]) -> None:
    """Ask all at the same time."""
    await asyncio.gather(*map(ask, ROUTES))


def error_type(body: bytes) -> str:
    found: str = json.loads(body)["error_type"]
    return found
