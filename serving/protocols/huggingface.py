"""`/models…`: the shape of the Hugging Face inference API, and what is served."""

from functools import partial
from typing import Any

from serving.errors import ServingError, UnknownModel
from serving.front import Gone
from serving.http import JSON, Header, Whole, encode_json, refusal, respond
from serving.protocols.base import Exchange, Protocol, as_error, headers_of, no_route
from serving.request import parse_body
from serving.table import describe_model
from serving.trail import Trail


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

    async def predict(self, name: str, version: str | None, body: bytes, headers: list[Header], gone: Gone) -> Whole:
        """The answer of a POST that streams nothing. gone: returns when the client has left. Never raises."""
        trail = Trail.read(headers)
        try:
            return await self._whole(name, version, body, trail, gone)
        except Exception as raised:  # the edge, as for every protocol
            error = as_error(raised, trail)
            return refusal(error, trail, encode_json(self.describe(error)))

    async def _predict(self, name: str, version: str | None, exchange: Exchange) -> None:
        body = await exchange.body(self.front.settings.max_body_bytes)
        whole = await self._whole(name, version, body, exchange.trail, exchange.gone)
        exchange.has_begun = True
        await respond(exchange.send, *whole)

    async def _whole(self, name: str, version: str | None, body: bytes, trail: Trail, gone: Gone) -> Whole:
        answer = await self.front.answer(
            name,
            version,
            partial(parse_body, body, max_rows=self.front.settings.max_rows),
            protocol=self.name,
            write=encode_json,
            gone=gone,
            trail=trail,
        )
        return 200, answer.value, [JSON, *headers_of(answer), trail.header]
