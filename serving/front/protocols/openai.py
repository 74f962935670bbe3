"""`/v1…`: OpenAI's routes and errors. `openai_completions`, `openai_chat` and `openai_embeddings` answer the bodies."""

import re
from contextlib import suppress
from typing import Protocol as TypingProtocol

from serving.errors import NotLoaded, ServingError
from serving.front.asgi import JsonObject
from serving.front.front import Front
from serving.front.protocols.base import Exchange, Protocol, no_route
from serving.front.protocols.forms import named_model
from serving.front.protocols.openai_chat import Chat
from serving.front.protocols.openai_completions import Completions
from serving.front.protocols.openai_embeddings import Embeddings
from serving.wire.routing_table import ModelEntry

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
CODES = {
    "unauthorized": "invalid_api_key",
    "unknown_model": "model_not_found",
    "queue_full": "rate_limit_exceeded",
    "key_limit": "rate_limit_exceeded",
    "not_ready": "service_unavailable",
}


class BodyRoute(TypingProtocol):
    """A route with a body. model: the name in the path, or None."""

    async def answer(self, model: str | None, exchange: Exchange) -> None:
        """Answer, or raise ServingError."""


class OpenAI(Protocol):
    """`/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/v1/embeddings`.

    A body's `model` is a name, `name@alias` or `name/version`.
    """

    name = "openai"

    def __init__(self, front: Front) -> None:
        super().__init__(front)
        self._routes: dict[str, BodyRoute] = {
            "completions": Completions(front),
            "chat/completions": Chat(front),
            "embeddings": Embeddings(front),
        }

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Dispatch by the segments after `v1`. Below `/models/{name}/v1`, `name` overrides the body's `model`."""
        model, parts = (parts[1], parts[3:]) if parts[0] == "models" else (None, parts[1:])
        handler = self._routes.get("/".join(parts))
        if handler is not None:
            exchange.expect("POST")
            await handler.answer(model, exchange)
        elif parts[:1] == ["models"] and len(parts) <= 3:
            exchange.expect("GET")
            await self._models("/".join(parts[1:]), exchange)
        else:
            raise no_route(f"GET /v1/models, POST {', '.join(f'/v1/{route}' for route in self._routes)}")

    def describe(self, error: ServingError) -> JsonObject:
        """In OpenAI's shape."""
        return describe_error(error)

    async def _models(self, name: str, exchange: Exchange) -> None:
        models = self.front.models.served()
        if not name:
            listed = [_describe_model(found, entry) for found, entry in models.items()]
            await exchange.respond_json({"object": "list", "data": listed})
            return
        with suppress(NotLoaded):
            self.front.models.find(*named_model(name))
        await exchange.respond_json(_describe_model(name, models[re.split("[@/]", name)[0]]))


def describe_error(error: ServingError) -> JsonObject:
    """An error in OpenAI's shape. `param` is the field that broke a rule."""
    kind = ERROR_TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.field or None,
            "code": CODES.get(error.reason, error.reason),
        }
    }


def _describe_model(name: str, entry: ModelEntry) -> JsonObject:
    live = [swap.time for swap in entry.swaps if swap.outcome == "success" and swap.to_version == entry.live]
    return {"id": name, "object": "model", "created": int(max(live, default=0)), "owned_by": "headwaiter"}
