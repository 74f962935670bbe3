"""Where one request ends and the next begins, whatever its headers and trailers say of other protocols and codings."""

import json
import re
from typing import Any

import httptools
import pytest

from serving.front.connection_choice import _Transport
from serving.front.request_stream import RequestStream
from tests.serving.front.attacked import (
    BODY,
    PATIENT,
    ROUTES,
    Attacked,
    Client,
    Serve,
    chunk,
    chunked,
    error_type,
    head,
)

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
HIDDEN = head("/hidden", method="GET")
LENGTH = f"Content-Length: {len(BODY)}"
HIDES = f"Content-Length: {len(HIDDEN)}"
CHUNKS = chunk(BODY[:5]) + chunk(BODY[5:]) + b"0\r\n\r\n"


async def sizes(client: Client, count: int) -> list[int]:
    """Of the bodies that the next requests had."""
    found = []
    for _ in range(count):
        status, _, body = await client.answer()
        assert status == 200
        found.append(int(body))
    return found


# --- upgrades


@pytest.mark.parametrize("path", ROUTES)
def test_a_request_with_an_upgrade_that_is_not_taken_keeps_its_body(path: str, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        for framing, body in ((LENGTH, BODY), ("Transfer-Encoding: chunked", CHUNKS)):
            plain, _, wanted = await server.ask(head(path, framing) + body)
            client.send(head(path, *H2C, framing) + body)
            status, _, answer = await client.answer()
            assert status == plain
            assert re.sub(rb"\d", b"", answer) == re.sub(rb"\d", b"", wanted)
            client.send(head("/livez", method="GET"))
            assert (await client.answer())[0] == 200

    serve(work, PATIENT)


def test_a_body_that_looks_like_a_request_is_none(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head("/first", *H2C, HIDES))
        await server.until(lambda server: server.guard.requests == 1)
        client.send(HIDDEN + head("/second", LENGTH) + BODY)
        assert await sizes(client, 2) == [len(HIDDEN), len(BODY)]

    serve(work, PATIENT)


def test_what_is_pipelined_after_an_upgrade_is_answered(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head("/first", *H2C, method="GET") + head("/second", LENGTH, *H2C) + BODY + HIDDEN)
        assert await sizes(client, 3) == [0, len(BODY), 0]

    serve(work, PATIENT)


STREAM = b"".join(
    (
        head("/a", *H2C, HIDES) + HIDDEN,
        head("/b", "upgrade:", "x-empty:", *H2C, "Transfer-Encoding: chunked")
        + chunk(HIDDEN)
        + b"0\r\nUpgrade: h2c\r\n\r\n",
        head("/c?d=/e%20", "UPGRADE: websocket", "CONNECTION: upgrade", "Upgrade: x", method="GET"),
        head("/f", LENGTH) + BODY,
    )
)
"""Four requests."""


def test_requests_are_the_same_wherever_their_bytes_are_split(serve: Serve) -> None:
    async def answers(server: Attacked, *segments: bytes) -> list[bytes]:
        connection: Any = server._connect()
        transport: Any = _Transport()
        connection.connection_made(transport)
        for segment in segments:
            connection.data_received(segment)
        await server.until(lambda _: connection.phase == "idle" or b"\r\nconnection: close" in transport.written)
        connection.connection_lost(None)
        return [each.partition(b"\r\n\r\n")[2] for each in bytes(transport.written).split(b"HTTP/1.1 200 OK")[1:]]

    async def work(server: Attacked) -> None:
        wanted = [
            b"%x\r\n%d\r\n0\r\n\r\n" % (len(str(size)), size) for size in (len(HIDDEN), len(HIDDEN), 0, len(BODY))
        ]
        assert await answers(server, STREAM) == wanted
        assert await answers(server, *(STREAM[at : at + 1] for at in range(len(STREAM)))) == wanted
        for cut in range(1, len(STREAM)):
            assert await answers(server, STREAM[:cut], STREAM[cut:]) == wanted, STREAM[:cut]

    serve(work, PATIENT)


@pytest.mark.parametrize("target", ["/models", "here:443"])
def test_the_server_is_no_proxy(target: str, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        for lines in ((), H2C):
            client = await server.client()
            client.send(head(target, *lines, method="CONNECT") + HIDDEN)
            status, headers, body = await client.answer()
            assert (status, headers[b"connection"], error_type(body)) == (400, b"close", "malformed")
            assert await client.end() == b""

    serve(work, PATIENT)


def test_an_upgrade_has_the_bounds_of_other_heads(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        for many in ([f"a{place}: b" for place in range(200)], ["a: " + 40_000 * "b"]):
            status, _, body = await server.ask(head("/first", *many, *H2C, method="GET"))
            assert (status, error_type(body)) == (431, "headers_too_large")

    serve(work, PATIENT)


# --- trailers

TRAILERS = [
    *("Connection: close", "Connection: keep-alive, close", "Connection: upgrade\r\nUpgrade: h2c", "Upgrade: h2c"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Content-Length: 5", "Content-Length: 0", "Host: x"),
    *("Expect: 100-continue", "Content-Encoding: gzip", "Proxy-Connection: close", "Trailer: x"),
]


@pytest.mark.parametrize("trailer", TRAILERS)
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_after_any_trailer_the_next_request_is_answered_or_the_connection_is_closed(
    trailer: str, version: str, serve: Serve
) -> None:
    async def work(server: Attacked) -> None:
        framing = "Transfer-Encoding: chunked"
        for path in ("/first", "/models/m"):
            client = await server.client()
            client.send(head(path, framing, version=version) + chunk(BODY) + f"0\r\n{trailer}\r\n\r\n".encode())
            _, headers, _ = await client.answer()
            if headers.get(b"connection") != b"close":
                client.send(head("/second", LENGTH) + BODY)
                assert await sizes(client, 1) == [len(BODY)]
            else:
                assert await client.end() == b""

    serve(work, PATIENT)


def test_a_connection_is_closed_that_a_trailer_closes_after_the_answer(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head("/none", "Transfer-Encoding: chunked", method="GET") + chunk(BODY))
        assert (await client.answer())[0] == 200
        client.send(b"0\r\nConnection: close\r\n\r\n" + HIDDEN)
        assert await client.end() == b""

    serve(work, PATIENT)


# --- codings


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "GZIP,Chunked", "gzip\r\nTransfer-Encoding: chunked", "identity, chunked"]
)
@pytest.mark.parametrize("path", [*ROUTES, "/models"])
def test_a_transfer_coding_that_is_not_decoded_is_refused(path: str, coding: str, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        client = await server.client()
        client.send(head(path, f"Transfer-Encoding: {coding}", method="GET" if path == "/models" else "POST") + CHUNKS)
        status, headers, body = await client.answer()
        assert (status, headers[b"connection"], error_type(body)) == (501, b"close", "unknown_coding")
        assert coding.partition(",")[0].partition("\r")[0].lower() in json.loads(body)["error"]
        assert await client.end() == b""

    serve(work, PATIENT)


@pytest.mark.parametrize("coding", ["gzip", "chunked, gzip", "chunked, chunked", "identity", "gzip, x-chunked"])
def test_a_body_without_an_end_is_malformed(coding: str, serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        for lines in ((), H2C):
            status, headers, body = await server.ask(head("/first", f"Transfer-Encoding: {coding}", *lines) + CHUNKS)
            assert (status, headers[b"connection"], error_type(body)) == (400, b"close", "malformed")

    serve(work, PATIENT)


def test_a_chunked_body_is_read_however_the_coding_is_written(serve: Serve) -> None:
    async def work(server: Attacked) -> None:
        for request in (chunked("/first"), head("/first", "transfer-encoding:  CHUNKED")):
            assert int((await server.ask(request + CHUNKS))[2]) == len(BODY)

    serve(work, PATIENT)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
    ],
)
def test_an_upgrade_on_a_connection_that_ends_begins_a_request(head: bytes) -> None:
    class Ends(RequestStream):
        ended = 0

        def __init__(self) -> None:
            self.parser: Any = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

        def on_message_begin(self) -> None:
            self.url, self.headers = b"", []

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_header(self, name: bytes, value: bytes) -> None:
            self.headers.append((name.lower(), value))

        def on_headers_complete(self) -> None: ...

        def on_body(self, body: bytes) -> None: ...

        def on_message_complete(self) -> None:
            self.ended += not self.parser.should_upgrade()

    stream = Ends()
    stream.parse(head)
    assert stream.ended == 1
