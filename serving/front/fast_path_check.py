"""Enables the fast path if it works with the uvicorn that is installed; otherwise all requests take ASGI.

`fast_path` depends on attributes of uvicorn's connections that no release promises to keep. So before it is enabled, a
request is taken through a connection without a socket.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

from serving.front.asgi import Header, Response

if TYPE_CHECKING:
    from serving.front.protocols.huggingface import HuggingFace

CONNECTION = (
    *("cycle", "expect_100_continue", "flow", "headers", "limit_concurrency", "loop", "parser", "root_path"),
    *("server_state", "tasks", "transport", "url"),
    *("on_body", "on_header", "on_headers_complete", "on_message_begin", "on_message_complete", "on_response_complete"),
)
"""Attributes of a `HttpToolsProtocol` that `FastConnection` and `FastRequest` use once a request has begun."""
FLOW = ("drain", "resume_reading", "write_paused")
"""Attributes of its flow control that they use."""

REQUEST = b"POST /models/name/versions/7 HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbody"
ANSWER = b"HTTP/1.1 200 OK\r\nx-model-version: 7\r\ncontent-length: 4\r\n\r\nbody"

logger = logging.getLogger("headwaiter.front")


def enable_fast_path(protocol: "HuggingFace") -> bool:
    """Let uvicorn make its connections with the fast path. Returns whether they will be; if not, the log says why.

    Does nothing if the setting says so. To be called in a worker process before uvicorn's configuration is loaded.
    """
    if not protocol.front.settings.fast_path:
        return False
    try:
        check_uvicorn()
        from serving.front.fast_path import use_for_connections

        use_for_connections(protocol)
    except Exception as error:  # whatever is different in another uvicorn
        logger.warning("the fast path does not work with this uvicorn, so all requests take ASGI: %r", error)
        return False
    return True


def check_uvicorn() -> None:
    """Take a request through a connection without a socket. Raises what goes wrong."""
    from uvicorn.config import HTTP_PROTOCOLS, Config
    from uvicorn.server import ServerState

    from serving.front.fast_path import FastConnection

    class Probe(FastConnection):
        """Answers with the body that it gets."""

        front = protocol = _Echo()  # type: ignore[assignment]

    if "auto" not in HTTP_PROTOCOLS:
        raise RuntimeError("its table of protocols has no 'auto'")
    config = Config(_Echo(), http=Probe, ws="none", lifespan="off", log_config=None)
    config.load()
    transport = _Transport()
    connection = Probe(config, ServerState(), {}, _loop=_Loop())  # type: ignore[arg-type]
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.data_received(REQUEST)
    missing = [name for name in CONNECTION if not hasattr(connection, name)]
    missing += [f"flow.{name}" for name in FLOW if not hasattr(connection.flow, name)]
    if missing:
        raise RuntimeError(f"its connections have no {', '.join(missing)}")
    connection.data_received(REQUEST)
    if transport.written != 2 * ANSWER:
        raise RuntimeError(f"two requests were answered with {bytes(transport.written)!r}")
    connection.connection_lost(None)


class _Echo:
    """Stands where front, protocol and ASGI app do."""

    settings = SimpleNamespace(max_body_bytes=4, cors_origins=())

    def may_stream(self, name: str) -> bool:
        return False

    async def predict(
        self, name: str, version: str | None, body: bytes, headers: Sequence[Header], disconnected: object
    ) -> Response:
        return 200, body, [(b"x-model-version", (version or "").encode())]

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        raise RuntimeError("a plain request did not take the fast path")


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

    def close(self) -> None:
        """There is nothing to close."""

    pause_reading = resume_reading = close


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

    def call_later(self, seconds: float, callback: Callable[[], None]) -> SimpleNamespace:
        return SimpleNamespace(cancel=lambda: None)
