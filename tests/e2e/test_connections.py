"""However a request comes over its connection, it gets the answer that any other way would have given it."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any, BinaryIO

import pytest

from tests.alike import assert_alike
from tests.e2e.server import Server, wait_until
from tests.waiting import WAIT_SECONDS

TEXTS = ("a fine film", "a dull and endless film that I left before its end", "well, it was a film")


class Wire:
    """A connection on which a test writes bytes and reads whole answers."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS)
        self.file: BinaryIO = self.socket.makefile("rb")

    def makefile(self, _: str) -> "Wire":
        """What http.client asks a socket for; several answers come from one buffer."""
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def close(self) -> None:
        """The end of one answer is not the end of the connection."""

    def answer(self) -> tuple[int, Any, http.client.HTTPMessage]:
        response = http.client.HTTPResponse(self)  # type: ignore[arg-type]
        response.begin()
        return response.status, json.loads(response.read()), response.headers

    def is_at_end(self) -> bool:
        return self.file.read(1) == b""


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    wire = Wire(server)
    yield wire
    wire.file.close()
    wire.socket.close()


def body_of(text: str) -> bytes:
    return json.dumps({"inputs": text}).encode()


def request(text: str, *lines: str, path: str = "/models/sentiment", version: str = "1.1") -> bytes:
    body = body_of(text)
    head = [f"POST {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def chunked(text: str) -> bytes:
    body = body_of(text)
    head = b"POST /models/sentiment HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


def assert_answers(wire: Wire, server: Server, text: str) -> http.client.HTTPMessage:
    status, answer, headers = wire.answer()
    assert status == 200, answer
    assert_alike(answer, server.ask("sentiment", text))
    assert headers["x-model-version"] == "1"
    assert "forward;dur=" in headers["server-timing"]
    return headers


def test_a_connection_carries_many_requests(wire: Wire, server: Server) -> None:
    for text in TEXTS * 3:
        wire.socket.sendall(request(text))
        assert_answers(wire, server, text)


def test_a_request_may_come_in_pieces(wire: Wire, server: Server) -> None:
    wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    whole = request(TEXTS[0])
    for place in range(len(whole)):
        wire.socket.sendall(whole[place : place + 1])
    assert_answers(wire, server, TEXTS[0])


def test_requests_that_do_not_wait_for_answers_get_them_in_order(wire: Wire, server: Server) -> None:
    wire.socket.sendall(b"".join(request(text) for text in TEXTS))
    for text in TEXTS:
        assert_answers(wire, server, text)


@pytest.mark.parametrize(
    "data",
    [
        chunked(TEXTS[0]),
        request(TEXTS[0], path="/models/sentiment?a=b"),
        request(TEXTS[0], path="/models/sentiment/"),
        request(TEXTS[0], path="/models/sentiment/versions/1"),
        request(TEXTS[0], path="/models/sentiment@champion"),
        request(TEXTS[0], path="/models/%73entiment"),
        request(TEXTS[0], "Content-Encoding: identity"),
    ],
    ids=["chunked", "query", "slash", "version", "alias", "escaped", "identity"],
)
def test_unusual_forms_get_the_same_answer_and_the_connection_goes_on(wire: Wire, server: Server, data: bytes) -> None:
    wire.socket.sendall(data)
    assert_answers(wire, server, TEXTS[0])
    wire.socket.sendall(request(TEXTS[1]))
    assert_answers(wire, server, TEXTS[1])


@pytest.mark.parametrize("data", [request(TEXTS[0], "Connection: close"), request(TEXTS[0], version="1.0")])
def test_a_connection_ends_when_the_client_wants_it(wire: Wire, server: Server, data: bytes) -> None:
    wire.socket.sendall(data)
    headers = assert_answers(wire, server, TEXTS[0])
    assert headers["connection"] == "close"
    assert wire.is_at_end()


def test_a_client_that_waits_for_a_go_ahead_gets_it(wire: Wire, server: Server) -> None:
    whole = request(TEXTS[0], "Expect: 100-continue")
    head, _, body = whole.partition(b"\r\n\r\n")
    wire.socket.sendall(head + b"\r\n\r\n")
    assert wire.file.readline().startswith(b"HTTP/1.1 100")
    assert wire.file.readline() == b"\r\n"
    wire.socket.sendall(body)
    assert_answers(wire, server, TEXTS[0])


def test_errors_take_every_way_too(wire: Wire) -> None:
    for path, expected in (("/models/nobody", 404), ("/models/sentiment/versions/9", 404), ("/models/stars@x", 404)):
        wire.socket.sendall(request(TEXTS[0], path=path))
        status, answer, headers = wire.answer()
        assert (status, bool(answer["error"]), bool(headers["x-request-id"])) == (expected, True, True)


def test_a_client_that_leaves_inside_its_request_harms_nobody(server: Server) -> None:
    for part in (0.3, 0.9, 1.0):
        whole = request(TEXTS[1])
        wire = Wire(server)
        wire.socket.sendall(whole[: int(part * len(whole))])
        wire.file.close()
        wire.socket.close()
    assert server.ask("sentiment", TEXTS[0])

    def nothing_in_progress() -> bool:
        lines = server.http.get("/metrics").text.splitlines()
        found = [line for line in lines if line.startswith('headwaiter_requests_in_progress{model="sentiment"')]
        return bool(found) and all(line.endswith(" 0.0") for line in found)

    wait_until(nothing_in_progress, "no request is in progress")
