"""The port of gRPC: TLS as the server has it, connections that are bounded, and clients that break HTTP/2's rules."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from cryptography import x509

from registry.settings import InvalidSetting
from serving import settings
from serving.front.certificate import Certificate
from serving.front.connection_guard import ConnectionGuard
from serving.front.rpc.port import GrpcPort
from serving.runtime.tls_files import TlsFiles
from tests.authority import Authority
from tests.serving.front.attacked import PATIENT
from tests.serving.front.local_front import MakeFront
from tests.serving.front.rpc.served import Port, on_port
from tests.waiting import WAIT_SECONDS

LIVE = "/inference.GRPCInferenceService/ServerLive"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""What a client of HTTP/2 begins with, and its empty settings (RFC 9113, 3.4)."""
PING = b"\0\0\x08\6\0\0\0\0\0" + 8 * b"x"
GOAWAY = 7


async def live(address: str, credentials: Any) -> bool:
    async with grpc.aio.secure_channel(address, credentials) as channel:
        try:
            await channel.unary_unary(LIVE)(b"", timeout=WAIT_SECONDS)
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            return False
        return True


def test_the_servers_certificate_is_shown_and_renewed(tmp_path: Path, make_front: MakeFront) -> None:
    authority = Authority(tmp_path / "own")
    front = make_front()
    front.certificate = Certificate(TlsFiles(*authority.sign("first")))
    front.certificate.adopt(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    async def work(port: Port) -> None:
        trusted = grpc.ssl_channel_credentials(authority.file.read_bytes())
        assert await live(port.address, trusted)
        assert not await live(port.address, grpc.ssl_channel_credentials(Authority(tmp_path / "x").file.read_bytes()))
        authority.sign("second")
        assert front.certificate is not None
        front.certificate.look()
        assert await live(port.address, trusted)
        shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port.opened.port))
        assert "CN=second" in x509.load_pem_x509_certificate(shown.encode()).subject.rfc4514_string()

    on_port(front, work)


def test_only_clients_of_the_authority_get_in(tmp_path: Path, make_front: MakeFront) -> None:
    authority, clients = Authority(tmp_path / "own"), Authority(tmp_path / "clients", "clients")
    front = make_front()
    front.certificate = Certificate(TlsFiles(*authority.sign("first"), clients.file))
    certificate, key = (path.read_bytes() for path in clients.sign("a client"))

    async def work(port: Port) -> None:
        trusted = authority.file.read_bytes()
        assert await live(port.address, grpc.ssl_channel_credentials(trusted, key, certificate))
        assert not await live(port.address, grpc.ssl_channel_credentials(trusted))

    on_port(front, work)


@contextlib.asynccontextmanager
async def connection(port: Port, sent: bytes) -> AsyncIterator[asyncio.StreamReader]:
    """A connection without a library of HTTP/2, on which this was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port.opened.port)
    writer.write(sent)
    try:
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def test_connections_are_bounded_and_the_longest_idle_make_room(make_front: MakeFront) -> None:
    async def work(port: Port) -> None:
        async with contextlib.AsyncExitStack() as stack:
            readers = []
            for _ in range(guard._room + 1):
                readers.append(await stack.enter_async_context(connection(port, PREFACE)))
                await readers[-1].readexactly(9)
            await readers[0].read()
            assert readers[0].at_eof()
            assert not readers[-1].at_eof()
            assert len(guard._open) <= guard._room
        assert (await port.call(LIVE[1:], b""))[0].name == "OK"

    guard = ConnectionGuard(msgspec.structs.replace(PATIENT, max_requests=2))
    on_port(make_front(), work, guard)


def test_a_client_that_pings_without_end_is_sent_away(make_front: MakeFront) -> None:
    async def work(port: Port) -> None:
        kinds = set()
        async with connection(port, PREFACE + 1100 * PING) as reader:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while True:
                    head = await reader.readexactly(9)
                    await reader.readexactly(int.from_bytes(head[:3]))
                    kinds.add(head[3])
        assert GOAWAY in kinds

    on_port(make_front(), work)


def test_a_client_that_says_nothing_is_dropped(make_front: MakeFront) -> None:
    async def work(port: Port) -> None:
        async with connection(port, b"") as reader:
            await reader.read()
            assert reader.at_eof(), "the server has closed the connection"

    on_port(make_front(client_seconds=0.2), work)


def test_a_port_that_is_taken_is_an_error(make_front: MakeFront) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = GrpcPort(make_front(), "127.0.0.1", ConnectionGuard(PATIENT))
        port.port = other.getsockname()[1]
        with pytest.raises(OSError, match="gRPC cannot listen at 127.0.0.1"):
            asyncio.run(port.open())


def test_fronts_share_the_port(make_front: MakeFront) -> None:
    async def work(port: Port) -> None:
        other = GrpcPort(make_front(), "127.0.0.1", ConnectionGuard(PATIENT))
        other.port = port.opened.port
        await other.open()
        await other.close()
        assert (await port.call(LIVE[1:], b""))[0].name == "OK"

    on_port(make_front(), work)


def test_the_port_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(InvalidSetting, match="install the extra grpc"):
        settings.ServingSettings.from_environment({"HEADWAITER_GRPC_PORT": "8001"}, run=Path())
