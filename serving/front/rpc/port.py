"""`HEADWAITER_GRPC_PORT`: where one front listens for gRPC; the kernel gives each connection to one of the fronts."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from functools import partial

from serving.front.certificate import Certificate
from serving.front.connection_guard import ConnectionGuard, ConnectionLimits
from serving.front.front import Front
from serving.front.handshakes import Handshake
from serving.front.rpc import health, inference
from serving.front.rpc.calls import Calls
from serving.front.rpc.connection import RpcConnection
from serving.front.rpc.methods import Method
from serving.front.rpc.outbox import RpcLimits

HEALTH_BYTES = 1024
"""Of a message to the health service."""
LOOK_SECONDS = 0.05


class GrpcPort:
    """The port of one front, at the address of the server's other port."""

    def __init__(self, front: Front, host: str, guard: ConnectionGuard) -> None:
        """guard: of the front's connections, with which those here are counted, as are their calls and bytes."""
        settings = front.settings
        self._front, self._host, self._guard = front, host, guard
        self._health = health.HealthService(front, Calls(None, guard, HEALTH_BYTES))
        self._limits = RpcLimits(
            settings.max_connections,
            settings.max_body_bytes,
            settings.timeout_seconds + ConnectionLimits.of(settings).client_seconds,
        )
        self._connections: set[RpcConnection] = set()
        self._server: asyncio.Server | None = None
        self._left_at: float | None = None  # in the loop's seconds
        self.port = settings.grpc_port

    async def open(self) -> None:
        """Listen from now on. Raises OSError."""
        make = partial(RpcConnection, self._methods(), self._guard, self._limits, self._connections)
        tls = self._front.certificate
        try:
            self._server = await asyncio.get_running_loop().create_server(
                make if tls is None else partial(Handshake, make, context_of(tls), self._guard),
                self._host,
                self.port,
                family=socket.AF_INET6 if ":" in self._host else socket.AF_INET,
                reuse_port=True,
            )
        except OSError as error:
            raise OSError(f"gRPC cannot listen at {self._host}:{self.port} ({error})") from error
        self.port = self._server.sockets[0].getsockname()[1]

    def leave(self) -> None:
        """Take no more connections, and ask clients to make their next calls elsewhere. The server's grace begins."""
        if self._left_at is not None:
            return
        self._left_at = asyncio.get_running_loop().time()
        self._health.is_closing = True
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.leave()

    async def close(self) -> None:
        """Leave, and wait for the calls that were taken, as long as is left of the server's grace."""
        self.leave()
        assert self._left_at is not None
        try:
            async with asyncio.timeout_at(self._left_at + self._front.settings.grace_seconds):
                while self._connections:
                    for connection in list(self._connections):
                        connection.leave()  # one whose handshake has ended only now
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            for connection in list(self._connections):
                connection.drop()

    def _methods(self) -> Mapping[bytes, Method]:
        """The methods by path."""
        service = inference.InferenceService(self._front)
        calls = Calls(self._front.access, self._guard, self._front.settings.max_body_bytes)
        found = {
            f"/{inference.SERVICE}/{name}": calls.method(f"{inference.SERVICE}/{name}", work)
            for name, work in service.methods.items()
        }
        found |= {f"/{health.SERVICE}/{name}": method for name, method in self._health.methods().items()}
        return {path.encode(): method for path, method in found.items()}


def context_of(certificate: Certificate) -> ssl.SSLContext:
    """What handshakes need. It is kept up to date with the certificate's files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    if certificate.files.client_authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    certificate.adopt(context)
    return context
