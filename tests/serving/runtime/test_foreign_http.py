"""A server that sends a byte now and then is waited for until the deadline, wherever in its answer it is."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import IncompleteRead
from urllib.error import HTTPError, URLError
from urllib.request import Request

import pytest

from serving.runtime import foreign_http
from serving.runtime.foreign_http import read_answer
from tests.waiting import WAIT_SECONDS

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


@contextmanager
def server(sends: bytes, drips: bytes = b"") -> Iterator[tuple[str, threading.Semaphore]]:
    """The address of a server, and a semaphore of the connections that clients have ended."""
    ended = threading.Semaphore(0)

    def serve(link: socket.socket) -> None:
        with link, suppress(OSError):
            link.recv(4096)
            link.sendall(sends)
            while drips:
                link.sendall(drips)
                link.settimeout(0.02)
                with suppress(TimeoutError):
                    if not link.recv(4096):
                        break
        ended.release()

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/", ended
        listening.shutdown(socket.SHUT_RDWR)


def ask(url: str, seconds: float = WAIT_SECONDS, max_bytes: int = 5) -> bytes:
    return read_answer(Request(url), seconds, max_bytes)


@pytest.mark.parametrize(
    ("scheme", "sends", "drips"),
    [
        ("http", b"HTTP/1.1 200", b" "),
        ("http", b"HTTP/1.1 200 OK\r\n", b"X"),
        ("http", b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
        ("http", b"HTTP/1.1 404 Not Found\r\n\r\n", b"x"),
        ("http", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("https", b"\x16\x03\x03\x40\x00", b"\x02"),
    ],
)
def test_a_server_that_drips_is_given_up_and_its_connection_ended(scheme: str, sends: bytes, drips: bytes) -> None:
    with server(sends, drips) as (url, ended):
        with pytest.raises(TimeoutError, match=r"no whole answer came within 0\.2 s"):
            ask(url.replace("http:", f"{scheme}:"), 0.2, 1 << 20)
        assert ended.acquire(timeout=WAIT_SECONDS)


def test_the_answer_is_read_and_other_statuses_have_their_body() -> None:
    with server(OK + b"hello") as (url, _):
        assert ask(url) == b"hello"
        with pytest.raises(ValueError, match="more than 4 bytes"):
            ask(url, max_bytes=4)
    busy = server(OK.replace(b"200 OK", b"503 Busy") + b"later")
    with busy as (url, _), pytest.raises(HTTPError, match="503: Busy") as caught:
        ask(url)
    assert caught.value.read() == b"later"


def test_a_body_that_ends_early_is_no_answer() -> None:
    with server(OK + b"he") as (url, _), pytest.raises(IncompleteRead):
        ask(url)


def test_an_error_keeps_its_status_however_long_its_text() -> None:
    said = server(OK.replace(b"200 OK", b"404 Gone") + b"later")
    with said as (url, _), pytest.raises(HTTPError, match="404: Gone") as caught:
        ask(url, max_bytes=4)
    assert caught.value.read() == b"late"


def test_no_other_scheme_is_followed() -> None:
    for target in ("ftp://127.0.0.1/x", "file:///etc/hostname"):
        sends = f"HTTP/1.1 302 Found\r\ncontent-length: 0\r\nlocation: {target}\r\n\r\n"
        with server(sends.encode()) as (url, _), pytest.raises((HTTPError, URLError)):
            ask(url)


def test_with_too_many_that_hang_none_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, hanging = threading.Event(), foreign_http.BoundedCalls(1, "test")
    monkeypatch.setattr(foreign_http, "_calls", hanging)
    monkeypatch.setattr(foreign_http.socket, "create_connection", lambda *_: gate.wait(WAIT_SECONDS))
    with pytest.raises(TimeoutError, match="no whole answer"):
        ask("http://127.0.0.1/", 0.01)
    with pytest.raises(TimeoutError, match="have not ended"):
        ask("http://127.0.0.1/")
    gate.set()
