"""What another server answers to one request, in bounded time and size.

A timeout of a socket is of each read, so a server that sends a byte now and then keeps within it for ever, in the
headers too. Here connecting, headers, body and redirections have one deadline together.
"""

import io
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from urllib.error import HTTPError
from urllib.request import (
    AbstractHTTPHandler,
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from serving.runtime.bounded_calls import BoundedCalls, TooManyHang

MAX_HANGING = 64
"""Requests that go on after their deadline, as while a name is looked up. Untuned."""

_calls = BoundedCalls(MAX_HANGING, "headwaiter-http")


def read_answer(request: Request, seconds: float, max_bytes: int) -> bytes:
    """The body of the answer. Blocks for `seconds` at most.

    Raises HTTPError for another status than 2xx, whose `read` gives the body; TimeoutError, OSError or HTTPException
    where no whole answer comes; ValueError for one of more than `max_bytes`.
    """
    sockets = _Sockets()
    try:
        return _calls.wait(partial(_read, request, seconds, max_bytes, sockets), seconds)
    except TooManyHang as error:
        raise TimeoutError(f"{MAX_HANGING} requests before it have not ended") from error
    except TimeoutError as error:
        raise TimeoutError(f"no whole answer came within {seconds:g} s") from error
    finally:
        sockets.end()


class _Sockets:
    """The connections of one request, which another thread can end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._copies: list[socket.socket] = []
        self._is_ended = False

    def open(
        self, address: tuple[str, int], timeout: float | None, source: tuple[str, int] | None = None
    ) -> socket.socket:
        """As `socket.create_connection`."""
        made = socket.create_connection(address, timeout, source)
        with self._lock:
            if self._is_ended:
                made.close()
                raise TimeoutError("connected too late")
            self._copies.append(made.dup())  # `ssl` takes the other one over
        return made

    def end(self) -> None:
        """End them, and those that are still to be made: whatever reads from them returns."""
        with self._lock:
            self._is_ended = True
            for copy in self._copies:
                with copy, suppress(OSError):
                    copy.shutdown(socket.SHUT_RDWR)
            self._copies.clear()


class _Watched(AbstractHTTPHandler):
    """Makes connections whose sockets are known."""

    sockets: _Sockets

    def do_open(self, http_class: Callable[..., HTTPConnection], req: Request, **given: object) -> HTTPResponse:
        def connect(host: str, **options: object) -> HTTPConnection:
            connection = http_class(host, **options)
            connection._create_connection = self.sockets.open  # type: ignore[attr-defined]  # there to be replaced
            return connection

        return super().do_open(connect, req, **given)


class _Http(_Watched, HTTPHandler):
    """http://"""


class _Https(_Watched, HTTPSHandler):
    """https://"""


def _read(request: Request, seconds: float, max_bytes: int, sockets: _Sockets) -> bytes:
    opener = OpenerDirector()  # `urlopen` would follow a redirection to ftp://, too
    for handler in (_Http(), _Https()):
        handler.sockets = sockets
        opener.add_handler(handler)
    for kind in (ProxyHandler, UnknownHandler, HTTPDefaultErrorHandler, HTTPRedirectHandler, HTTPErrorProcessor):
        opener.add_handler(kind())
    try:
        with opener.open(request, timeout=seconds) as answer:
            return _body(answer, max_bytes)
    except HTTPError as error:
        with error:
            body = io.BytesIO(error.read(max_bytes))  # its status tells more than the end of its text
        raise HTTPError(error.url, error.code, error.reason, error.headers, body) from None


def _body(answer: HTTPResponse, max_bytes: int) -> bytes:
    body = answer.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise ValueError(f"the answer has more than {max_bytes:,} bytes, which are not read")
    if answer.length:  # is left of what was said
        raise IncompleteRead(body, answer.length)
    return body
