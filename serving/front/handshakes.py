"""TLS handshakes, counted and bounded as connections are: from the moment that a client is accepted.

An event loop's own TLS shows a connection only after its handshake, which may take 60 s and counts nowhere until then.
`ServerLoop` makes a `Handshake` of each client; once it is done, the client's `Connection` is there instead.
"""

import asyncio
import logging
import os
import socket
import ssl
from asyncio import BaseTransport, Protocol, Server
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import uvloop

from serving.errors import TooSlow
from serving.front.certificate import Certificate
from serving.front.connection import Connection
from serving.front.connection_guard import ConnectionGuard, has_unread

logger = logging.getLogger("headwaiter.front")

MakeProtocol = Callable[[], Protocol]


class Handshake(Protocol):
    """A client from its arrival to the end of its handshake, for which it has `client_seconds` in all.

    make: the protocol that speaks with the client afterwards.
    """

    def __init__(self, make: MakeProtocol, context: ssl.SSLContext, guard: ConnectionGuard) -> None:
        self._make, self._context, self._guard = make, context, guard
        self._has_begun = False

    def connection_made(self, transport: BaseTransport) -> None:
        """A client connected. The loop takes its socket again, as a transport cannot change to TLS before it reads."""
        accepted, loop = transport.get_extra_info("socket"), asyncio.get_running_loop()
        try:
            self._socket = socket.socket(fileno=os.dup(accepted.fileno()))
        except OSError as error:  # descriptors are used up
            logger.debug("a client could not be taken", exc_info=error)
        else:
            self._since = self._guard.now
            self._task = loop.create_task(self._shake_hands(loop))
            self._guard.join(self, loop)
        transport.abort()  # type: ignore[attr-defined]  # asyncio's types have it for a Transport only

    def waits_since(self) -> float:
        """Since when there is no request: since its arrival."""
        return self._since

    def has_unread(self) -> bool:
        """Whether its client has sent what was not read yet."""
        return has_unread(self._socket)

    def drop(self) -> None:
        """Close it at once."""
        self._task.cancel()
        if not self._has_begun:  # no transport owns the socket yet, which would close it
            self._socket.close()

    def look(self, now: float) -> None:
        """End it if its time is over."""
        if now - self._since > self._guard.limits.client_seconds:
            self._guard.count(TooSlow(""))
            self.drop()

    async def _shake_hands(self, loop: asyncio.AbstractEventLoop) -> None:
        self._has_begun = True
        try:
            await loop.connect_accepted_socket(self._make, self._socket, ssl=self._context)
        except Exception as error:  # of the network, of TLS, or of the loop for a client that has left
            logger.debug("a client did not finish its TLS handshake", exc_info=error)
        finally:
            self._guard.leave(self)


class ServerLoop(uvloop.Loop):
    """The event loop of a front. The handshakes of its TLS servers are bounded."""

    async def create_server(  # type: ignore[override]  # its arguments are passed on
        self, protocol_factory: MakeProtocol, *given: Any, ssl: ssl.SSLContext | None = None, **more: Any
    ) -> Server:
        """As of any loop. ssl: a context, whose certificate is kept up to date; None for a server without TLS."""
        if ssl is not None:
            if Certificate.current is not None:
                Certificate.current.adopt(ssl)
            protocol_factory = partial(Handshake, protocol_factory, ssl, Connection.guard)
        made = await super().create_server(protocol_factory, *given, **more)
        return cast(Server, made)


def loop_factory(use_subprocess: bool = False) -> type[ServerLoop]:
    """The class of the loop that uvicorn makes. use_subprocess: whether uvicorn reloads, which it does not here."""
    del use_subprocess
    return ServerLoop
