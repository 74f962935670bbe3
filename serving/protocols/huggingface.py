"""`/models…`: the shape of the Hugging Face inference API, and what is served."""

from functools import partial
from typing import Any

from serving.errors import ServingError, UnknownModel
from serving.http import JSON, encode_json
from serving.protocols.base import Exchange, Protocol, headers_of, no_route
from serving.request import parse_body
from serving.table import describe_model


class HuggingFace(Protocol):
    """`GET /models[/{name}]`, `POST /models/{name}[/versions/{version}]`."""

    name = "huggingface"

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """By the parts after `models`."""
        parts = parts[1:]
        method = exchange.scope["method"]
        if not parts:
            exchange.expect("GET")
            await self._list(exchange)
        elif len(parts) == 1 and method == "GET":
            await self._describe(parts[0], exchange)
        elif len(parts) == 1 or (len(parts) == 3 and parts[1] == "versions"):
            exchange.expect("POST")
            await self._predict(parts[0], parts[2] if len(parts) == 3 else None, exchange)
        else:
            raise no_route("POST /models/{name} or /models/{name}/versions/{version}")

    def describe(self, error: ServingError) -> Any:
        """As text-generation-inference does it."""
        return {"error": error.message, "error_type": error.reason}

    async def _list(self, exchange: Exchange) -> None:
        models = [describe_model(name, entry) for name, entry in self.front.table.models.items()]
        await exchange.respond_json({"models": models, "registry_error": self.front.table.registry_error or None})

    async def _describe(self, name: str, exchange: Exchange) -> None:
        entry = self.front.table.models.get(name)
        if entry is None:
            self.front.find(name, None)
            raise UnknownModel(f"ask for the model by its name alone, without an alias: {name}")
        await exchange.respond_json(describe_model(name, entry))

    async def _predict(self, name: str, version: str | None, exchange: Exchange) -> None:
        settings = self.front.settings
        body = await exchange.body(settings.max_body_bytes)
        answer = await self.front.answer(
            name,
            version,
            partial(parse_body, body, max_rows=settings.max_rows),
            protocol=self.name,
            write=encode_json,
            gone=exchange.gone,
            trail=exchange.trail,
        )
        await exchange.respond(answer.value, JSON, *headers_of(answer))
