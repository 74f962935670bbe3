"""The data plane: an ASGI app around BentoML's.

It answers the protocols of its table, `/metrics` and `/openapi.json` itself, without BentoML's middleware, and passes
other paths on. `openapi.routes` declares all routes. The request's key comes first, see `access`; the files of `/ui`
need none, because they are the same for everybody.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Protocol

from serving.errors import ServingError, UnknownModel, WrongMethod
from serving.front.access import current_visit, forget_visit
from serving.front.administration import Administration
from serving.front.asgi import (
    JSON,
    App,
    Header,
    JsonObject,
    Message,
    Receive,
    Scope,
    Send,
    client_left,
    encode_json,
    read_body,
    refuse,
    replay,
    respond,
)
from serving.front.cross_origin import check_origin
from serving.front.front import Front
from serving.front.metrics_page import MetricsPage
from serving.front.openapi.document import document
from serving.front.protocols import bentoml
from serving.front.protocols.huggingface import HuggingFace
from serving.front.protocols.kserve import KServe
from serving.front.protocols.mlflow import MLflowScoring
from serving.front.protocols.openai import OpenAI
from serving.front.protocols.rerank import Rerank
from serving.front.protocols.tokens import Tokens
from serving.front.request_context import RequestContext
from serving.front.ui_page import UiPage
from serving.front.webhook import Hooks
from serving.runtime.audit import AuditLog
from serving.tasks.base.body_values import check_values

OPERATORS = (["metrics"],)
"""Routes that only operators may ask. What others hide from everybody else, they decide themselves."""


Page = Callable[[Iterable[Header]], Awaitable[tuple[Header, bytes]]]
"""The headers of a request → the content type, and the content."""


class Handler(Protocol):
    """The routes below one first segment of a path."""

    async def __call__(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. parts: the segments of its path, the first one included."""

    def describe(self, error: ServingError) -> JsonObject:
        """The body of an error."""


PAGE_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content Security Policy of BentoML's page: own files, inline styles. It would also load a script of Google's."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Others:
    """BentoML's routes, and the pages `/metrics` and `/openapi.json`."""

    def __init__(self, inner: App, front: Front) -> None:
        self._inner = inner
        self._max_body_bytes, self._max_rows = front.settings.max_body_bytes, front.settings.max_rows
        self._admin_port = front.settings.admin_port
        self._pages: dict[str, Page] = {
            "metrics": MetricsPage(front).render,
            "openapi.json": _describe_routes,
        }

    async def __call__(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if parts == ["metrics"] and self._admin_port:
            raise UnknownModel(f"/metrics is at port {self._admin_port} (HEADWAITER_ADMIN_PORT)")
        page = self._pages.get(parts[0]) if len(parts) == 1 else None
        if page is None:
            await self._pass_on(parts, scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            raise WrongMethod(scope["method"], "GET")
        kind, content = await page(scope["headers"])
        await respond(send, 200, content, [kind, RequestContext.read(scope["headers"]).header])

    async def _pass_on(self, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Let BentoML answer, once the body is there and within its bounds. That of a GET is not waited for."""
        is_read = scope["method"] not in ("GET", "HEAD")
        body = await read_body(scope, receive, self._max_body_bytes) if is_read else b""
        if scope["path"].endswith("/"):
            scope = {**scope, "path": "/" + "/".join(parts)}
        if parts == ["predict"]:
            check_values(body, self._max_rows)
            bentoml.check_fields(body)
            scope = bentoml.as_json(scope)
            bentoml.current_disconnected.set(partial(client_left, receive))
        await self._inner(scope, replay(body, receive), send if is_read else with_policy(send))

    def describe(self, error: ServingError) -> JsonObject:
        """In the form of BentoML's own errors."""
        return bentoml.describe(error)


def with_policy(send: Send) -> Send:
    """ASGI's send, which puts the policy on pages of HTML."""

    async def send_more(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message["headers"])
            if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                headers.append((b"content-security-policy", PAGE_POLICY.encode()))
            message = {**message, "headers": headers}
        await send(message)

    return send_more


async def _describe_routes(_: Iterable[Header]) -> tuple[Header, bytes]:
    return JSON, await asyncio.to_thread(document)


class Watched:
    """ASGI's send, which notes what the audit log tells of an answer."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self._headers: dict[bytes, bytes] = {}

    async def __call__(self, message: Message) -> None:
        """Send a message."""
        if message["type"] == "http.response.start":
            self.status, self._headers = message["status"], dict(message["headers"])
        await self._send(message)

    def record(self, audit: AuditLog, scope: Scope, sender: str) -> None:
        """Write the line of this request. sender: who it came from, if not from the holder of a key."""
        visit, client = current_visit(), scope.get("client")
        audit.write(
            sender or ("" if visit is None else visit.key.name or "anybody"),
            f"{scope['method']} {scope['path']}",
            status=self.status,
            model="" if visit is None else visit.model,
            version=self._headers.get(b"x-model-version", b"").decode("latin-1"),
            address=str(client[0]) if client else "",
            request_id=self._headers.get(b"x-request-id", b"").decode("latin-1"),
        )


class DataPlane:
    """ASGI app around `inner`, which is BentoML's."""

    def __init__(self, front: Front, inner: App) -> None:
        self._inner = inner
        self._access = front.access
        self._hosts = front.hosts
        self._origins = front.settings.cors_origins
        openai, scoring = OpenAI(front), MLflowScoring(front)
        rerank, tokens = Rerank(front), Tokens(front)
        self.huggingface = HuggingFace(front, openai)
        self.hooks = Hooks(front.settings, front.nudge)
        self.page = UiPage()
        self.others = Others(inner, front)
        self._handlers: dict[str, Handler] = {
            "models": self.huggingface,
            "v1": openai,
            "v2": KServe(front),
            "invocations": scoring,
            "ping": scoring,
            "version": scoring,
            "hooks": self.hooks,
            "ui": self.page,
            "rerank": rerank,
            "tokenize": tokens,
            "detokenize": tokens,
            "admin": Administration(front),
        }
        self._of_models: dict[str, Handler] = {"rerank": rerank, "tokenize": tokens, "detokenize": tokens}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask for the key, then dispatch by the first segment of the path."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
        if scope["type"] != "http":  # no route speaks WebSocket
            return
        parts = scope["path"].rstrip("/").split("/")[1:]
        handler = self._choose(parts)
        forget_visit()
        if self._access.audit is None:
            await self._admit(handler, parts, scope, receive, send)
            return
        watched = Watched(send)
        try:
            await self._admit(handler, parts, scope, receive, watched)
        finally:
            is_hook = handler is self.hooks and watched.status < HTTPStatus.BAD_REQUEST
            watched.record(self._access.audit, scope, "mlflow webhook" if is_hook else "")

    def _choose(self, parts: list[str]) -> Handler:
        """The handler of a path. parts: its segments."""
        match parts:
            case ["models", _, last] if last in self._of_models:
                return self._of_models[last]
            case ["v1" | "v2", "rerank"]:
                return self._handlers["rerank"]
            case [first, *_]:
                return self._handlers.get(first, self.others)
            case _:
                return self.others

    async def _admit(self, handler: Handler, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        """Look at host, origin and key before anything else, and answer or refuse."""
        try:
            self._hosts.check(scope)
            if self._access.is_open:  # a page knows no key
                check_origin(scope, self._origins)
            if _CONTROL.search(scope["path"]):  # patterns of routes let a line feed pass at their end
                raise UnknownModel("the path has a control character: no route and no model has one")
        except ServingError as error:
            await self._refuse(handler, parts, scope, send, error)
            return
        is_public = handler is self.page or (handler is self.hooks and self.hooks.are_signed)
        if is_public or not self._access.is_watched:
            await self._answer(handler, parts, scope, receive, send)
            return
        try:
            visit = self._access.admit(scope["headers"])
        except ServingError as error:
            await self._refuse(handler, parts, scope, send, error)
            return
        visit.begin()
        try:
            await self._answer(handler, parts, scope, receive, send)
        finally:
            visit.leave()

    async def _answer(self, handler: Handler, parts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if parts in OPERATORS:
                self._access.check_admin(f"/{parts[0]}")
            await handler(parts, scope, receive, send)
        except ServingError as error:
            await self._refuse(handler, parts, scope, send, error)

    async def _refuse(self, handler: Handler, parts: list[str], scope: Scope, send: Send, error: ServingError) -> None:
        """Send an error of no protocol, such as a missing key, in the form of the protocol that was asked."""
        if handler is self.huggingface and parts[2:3] == ["v1"]:
            handler = self._handlers["v1"]
        body = encode_json(handler.describe(error))
        await refuse(send, error, RequestContext.read(scope["headers"]), body)
