"""`HEADWAITER_ADMIN_PORT`: metrics and probes at a port of their own, without a key, for whom the network lets there.

Each front listens there, and the kernel gives each connection to one of them. Connections have deadlines and bounds of
their own, so that a flood at the other port does not end probes.
"""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from serving.errors import NotReady, ServingError, UnknownModel, WrongMethod
from serving.front.asgi import JSON, Header, Receive, Scope, Send, encode_json, refuse, respond
from serving.front.connection import Connection
from serving.front.connection_guard import ConnectionGuard, ConnectionLimits
from serving.front.front import Front
from serving.front.metrics_page import MetricsPage
from serving.front.request_context import RequestContext

MAX_REQUESTS = 64
"""In progress at once. Untuned: probes and a few scrapers."""


class AdminRoutes:
    """ASGI app of `/metrics`, `/livez` and `/readyz`."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._page = MetricsPage(front)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing of a body is read."""
        context = RequestContext.read(scope["headers"])
        try:
            self._front.hosts.check(scope)
            kind, body = await self._answer(scope["method"], scope["path"].rstrip("/"), scope["headers"])
            await respond(send, 200, body, [kind, context.header])
        except ServingError as error:
            await refuse(send, error, context, encode_json({"error": error.message, "error_type": error.reason}))

    async def _answer(self, method: str, path: str, headers: Iterable[Header]) -> tuple[Header, bytes]:
        match path:
            case "/metrics" | "/livez" | "/readyz" if method not in ("GET", "HEAD"):
                raise WrongMethod(method, "GET")
            case "/metrics":
                return await self._page.render(headers)
            case "/livez" if not self._front.is_alive():
                raise NotReady("the server is not live", retry_seconds=1.0)
            case "/readyz" if not self._front.is_ready():
                raise NotReady("the server is not ready", retry_seconds=1.0)
            case "/livez" | "/readyz":
                return JSON, b"{}"
            case _:
                raise UnknownModel("at this port there are /metrics, /livez and /readyz")


class AdminPort:
    """The port of one front, at the address of the server's other port."""

    def __init__(self, front: Front, host: str, *, is_bounded: bool) -> None:
        """is_bounded: whether the installed uvicorn allows connections with deadlines and bounds."""
        settings = front.settings
        limits = ConnectionLimits(MAX_REQUESTS, settings.client_seconds, ConnectionLimits.of(settings).buffer_bytes)
        kind = Connection if is_bounded else HttpToolsProtocol
        self._kind: Any = type("AdminConnection", (kind,), {"guard": ConnectionGuard(limits)})
        self._app = AdminRoutes(front)
        self._address = host, settings.admin_port
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen from now on. Raises OSError."""
        config = uvicorn.Config(self._app, http=self._kind, ws="none", lifespan="off", log_config=None)
        config.load()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: self._kind(config=config, server_state=self._state, app_state={}),
            *self._address,
            family=socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET,
            reuse_port=True,
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    def leave(self) -> None:
        """Stay: probes and scrapers ask until the end."""

    async def close(self) -> None:
        """Listen no more; what is being answered goes on."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._state.connections):
                connection.shutdown()
