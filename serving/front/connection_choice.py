"""Chooses the class of connections: with the fast path, if the installed uvicorn allows it, or without.

`connection` and `fast_path` depend on attributes of uvicorn's connections that no release promises to keep. So before a
class is used, requests are taken through a connection without a socket.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from serving.front.asgi import Header, Response

if TYPE_CHECKING:
    from serving.front.connection import Connection
    from serving.front.protocols.huggingface import HuggingFace

CONNECTION = (
    *(
        "client",
        "config",
        "cycle",
        "expect_100_continue",
        "flow",
        "headers",
        "limit_concurrency",
        "loop",
        "parser",
        "pipeline",
    ),
    *("root_path", "server_state", "tasks", "timeout_keep_alive", "transport", "url", "_start_asgi_task"),
    *("on_body", "on_header", "on_headers_complete", "on_message_begin", "on_message_complete"),
)
"""Attributes of a `HttpToolsProtocol` that `Connection`, `FastConnection` and `FastRequest` use in a request."""
FLOW = ("drain", "read_paused", "resume_reading", "write_paused")
"""Attributes of its flow control that they use."""

PLAIN = b"POST /models/name/versions/7 HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbody"
OTHER = b"GET /models HTTP/1.1\r\nHost: here\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nx-model-version: 7\r\ncontent-length: 4\r\n\r\nbody"
ENDLESS = b"GET / HTTP/1.1\r\nHost: " + 40 * 1024 * b"x"
"""More than `MAX_HEAD_BYTES`."""

logger = logging.getLogger("headwaiter.front")


def choose_connection(protocol: "HuggingFace") -> "type[Connection] | None":
    """Let uvicorn make connections of the class that is returned; None if it makes its own, then the log says why.

    To be called in a worker process before uvicorn's configuration is loaded.
    """
    from serving.front.connection import Connection
    from serving.front.connection_guard import ConnectionGuard, ConnectionLimits, raise_descriptor_limit
    from serving.front.fast_path import FastConnection

    settings = protocol.front.settings
    limits = ConnectionLimits.of(settings)
    raise_descriptor_limit(limits)
    Connection.guard = ConnectionGuard(limits)
    FastConnection.front, FastConnection.protocol = protocol.front, protocol
    if settings.fast_path:
        try:
            return _install(FastConnection)
        except Exception as error:  # whatever is different in another uvicorn
            logger.warning("the fast path does not work with this uvicorn, so all requests take ASGI: %r", error)
    try:
        return _install(Connection)
    except Exception as error:
        logger.error("connections have neither deadlines nor bounds: install the uvicorn of this release: %r", error)
        return None


def _install(kind: "type[Connection]") -> "type[Connection]":
    from uvicorn.config import HTTP_PROTOCOLS, LOOP_FACTORIES

    from serving.front import handshakes

    if "auto" not in HTTP_PROTOCOLS or "auto" not in LOOP_FACTORIES:
        raise RuntimeError("its tables of protocols and of event loops have no 'auto'")
    check_uvicorn(kind)
    HTTP_PROTOCOLS["auto"] = f"{kind.__module__}:{kind.__name__}"
    LOOP_FACTORIES["auto"] = f"{handshakes.__name__}:{handshakes.loop_factory.__name__}"
    return kind


def check_uvicorn(kind: "type[Connection]") -> None:
    """Take requests through a connection of this class without a socket. Raises what goes wrong."""
    from serving.front.fast_path import FastConnection, FastRequest

    is_fast = issubclass(kind, FastConnection)
    request = PLAIN if is_fast else OTHER
    connection, transport = _connect(kind)
    connection.data_received(request)
    missing = [name for name in CONNECTION if not hasattr(connection, name)]
    missing += [f"flow.{name}" for name in FLOW if not hasattr(connection.flow, name)]
    if missing:
        raise RuntimeError(f"its connections have no {', '.join(missing)}")
    connection.data_received(request)
    if transport.written != 2 * ANSWER:
        raise RuntimeError(f"two requests were answered with {bytes(transport.written)!r}")
    if is_fast and not isinstance(cast(object, connection.cycle), FastRequest):
        raise RuntimeError("a plain request did not take the fast path")
    if connection.phase != "idle" or connection.guard.requests:
        raise RuntimeError("it did not tell that a request was answered")
    connection.data_received(ENDLESS)
    if b" 431 " not in transport.written:
        raise RuntimeError("an endless header was not refused")
    connection.connection_lost(None)


def _connect(kind: "type[Connection]") -> "tuple[Connection, _Transport]":
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from serving.front.connection_guard import ConnectionGuard, ConnectionLimits

    made: Any = type("Probe", (kind,), {"guard": ConnectionGuard(ConnectionLimits(1, 1.0, 1024), counts=False)})
    made.front = made.protocol = _Echo()
    config = Config(_answer, http=made, ws="none", lifespan="off", log_config=None)
    config.load()
    transport = _Transport()
    connection = made(config, ServerState(), {}, _loop=_Loop())
    connection.connection_made(transport)
    return connection, transport


async def _answer(scope: object, receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
    del scope, receive
    headers = [(b"x-model-version", b"7"), (b"content-length", b"4")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"body"})


class _Echo:
    """Stands where front and protocol do."""

    settings = SimpleNamespace(max_body_bytes=4, cors_origins=())
    access = hosts = SimpleNamespace(is_open=True, is_watched=False, audit=None)

    def may_stream(self, name: str) -> bool:
        return False

    def refuse_unread(self, name: str, version: str | None, headers: Sequence[Header]) -> Response | None:
        return None

    async def predict(
        self, name: str, version: str | None, body: bytes, headers: Sequence[Header], disconnected: object
    ) -> Response:
        return 200, body, [(b"x-model-version", (version or "").encode())]


class _Transport:
    """Keeps what is written to it."""

    def __init__(self) -> None:
        self.written = bytearray()

    def write(self, data: bytes) -> None:
        self.written += data

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return False

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        """There is nothing to close."""

    pause_reading = resume_reading = write_eof = close


class _Task:
    """A task that is done."""

    def add_done_callback(self, callback: Callable[["_Task"], None]) -> None:
        callback(self)


class _Loop:
    """Runs a coroutine that waits for nothing at once, so the check needs no event loop."""

    def create_task(self, work: Coroutine[None, None, None], **given: object) -> _Task:
        try:
            work.send(None)
        except StopIteration:
            return _Task()
        raise RuntimeError("a plain request waited for something")

    def time(self) -> float:
        return 0.0

    def call_later(self, seconds: float, callback: Callable[..., None], *given: object) -> SimpleNamespace:
        return SimpleNamespace(cancel=lambda: None)
