"""TLS handshakes that are never finished have the bounds and the deadline of other connections."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from serving.front.certificate import Certificate
from serving.front.connection import Connection
from serving.front.connection_guard import RESERVED, ConnectionLimits
from serving.front.fast_path import FastConnection
from serving.front.handshakes import ServerLoop
from serving.runtime.tls_files import TlsFiles
from tests.authority import Authority
from tests.serving.front.attacked import BODY, LIMITS, PATIENT, Attacked, Client, Whole, attack, head, sized
from tests.serving.front.local_front import MakeFront, answer, engines

Served = Callable[..., None]
Work = Callable[[Attacked, ssl.SSLContext], Awaitable[None]]
HELLO = bytes.fromhex("1603010200010001fc0303")
"""The first bytes of a ClientHello."""
TAKEN = b"HTTP/1.1 200 OK"


@pytest.fixture(params=[Connection, FastConnection], ids=["ASGI alone", "with the fast path"])
def serve(
    request: pytest.FixtureRequest, make_front: MakeFront, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Served:
    """Runs a test's coroutine with a TLS server and a client's context that trusts it."""
    authority = Authority(tmp_path / "authority")
    files = TlsFiles(*authority.sign("server"))
    trust = ssl.create_default_context(cafile=authority.file)

    def run(work: Work, limits: ConnectionLimits) -> None:
        def make() -> Attacked:
            front = make_front(task=Whole())
            engines(front, "1", *[answer("an answer")] * 50)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            files.load_into(context)
            made = Attacked(front, limits, request.param, 60.0, context)
            monkeypatch.setattr(Connection, "guard", made.guard, raising=False)
            monkeypatch.setattr(Certificate, "current", None)
            return made

        attack(make, lambda server: work(server, trust), ServerLoop)

    return run


async def secure(server: Attacked, trust: ssl.SSLContext) -> Client:
    return await server.client(ssl=trust, server_hostname="localhost")


async def ask(server: Attacked, trust: ssl.SSLContext) -> int:
    """The status of a request on a connection of its own."""
    client = await secure(server, trust)
    client.send(sized("/models/m", len(BODY)) + BODY)
    status, _, _ = await client.answer()
    client.leave()
    return status


def waiting(server: Attacked) -> int:
    return len(server.guard._open)


def test_requests_are_answered_one_after_the_other_and_leave_nothing(serve: Served) -> None:
    async def work(server: Attacked, trust: ssl.SSLContext) -> None:
        client = await secure(server, trust)
        for _ in range(3):
            client.send(sized("/models/m", len(BODY)) + BODY)
            status, _, body = await client.answer()
            assert (status, body) == (200, b'"an answer"')
        assert waiting(server) == 1
        client.leave()
        await server.until(lambda server: waiting(server) == 0)

    serve(work, PATIENT)


def test_a_request_that_comes_with_the_end_of_the_handshake_is_answered(serve: Served) -> None:
    """The last message of the handshake and a request, in one write."""

    async def work(server: Attacked, trust: ssl.SSLContext) -> None:
        client = await server.client()
        taken, given = ssl.MemoryBIO(), ssl.MemoryBIO()
        link = trust.wrap_bio(taken, given, server_hostname="localhost")
        while True:
            try:
                link.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.send(given.read())
                taken.write(await client.reader.read(65536))
        link.write(head("/livez", method="GET"))
        client.send(given.read())
        found = b""
        while b"\r\n" not in found:
            taken.write(await client.reader.read(65536))
            with suppress(ssl.SSLWantReadError):
                found += link.read(65536)
        assert found.startswith(TAKEN)

    serve(work, PATIENT)


@pytest.mark.parametrize("data", [b"", HELLO], ids=["silent", "begun"])
def test_a_handshake_that_is_not_finished_in_time_is_dropped(serve: Served, data: bytes) -> None:
    async def work(server: Attacked, trust: ssl.SSLContext) -> None:
        client = await server.client()
        client.send(data)
        await server.until(lambda server: waiting(server) == 1)
        assert await client.end() == b""
        await server.until(lambda server: waiting(server) == 0)

    serve(work, LIMITS)


def test_what_trickles_in_does_not_make_the_deadline_later(serve: Served) -> None:
    async def work(server: Attacked, trust: ssl.SSLContext) -> None:
        client = await server.client()
        ending = asyncio.create_task(client.end())
        client.send(HELLO)
        while not ending.done():
            client.send(b"x")
            await asyncio.sleep(LIMITS.client_seconds / 10)
        assert await ending == b""

    serve(work, LIMITS)


def test_a_flood_of_unfinished_handshakes_takes_no_more_than_its_room(serve: Served) -> None:
    async def work(server: Attacked, trust: ssl.SSLContext) -> None:
        room = PATIENT.max_requests + RESERVED
        flood: list[Any] = []
        for data in (b"", HELLO):
            for _ in range(2 * room):
                flood.append(await server.client())
                flood[-1].send(data)
            await server.until(lambda server: 0 < waiting(server) <= room)
            assert await ask(server, trust) == 200
        assert await flood[0].end() == b""

    serve(work, PATIENT)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"\x16\x03\x01\x00\x04x\x00\x00\x00", b"\0" * 70_000],
    ids=["plain HTTP", "an unknown message", "zeros"],
)
def test_what_is_no_handshake_is_closed_at_once(serve: Served, data: bytes) -> None:
    async def work(server: Attacked, trust: ssl.SSLContext) -> None:
        client = await server.client()
        client.send(data)
        await client.end()  # at most an alert of TLS
        await server.until(lambda server: waiting(server) == 0)
        assert await ask(server, trust) == 200

    serve(work, PATIENT)


def test_clients_that_leave_in_their_handshake_are_forgotten(serve: Served) -> None:
    async def work(server: Attacked, trust: ssl.SSLContext) -> None:
        for data in (b"", HELLO):
            clients = [await server.client() for _ in range(5)]
            for client in clients:
                client.send(data)
            await server.until(lambda server: waiting(server) == 5)
            for client in clients:
                client.leave()
            await server.until(lambda server: waiting(server) == 0)
        assert await ask(server, trust) == 200

    serve(work, PATIENT)
