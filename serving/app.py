"""The data plane: a small ASGI app in front of BentoML's. It answers `/models…` and `/metrics` itself and hands every
other path on, so that a hot request passes no middleware.
"""

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

import msgspec

from monitoring.exposition import CONTENT_TYPE
from serving.errors import ClientGone, Failed, Malformed, ServingError, TooLarge, UnknownModel, WrongMethod
from serving.front import Answer, Front
from serving.request import parse_body
from serving.scrape import Scrape
from serving.table import describe_model
from serving.trail import Trail

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = logging.getLogger("headwaiter.front")

JSON = (b"content-type", b"application/json")
_encode = msgspec.json.Encoder().encode


class DataPlane:
    """ASGI app around `inner`, which is BentoML's."""

    def __init__(self, front: Front, inner: App) -> None:
        self._front = front
        self._inner = inner
        self._scrape = Scrape(front)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch by path."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/models"):
                parts = path.rstrip("/").split("/")
                if parts[1] == "models":
                    await self._models(parts[2:], scope, receive, send)
                    return
            elif path == "/metrics":
                await _respond(
                    send,
                    200,
                    await self._scrape.render(),
                    [(b"content-type", CONTENT_TYPE.encode())],
                )
                return
        await self._inner(scope, receive, send)

    async def _models(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        trail = Trail.read(scope["headers"])
        try:
            method = scope["method"]
            if not parts:
                _expect(method, "GET")
                models = [describe_model(name, entry) for name, entry in self._front.table.models.items()]
                body = {"models": models, "registry_error": self._front.table.registry_error or None}
                await _respond(send, 200, _encode(body), [JSON])
            elif len(parts) == 1 and method == "GET":
                entry = self._front.table.models.get(parts[0])
                if entry is None:
                    self._front.find(parts[0], None)
                    raise UnknownModel(f"ask for the model by its name alone, without an alias: {parts[0]}")
                await _respond(send, 200, _encode(describe_model(parts[0], entry)), [JSON])
            elif len(parts) == 1 or (len(parts) == 3 and parts[1] == "versions"):
                _expect(method, "POST")
                version = parts[2] if len(parts) == 3 else None
                await self._predict(parts[0], version, trail, scope, receive, send)
            else:
                raise UnknownModel("there is no such route; POST /models/{name} or /models/{name}/versions/{version}")
        except ServingError as error:
            await _refuse(send, error, trail)
        except Exception:  # the edge: our bug must not show its insides, nor leave the client without an answer
            logger.exception("a request failed", extra={"fields": {"request_id": trail.request_id}})
            await _refuse(send, Failed("the server failed on this request; its log says why"), trail)

    async def _predict(
        self, name: str, version: str | None, trail: Trail, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = await _read_body(scope, receive, self._front.settings.max_body_bytes)
        answer = await self._front.answer(
            name,
            version,
            partial(parse_body, body, max_rows=self._front.settings.max_rows),
            protocol="huggingface",
            write=_encode,
            gone=partial(_client_left, receive),
            trail=trail,
        )
        await _respond(send, 200, answer.value, [JSON, *_headers(answer), trail.header])


def _expect(method: str, allowed: str) -> None:
    if method != allowed:
        raise WrongMethod(f"this route takes {allowed}, not {method}")


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The whole body; raises TooLarge past `limit` bytes, and ClientGone."""
    too_large = TooLarge(f"the body has more than {limit:,} bytes: send less at a time")
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_large
        if name == b"content-encoding" and value != b"identity":
            raise Malformed(f"content-encoding {value.decode('latin-1')!r} is not supported: send the body as it is")
    message = await receive()
    if not message.get("more_body"):
        body: bytes = message.get("body", b"")
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


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    encode, queue, forward, decode = answer.stages.seconds()
    timing = (
        f"tokenize;dur={encode * 1e3:.3f}, queue;dur={queue * 1e3:.3f}, "
        f"forward;dur={forward * 1e3:.3f}, decode;dur={decode * 1e3:.3f}"
    )
    return [(b"x-model-version", answer.version.encode()), (b"server-timing", timing.encode())]


async def _respond(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, error: ServingError, trail: Trail) -> None:
    headers = [JSON, trail.header]
    if error.version is not None:
        headers.append((b"x-model-version", error.version.encode()))
    if error.retry_seconds is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_seconds))))
    await _respond(send, error.status, _encode({"error": error.message, "error_type": error.reason}), headers)
