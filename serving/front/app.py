"""The data plane: an ASGI app around BentoML's.

It answers the protocols of its table, `/metrics` and `/openapi.json` itself, without BentoML's middleware, and passes
other paths on. `openapi.routes` declares all routes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from monitoring.exposition import CONTENT_TYPE
from serving.errors import ServingError, WrongMethod
from serving.front.asgi import App, Receive, Scope, Send, buffer_body, encode_json, refuse, respond
from serving.front.front import Front
from serving.front.metrics_page import MetricsPage
from serving.front.openapi.document import document
from serving.front.protocols.huggingface import HuggingFace
from serving.front.protocols.kserve import KServe
from serving.front.protocols.mlflow import MLflowScoring
from serving.front.protocols.openai import OpenAI
from serving.front.request_context import RequestContext
from serving.front.webhook import Hooks

Handler = Callable[[list[str], Scope, Receive, Send], Awaitable[None]]
Page = tuple[str, Callable[[], Awaitable[bytes]]]
"""A content type, and what makes the content."""


class DataPlane:
    """ASGI app around `inner`, which is BentoML's."""

    def __init__(self, front: Front, inner: App) -> None:
        self._inner = inner
        self._max_body_bytes = front.settings.max_body_bytes
        self._pages: dict[str, Page] = {
            "metrics": (CONTENT_TYPE, MetricsPage(front).render),
            "openapi.json": ("application/json", partial(asyncio.to_thread, document)),
        }
        openai, scoring = OpenAI(front), MLflowScoring(front)
        self.huggingface = HuggingFace(front, openai)
        self._handlers: dict[str, Handler] = {
            "models": self.huggingface,
            "v1": openai,
            "v2": KServe(front),
            "invocations": scoring,
            "ping": scoring,
            "version": scoring,
            "hooks": Hooks(front.settings, front.nudge),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Dispatch by the first segment of the path."""
        if scope["type"] == "http":
            parts = scope["path"].rstrip("/").split("/")[1:]
            handler = self._handlers.get(parts[0]) if parts else None
            if handler is not None:
                await handler(parts, scope, receive, send)
                return
            page = self._pages.get(parts[0]) if len(parts) == 1 else None
            if page is not None:
                await _show(page, scope, send)
                return
            try:
                receive = await buffer_body(scope, receive, self._max_body_bytes)
            except ServingError as error:  # in the form of BentoML's own errors
                context = RequestContext.read(scope["headers"])
                await refuse(send, error, context, encode_json({"error": error.message}))
                return
        await self._inner(scope, receive, send)


async def _show(page: Page, scope: Scope, send: Send) -> None:
    """Answer a request for a page."""
    context, (kind, render) = RequestContext.read(scope["headers"]), page
    if scope["method"] in ("GET", "HEAD"):
        await respond(send, 200, await render(), [(b"content-type", kind.encode()), context.header])
        return
    error = WrongMethod(scope["method"], "GET")
    await refuse(send, error, context, encode_json({"error": error.message, "error_type": error.reason}))
