"""`/models…`: the shape of the Hugging Face inference API and of text-generation-inference, and what is served."""

from functools import partial
from typing import Any

from serving.errors import ServingError, UnknownModel, Unprocessable
from serving.front.asgi import JSON, Header, Whole, encode_json, refusal, respond
from serving.front.front import Front, Gone
from serving.front.model_description import describe_model
from serving.front.protocols.base import Exchange, Protocol, as_error, headers_of, no_route, version_header
from serving.front.protocols.forms import read_json
from serving.front.protocols.openai import OpenAI
from serving.front.request_context import Trail
from serving.front.text_stream import Piece
from serving.tasks.base.generated_text import describe_token
from serving.tasks.base.request import Request, parse_body
from serving.tasks.base.task import AnyTask


class HuggingFace(Protocol):
    """`GET /models[/{name}]`, `POST /models/{name}[/versions/{version}]`; `/models/{name}/v1…` are OpenAI's routes."""

    name = "huggingface"

    def __init__(self, front: Front, openai: OpenAI) -> None:
        super().__init__(front)
        self._openai = openai

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """By the parts after `models`."""
        all_parts, parts = parts, parts[1:]
        method = exchange.scope["method"]
        if not parts:
            exchange.expect("GET")
            await self._list(exchange)
        elif len(parts) == 1 and method == "GET":
            await self._describe(parts[0], exchange)
        elif len(parts) == 1 or (len(parts) == 3 and parts[1] == "versions"):
            exchange.expect("POST")
            await self._predict(parts[0], parts[2] if len(parts) == 3 else None, exchange)
        elif parts[1] == "v1":
            await self._openai(all_parts, exchange.scope, exchange.receive, exchange.send)
        else:
            raise no_route("POST /models/{name} or /models/{name}/versions/{version}")

    def describe(self, error: ServingError) -> Any:
        """As text-generation-inference does it."""
        return {"error": error.message, "error_type": error.reason}

    async def _list(self, exchange: Exchange) -> None:
        models = [describe_model(name, entry) for name, entry in self.front.routes.table.models.items()]
        await exchange.respond_json({"models": models, **self.front.describe()})

    async def _describe(self, name: str, exchange: Exchange) -> None:
        entry = self.front.routes.table.models.get(name)
        if entry is None:
            self.front.routes.find(name, None)
            raise UnknownModel(f"ask for the model by its name alone, without an alias: {name}")
        await exchange.respond_json(describe_model(name, entry))

    async def predict(self, name: str, version: str | None, body: bytes, headers: list[Header], gone: Gone) -> Whole:
        """The answer of a POST that streams nothing. gone: returns when the client has left. Never raises."""
        trail = Trail.read(headers)
        try:
            wants_stream, body = _take_stream(body)
            if wants_stream:
                task = self.front.routes.find(name, version).task
                raise Unprocessable(f"{name} does {task.name}: only tasks that write texts can stream")
            return await self._whole(name, version, body, trail, gone)
        except Exception as raised:  # the edge, as for every protocol
            error = as_error(raised, trail)
            return refusal(error, trail, encode_json(self.describe(error)))

    async def _predict(self, name: str, version: str | None, exchange: Exchange) -> None:
        wants_stream, body = _take_stream(await exchange.body(self.front.settings.max_body_bytes))
        if wants_stream:
            await self._stream(name, version, body, exchange)
            return
        whole = await self._whole(name, version, body, exchange.trail, exchange.gone)
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

    async def _stream(self, name: str, version: str | None, body: bytes, exchange: Exchange) -> None:
        settings, seed = self.front.settings, None

        def read(task: AnyTask) -> Request:
            nonlocal seed
            request = parse_body(body, task, settings.max_rows)
            if task.generates:
                if request.is_list or request.parameters.texts > 1:
                    raise Unprocessable("stream is of one text: send one input, and ask for one text")
                seed = request.parameters.seed
            return request

        stream = await self.front.stream(
            name, version, read, protocol=self.name, gone=exchange.gone, trail=exchange.trail
        )
        async with stream:
            events = await exchange.begin_events(settings.timeout_seconds, version_header(stream.version))
            whole, count, last_id = "", 0, 0
            async for piece in stream:
                whole += piece.text
                last_id = piece.token_ids[-1] if piece.token_ids else last_id
                tokens = _tokens(piece, last_id)
                for place, token in enumerate(tokens, start=1):
                    count += 1
                    ended: dict[str, Any] = {"generated_text": None, "details": None}
                    if piece.finish and place == len(tokens):
                        details = {
                            "finish_reason": piece.finish,
                            "generated_tokens": piece.generated_tokens,
                            "input_length": stream.prompt_tokens,
                            "seed": seed,
                        }
                        ended = {"generated_text": whole, "details": details}
                    await events.tell(encode_json({"index": count} | token | ended))
            await events.end()


def _tokens(piece: Piece, last_id: int) -> list[dict[str, Any]]:
    """A piece as one event for each of its tokens, the text with the last; their texts together are the whole text.

    An end that tells no token, because a stop string swallowed it, is an event with the last one that was told.
    """
    if not piece.token_ids and not piece.text and not piece.finish:
        return []
    found: list[dict[str, Any]] = [
        {"token": {"id": token, "text": "", "logprob": None, "special": False}}
        for token in piece.token_ids or (last_id,)
    ]
    for entry, score in zip(found, piece.logprobs, strict=False):
        entry["token"] = describe_token(score) | {"text": ""}
        if score.top:
            entry["top_tokens"] = [
                {"id": other, "text": text, "logprob": value, "special": False} for other, text, value in score.top
            ]
    found[-1]["token"]["text"] = piece.text
    return found


def _take_stream(body: bytes) -> tuple[bool, bytes]:
    """Whether a body asks for a stream, and the body without that field."""
    if b'"stream"' not in body:
        return False, body
    fields = read_json(body)
    if "stream" not in fields:
        return False, body
    wanted = fields.pop("stream")
    if not isinstance(wanted, bool | None):
        raise Unprocessable(f"stream: expected true or false, got {type(wanted).__name__}")
    return bool(wanted), encode_json(fields)
