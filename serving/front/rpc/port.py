"""`HEADWAITER_GRPC_PORT`: where one front listens for gRPC; the kernel gives each connection to one of the fronts.

gRPC's core has the bounds of connections: how many there are, how long a handshake, an idle one and any one may last,
how often a client may ping, how large a message and its metadata may be. It takes no compressed messages, as their true
size is not known before.
"""

import logging

import grpc
import grpc.aio

from serving.front.certificate import Certificate
from serving.front.connection_guard import ConnectionGuard, ConnectionLimits
from serving.front.front import Front
from serving.front.rpc import health, inference
from serving.front.rpc.calls import Calls
from serving.front.rpc.reads import Reads
from serving.settings import ServingSettings

HEALTH_BYTES = 1024
"""Of a message to the health service."""
HEALTH_READS = 4
"""Messages to it that may be on their way at once."""
IDLE_SECONDS = 120
"""After which a connection without calls is closed; clients connect again. Untuned."""
AGE_SECONDS = 600
"""After which a client is asked to connect again. So clients spread over the fronts, and no call outlasts this and the
longest request, even if its client reads no answer. Untuned."""
IDENTITY_ONLY = 1
"""The set of compressions that has none but the identity."""

logger = logging.getLogger("headwaiter.front")


class GrpcPort:
    """The port of one front, at the address of the server's other port."""

    def __init__(self, front: Front, host: str, guard: ConnectionGuard) -> None:
        """guard: of the front's connections, with whose requests and buffered bytes calls are counted."""
        settings = front.settings
        limits = ConnectionLimits.of(settings)
        self._front = front
        self._address = f"[{host}]" if ":" in host else host
        self._health = health.HealthService(
            front, Calls(None, guard, Reads(HEALTH_READS, limits.client_seconds), HEALTH_BYTES)
        )
        reads = Reads(max(1, limits.buffer_bytes // settings.max_body_bytes), limits.client_seconds)
        self._calls = Calls(front.access, guard, reads, settings.max_body_bytes)
        self._server: grpc.aio.Server | None = None
        self.port = settings.grpc_port

    async def open(self) -> None:
        """Listen from now on. Raises OSError."""
        self._server = grpc.aio.server(options=options_of(self._front.settings))
        service = inference.InferenceService(self._front)
        methods = {
            name: self._calls.method(f"{inference.SERVICE}/{name}", work) for name, work in service.methods.items()
        }
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(inference.SERVICE, methods),
                grpc.method_handlers_generic_handler(health.SERVICE, self._health.handlers()),
            )
        )
        address, tls = f"{self._address}:{self.port}", self._front.certificate
        try:
            if tls is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials_of(tls))
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen at {address} ({error})") from error
        await self._server.start()

    async def close(self) -> None:
        """Take no more calls, and wait for those that were taken, as long as the server's grace allows."""
        self._health.is_closing = True
        if self._server is not None:
            await self._server.stop(self._front.settings.grace_seconds)


def options_of(settings: ServingSettings) -> list[tuple[str, int]]:
    """The options of gRPC's core, by their names in grpc/impl/channel_arg_names.h."""
    client = int(1000 * settings.client_seconds)
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_connections),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
        ("grpc.http2.bdp_probe", 0),  # else a stream that nobody reads may be given megabytes
        ("grpc.server_handshake_timeout_ms", client),
        ("grpc.keepalive_time_ms", 1000 * IDLE_SECONDS),
        ("grpc.keepalive_timeout_ms", client),
        ("grpc.max_connection_idle_ms", 1000 * IDLE_SECONDS),
        ("grpc.max_connection_age_ms", 1000 * AGE_SECONDS),
        ("grpc.max_connection_age_grace_ms", int(1000 * settings.timeout_seconds) + client),
    ]


def credentials_of(certificate: Certificate) -> grpc.ServerCredentials:
    """The server's certificate, which is taken up again when its files were renewed."""
    seen = certificate.renewals
    files = certificate.files

    def configuration() -> grpc.ServerCertificateConfiguration:
        chain, key, authorities = files.read()
        return grpc.ssl_server_certificate_configuration([(key, chain)], authorities)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        """In a thread of gRPC's core, before each handshake: None for what is in use."""
        nonlocal seen
        renewals = certificate.renewals  # before the files, which may be renewed while they are read
        if renewals == seen:
            return None
        try:
            found = configuration()
        except (OSError, ValueError) as error:  # they are being renewed again
            logger.error("the certificate from before stays at the port of gRPC: %s", error)
            return None
        seen = renewals
        return found

    return grpc.dynamic_ssl_server_credentials(
        configuration(), fetch, require_client_authentication=files.client_authorities is not None
    )
