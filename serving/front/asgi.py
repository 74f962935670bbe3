"""HTTP over ASGI for all protocols: read a body, send an answer, an error or a stream of events."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any

import msgspec

from serving.errors import ClientGone, Malformed, ServingError, TooLarge, WrongMethod
from serving.front.request_context import RequestContext

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]
JsonObject = dict[str, object]
"""An object of JSON, as plain data."""
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Response = tuple[int, bytes, list[Header]]
"""A complete answer: status, body, headers without content-length."""

JSON = (b"content-type", b"application/json")
EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
encode_json = msgspec.json.Encoder().encode


def encode_answer(answer: object) -> bytes:
    """The answer as JSON; a list entry by entry, because encoding does not let other threads run."""
    if isinstance(answer, list) and len(answer) > 1:
        return b"[" + b",".join([encode_json(entry) for entry in answer]) + b"]"
    return encode_json(answer)


MAX_DIGITS = 18
"""Of a number in a header, without leading zeros: no length has more, and Python refuses to read thousands."""


def read_number(value: bytes, name: str) -> int:
    """A number of a header, in ASCII digits. name: of the header. Raises Malformed."""
    digits = value.lstrip(b"0") or value[-1:]
    if not digits.isdigit() or len(digits) > MAX_DIGITS:
        raise Malformed(f"{name} is no number of at most {MAX_DIGITS} digits")
    return int(digits)


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the whole body. Raises TooLarge past `limit` bytes, Malformed for an encoded body, ClientGone."""
    too_large = TooLarge(f"the body has more than {limit:,} bytes: send less at a time")
    for name, value in scope["headers"]:
        if name == b"content-length" and read_number(value, "Content-Length") > limit:
            raise too_large
        if name == b"content-encoding" and value != b"identity":
            raise Malformed(f"content-encoding {value.decode('latin-1')!r} is not supported: send the body as it is")
    message = await receive()
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > limit:
            raise too_large
        return body
    parts, size = [], 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise too_large
        if not message.get("more_body"):
            return b"".join(parts)
        message = await receive()


def replay(read: bytes, receive: Receive) -> Receive:
    """What an app receives: the body in one message, and then that the client has left. read: the body."""
    body: bytes | None = read

    async def again() -> Message:
        nonlocal body
        if body is None:
            await client_left(receive)
            return {"type": "http.disconnect"}
        message = {"type": "http.request", "body": body, "more_body": False}
        body = None
        return message

    return again


async def client_left(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def respond(send: Send, status: int, body: bytes, headers: list[Header]) -> None:
    """Send a complete answer. Appends to `headers`."""
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, error: ServingError, context: RequestContext, body: bytes) -> None:
    """Send an error. body: JSON in the protocol's own shape."""
    await respond(send, *refusal(error, context, body))


def refusal(error: ServingError, context: RequestContext, body: bytes) -> Response:
    """An error as a complete answer."""
    headers = [JSON, context.header]
    if error.version is not None:
        headers.append((b"x-model-version", error.version.encode()))
    if error.status == HTTPStatus.UNAUTHORIZED:  # RFC 9110, 11.6.1
        headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, WrongMethod):
        headers.append((b"allow", error.allow.encode()))
    if error.retry_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_seconds))))
    return error.status, body, headers


class Events:
    """An answer of server-sent events (WHATWG HTML, 9.2). limit_seconds: how long one event may take to be sent."""

    def __init__(self, send: Send, limit_seconds: float) -> None:
        self._send = send
        self._limit_seconds = limit_seconds

    async def begin(self, headers: Iterable[Header]) -> None:
        """Send status and headers. From then on errors are sent as events."""
        await self._send({"type": "http.response.start", "status": 200, "headers": [*EVENTS, *headers]})

    async def tell(self, data: bytes) -> None:
        """Send one event. data: one line. Raises ClientGone if the client does not read it in time."""
        await self._write(b"data: " + data + b"\n\n", more=True)

    async def end(self) -> None:
        """End the answer."""
        await self._write(b"", more=False)

    async def _write(self, body: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._limit_seconds):
                await self._send({"type": "http.response.body", "body": body, "more_body": more})
        except TimeoutError as error:
            raise ClientGone("the client does not read its stream") from error
