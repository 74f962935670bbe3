"""Clients that send too slowly, too much or nothing: each attack on every way through the server.

The deadlines are small, and a test waits for what the server does on the socket.
"""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from serving.front.connection import MAX_SMALL_PIECES, MIN_PIECE_BYTES
from serving.front.connection_guard import MAX_HEAD_BYTES, MAX_HEADERS
from tests.serving.front.attacked import (
    BODY,
    LIMITS,
    MAX_BODY,
    PATIENT,
    ROOMY,
    ROUTES,
    Attacked,
    Serve,
    chunk,
    chunked,
    error_type,
    head,
    on_every_route,
    sized,
)

# --- headers


def test_a_silent_client_is_left(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        assert await client.end() == b""

    serve(work)


def test_headers_have_a_deadline_however_they_trickle(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(b"GET /livez HTTP/1.1\r\nHost: here\r\n")
        status, headers, body = await client.trickle(b"a: b\r\n", 0.02)
        assert (status, headers[b"connection"], error_type(body)) == (408, b"close", "too_slow")
        assert await client.end() == b""

    serve(work)


@pytest.mark.slow
def test_time_in_which_the_server_itself_was_blocked_does_not_count(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(b"GET /livez HTTP/1.1\r\n")
        await server.until(lambda server: server.open == 1)
        client.send(b"Host: here\r\n\r\n")
        time.sleep(5 * LIMITS.client_seconds)
        assert (await client.answer())[0] == 200

    serve(work)


ENDLESS = {
    "path": (b"GET /", b"x" * 1024),
    "name": (head("/", method="GET")[:-2], b"x" * 1024),
    "value": (head("/", method="GET")[:-2] + b"a: ", b"x" * 1024),
    "headers": (head("/", method="GET")[:-2], b"a: " + b"x" * 1024 + b"\r\n"),
    "extension": (chunked("/predict") + b"1;", b"x" * 1024),
    "trailer": (chunked("/models/m") + chunk(b"{}") + b"0\r\na: ", b"x" * 1024),
    "in one piece": (b"GET /" + 2 * MAX_HEAD_BYTES * b"x", b"x"),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_header_is_refused(what: str, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        begin, more = ENDLESS[what]
        client = await server.client()
        client.send(begin)
        status, _, body = await client.trickle(more, 0)
        assert (status, error_type(body)) == (431, "headers_too_large")

    serve(work, PATIENT)


@pytest.mark.parametrize("count", [MAX_HEADERS, MAX_HEADERS + 1])
def test_headers_are_counted(count: int, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        lines = [f"a{place}: b" for place in range(count - 1)]
        status, _, _ = await server.ask(head("/livez", *lines, method="GET"))
        assert status == (200 if count <= MAX_HEADERS else 431)

    serve(work)


@pytest.mark.parametrize(("count", "status"), [(8, 200), (MAX_HEADERS, 431), (300, 431)])
def test_trailers_are_counted_as_headers_are(count: int, status: int, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        trailers = b"".join(b"a%d: b\r\n" % place for place in range(count))
        for path in ("/models/m", "/predict"):
            assert (await server.ask(chunked(path) + chunk(BODY) + b"0\r\n" + trailers + b"\r\n"))[0] == status

    serve(work, PATIENT)


@pytest.mark.parametrize(
    "data",
    [b"\0\n", b"GET\r\n\r\n", head("/", method="NONE"), head("/ä", method="GET"), head("x:1", method="CONNECT")],
)
def test_what_is_no_http_is_refused(data: bytes, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(data)
        status, headers, body = await client.answer()
        assert (status, headers[b"connection"], error_type(body)) == (400, b"close", "malformed")
        client.send(data)
        assert await client.end() == b""

    serve(work, PATIENT)


@pytest.mark.slow
def test_an_idle_connection_is_closed(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head("/livez", method="GET"))
        assert (await client.answer())[0] == 200
        assert await client.end() == b""

    serve(work, PATIENT, keep_alive=0.2)


# --- bodies


@pytest.mark.parametrize("begin", [sized, lambda path, _: chunked(path)], ids=["length", "chunked"])
@pytest.mark.parametrize("pause", [0.02, 10.0], ids=["slow", "unfinished"])
def test_a_body_has_a_least_rate(begin: Any, pause: float, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        await on_every_route(lambda path: ask(server, path))

    async def ask(server: Attacked, path: str) -> None:
        client = await server.client()
        client.send(begin(path, 10_000))
        answering = asyncio.create_task(client.answer())
        while not answering.done():
            client.send(b" " if begin is sized else chunk(b" "))
            await asyncio.wait([answering], timeout=pause)
        status, headers, body = await answering
        assert (status, headers[b"connection"], error_type(body)) == (408, b"close", "too_slow")

    serve(work, ROOMY)


@pytest.mark.slow
def test_a_body_that_goes_on_may_take_longer(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(sized("/models/m", 100_000))
        for _ in range(49):
            client.send(b" " * 2000)
            await asyncio.sleep(0.02)
        client.send(BODY.rjust(2000))
        assert (await client.answer())[0] == 200

    serve(work)


def test_a_body_over_the_limit_is_refused_by_its_length(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        await on_every_route(lambda path: ask(server, path))

    async def ask(server: Attacked, path: str) -> None:
        status, headers, body = await server.ask(sized(path, MAX_BODY + 1))
        assert (status, b"x-request-id" in headers) == (413, True)
        assert b"200,000 bytes" in body

    serve(work, msgspec.structs.replace(ROOMY, client_seconds=60.0))


def test_a_body_over_the_limit_is_refused_in_chunks_and_no_longer_read(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        await on_every_route(lambda path: ask(server, path))
        await server.until(lambda server: server.open == 0)

    async def ask(server: Attacked, path: str) -> None:
        client = await server.client()
        client.send(chunked(path))
        status, _, body = await client.trickle(chunk(bytes(50_000)), 0)
        assert (status, b"200,000 bytes" in body) == (413, True)
        ended = asyncio.create_task(client.end())
        while not ended.done():  # it goes on sending
            client.send(chunk(b" "))
            await asyncio.sleep(0.01)

    serve(work, ROOMY)


@pytest.mark.parametrize(("size", "status"), [(1, 400), (MIN_PIECE_BYTES, 422)])
def test_a_body_comes_in_chunks_of_more_than_a_few_bytes(size: int, status: int, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(chunked("/models/m") + chunk(b'{"inputs":1,"' + b"a" * MIN_PIECE_BYTES))
        client.send(chunk(b"a" * size) * (2 * MAX_SMALL_PIECES))
        if status != 400:  # else the rest is not waited for
            client.send(chunk(b'":0}') + b"0\r\n\r\n")
        assert (await client.answer())[0] == status

    serve(work, PATIENT)


def test_a_request_may_follow_a_body_that_was_not_read(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(sized("/models/m", MAX_BODY + 1))
        assert (await client.answer())[0] == 413
        client.send(bytes(MAX_BODY + 1) + sized("/models/m", len(BODY)) + BODY)
        assert (await client.answer())[0] == 200

    serve(work, PATIENT)


def test_bodies_share_a_budget(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        request = sized("/models/m", 60_000) + BODY.rjust(60_000)
        holder = await server.client()
        holder.send(request[:60_000])
        await server.until(lambda server: server.guard.buffered_bytes > 50_000)
        for path in ROUTES:
            status, headers, body = await server.ask(sized(path, 60_000) + bytes(60_000))
            assert (status, headers[b"retry-after"], error_type(body)) == (503, b"1", "overloaded")
        assert (await server.ask(head("/livez", method="GET")))[0] == 200
        holder.send(request[60_000:])
        assert (await holder.answer())[0] == 200
        assert (await server.ask(request))[0] == 200

    serve(work, msgspec.structs.replace(PATIENT, buffer_bytes=100_000))


# --- what still works


def test_a_connection_carries_requests_of_every_kind(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        for _ in range(3):
            client.send(sized("/models/m", len(BODY)) + BODY)
            assert (await client.answer())[0] == 200
            client.send(chunked("/predict") + chunk(b"ab") + chunk(b"c") + b"0\r\n\r\n")
            assert (await client.answer())[2] == b"3"
            client.send(head("/models/m", f"Content-Length: {len(BODY)}", "Expect: 100-continue"))
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
            client.send(BODY)
            assert (await client.answer())[0] == 200
        client.send(head("/livez", method="GET", version="1.0"))
        assert (await client.answer())[1][b"connection"] == b"close"
        assert await client.end() == b""

    serve(work)


def test_no_connection_becomes_a_web_socket(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        lines = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: aaaa")
        assert (await server.ask(head("/livez", *lines, method="GET")))[0] == 200

    serve(work)


def test_a_shutdown_does_not_wait_for_clients_without_end(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        unfinished, silent = await server.client(), await server.client()
        unfinished.send(sized("/models/m", len(BODY)))
        await server.until(lambda server: server.guard.requests == 1)
        await server.stop()
        assert await silent.end() == b""
        assert b" 408 " in await unfinished.end()

    serve(work)


@pytest.mark.parametrize("path", [*ROUTES, "/other"])
def test_a_length_with_thousands_of_zeros_is_read(path: str, serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async def work(server: Attacked) -> None:
        status, _, _ = await server.ask(head(path, f"Content-Length: {5000 * '0'}{len(BODY)}") + BODY)
        assert status < 500
        assert not [record for record in caplog.records if record.exc_info]

    serve(work, ROOMY)
