"""The data plane: a small ASGI app in front of BentoML's. It answers `/models…`, `/hooks/mlflow` and `/metrics` itself
and hands every other path on, so that a hot request passes no middleware.
"""

import logging
from functools import partial

from monitoring.exposition import CONTENT_TYPE
from serving.errors import Failed, ServingError, UnknownModel, WrongMethod
from serving.front import Answer, Front
from serving.hooks import Hooks
from serving.http import JSON, App, Receive, Scope, Send, client_left, encode_json, read_body, refuse, respond
from serving.request import parse_body
from serving.scrape import Scrape
from serving.table import describe_model
from serving.trail import Trail

logger = logging.getLogger("headwaiter.front")


class DataPlane:
    """ASGI app around `inner`, which is BentoML's."""

    def __init__(self, front: Front, inner: App) -> None:
        self._front = front
        self._inner = inner
        self._scrape = Scrape(front)
        self._hooks = Hooks(front.settings, front.nudge)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch by path."""
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/models"):
                parts = path.rstrip("/").split("/")
                if parts[1] == "models":
                    await self._models(parts[2:], scope, receive, send)
                    return
            elif path == "/hooks/mlflow":
                await self._hooks(scope, receive, send)
                return
            elif path == "/metrics":
                await respond(
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
                body = {"models": models, **self._front.describe()}
                await respond(send, 200, encode_json(body), [JSON])
            elif len(parts) == 1 and method == "GET":
                entry = self._front.table.models.get(parts[0])
                if entry is None:
                    self._front.find(parts[0], None)
                    raise UnknownModel(f"ask for the model by its name alone, without an alias: {parts[0]}")
                await respond(send, 200, encode_json(describe_model(parts[0], entry)), [JSON])
            elif len(parts) == 1 or (len(parts) == 3 and parts[1] == "versions"):
                _expect(method, "POST")
                version = parts[2] if len(parts) == 3 else None
                await self._predict(parts[0], version, trail, scope, receive, send)
            else:
                raise UnknownModel("there is no such route; POST /models/{name} or /models/{name}/versions/{version}")
        except ServingError as error:
            await refuse(send, error, trail)
        except Exception:  # the edge: our bug must not show its insides, nor leave the client without an answer
            logger.exception("a request failed", extra={"fields": {"request_id": trail.request_id}})
            await refuse(send, Failed("the server failed on this request; its log says why"), trail)

    async def _predict(
        self, name: str, version: str | None, trail: Trail, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = await read_body(scope, receive, self._front.settings.max_body_bytes)
        answer = await self._front.answer(
            name,
            version,
            partial(parse_body, body, max_rows=self._front.settings.max_rows),
            protocol="huggingface",
            write=encode_json,
            gone=partial(client_left, receive),
            trail=trail,
        )
        await respond(send, 200, answer.value, [JSON, *_headers(answer), trail.header])


def _expect(method: str, allowed: str) -> None:
    if method != allowed:
        raise WrongMethod(f"this route takes {allowed}, not {method}")


def _headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    encode, queue, forward, decode = answer.stages.seconds()
    timing = (
        f"tokenize;dur={encode * 1e3:.3f}, queue;dur={queue * 1e3:.3f}, "
        f"forward;dur={forward * 1e3:.3f}, decode;dur={decode * 1e3:.3f}"
    )
    return [(b"x-model-version", answer.version.encode()), (b"server-timing", timing.encode())]
