"""`/models…`: the Hugging Face inference API, text-generation-inference's streams, and the list of models."""

from contextlib import suppress

import msgspec

from headwaiter import __version__
from serving.errors import NotLoaded, ServingError, UnknownModel, Unprocessable
from serving.front.asgi import JSON, Header, JsonObject, Response, encode_answer, encode_json, refusal, respond
from serving.front.attempts import only_text_streams
from serving.front.disconnects import Disconnected
from serving.front.front import Front
from serving.front.loaded_version import LoadedVersion, UnloadedVersion
from serving.front.model_description import describe_model, outline_model
from serving.front.protocols.base import Exchange, Protocol, as_error, headers_of, no_route, version_header
from serving.front.protocols.forms import read_json
from serving.front.protocols.openai import OpenAI
from serving.front.request_context import RequestContext
from serving.front.text_stream import TextDelta
from serving.tasks.base.generated_text import describe_token
from serving.tasks.base.request import Request, parse_body
from serving.tasks.base.task import AnyTask


class HuggingFace(Protocol):
    """`GET /models[/{name}[/health|/info]]`, `POST /models/{name}[/versions/{version}]`.

    `/models/{name}/v1…` are OpenAI's routes.
    """

    name = "huggingface"

    def __init__(self, front: Front, openai: OpenAI) -> None:
        super().__init__(front)
        self._openai = openai

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Dispatch by the segments after `models`."""
        all_parts, parts = parts, parts[1:]
        method = exchange.scope["method"]
        if not parts:
            exchange.expect("GET")
            await self._list(exchange)
        elif len(parts) == 1 and method != "POST":
            exchange.expect("GET", "POST")
            await self._describe(parts[0], exchange)
        elif len(parts) == 2 and parts[1] in ("health", "info"):
            exchange.expect("GET")
            if parts[1] == "info":
                known = self.front.models.known(parts[0], None)
                if isinstance(known, LoadedVersion):
                    known.choose_link()
                await exchange.respond_json(self._info(known))
            else:
                with suppress(NotLoaded):
                    self.front.models.find(parts[0], None).choose_link()
                await exchange.respond_json({"status": "ok"})
        elif len(parts) == 1 or (len(parts) == 3 and parts[1] == "versions"):
            exchange.expect("POST")
            await self._predict(parts[0], parts[2] if len(parts) == 3 else None, exchange)
        elif parts[1] == "v1":
            await self._openai(all_parts, exchange.scope, exchange.receive, exchange.send)
        else:
            raise no_route(
                "POST /models/{name} or /models/{name}/versions/{version}, "
                "GET /models/{name}, /models/{name}/health or /models/{name}/info"
            )

    def describe(self, error: ServingError) -> JsonObject:
        """As in text-generation-inference."""
        return {"error": error.message, "error_type": error.reason}

    async def _list(self, exchange: Exchange) -> None:
        is_admin = self.front.access.caller().admin
        describe = describe_model if is_admin else outline_model
        models = [describe(name, entry) for name, entry in self.front.models.all().items()]
        of_server = self.front.describe() if is_admin else {}
        await exchange.respond_json({"models": models, **of_server})

    async def _describe(self, name: str, exchange: Exchange) -> None:
        entry = self.front.models.all().get(name)
        if entry is None:
            self.front.models.find(name, None)
            raise UnknownModel(f"ask for the model by its name alone, without an alias: {name}")
        describe = describe_model if self.front.access.caller().admin else outline_model
        await exchange.respond_json(describe(name, entry))

    def _info(self, known: LoadedVersion | UnloadedVersion) -> JsonObject:
        """The model in the fields of text-generation-inference's `/info` that apply to every task."""
        return {
            "model_id": known.model,
            "model_sha": known.version,
            "model_pipeline_tag": known.contract.task,
            "model_type": known.contract.model_type,
            "max_input_tokens": known.contract.max_tokens,
            "max_client_batch_size": self.front.settings.max_rows,
            "router": "headwaiter",
            "version": __version__,
        }

    def refuse_unread(self, name: str, version: str | None, headers: list[Header]) -> Response | None:
        """The refusal of a POST that finds its queue full; None for one that `predict` is to answer."""
        found = self.front.refuse_unread(name, version, self.name, headers)
        if found is None:
            return None
        error, context = found
        return refusal(error, context, encode_json(self.describe(error)))

    async def predict(
        self, name: str, version: str | None, body: bytes, headers: list[Header], disconnected: Disconnected
    ) -> Response:
        """The answer of a POST that is no stream. disconnected: returns when the client has left. Never raises."""
        context = RequestContext.read(headers)
        try:
            wants_stream, body = _take_stream(body, self.front.settings.max_rows)
            return await self._whole(name, version, body, context, disconnected, wants_stream=wants_stream)
        except Exception as raised:  # the edge, as for every protocol
            error = as_error(raised, context)
            return refusal(error, context, encode_json(self.describe(error)))

    async def _predict(self, name: str, version: str | None, exchange: Exchange) -> None:
        settings = self.front.settings
        wants_stream, body = _take_stream(await exchange.body(settings.max_body_bytes), settings.max_rows)
        if wants_stream:
            await self._stream(name, version, body, exchange)
            return
        whole = await self._whole(name, version, body, exchange.context, exchange.disconnected)
        await respond(exchange.send, *whole)

    async def _whole(
        self,
        name: str,
        version: str | None,
        body: bytes,
        context: RequestContext,
        disconnected: Disconnected,
        *,
        wants_stream: bool = False,
    ) -> Response:
        def read(task: AnyTask) -> Request:
            request = parse_body(body, task, self.front.settings.max_rows)
            if wants_stream:
                raise only_text_streams(name.partition("@")[0], task)
            return request

        answer = await self.front.answer(
            name, version, read, protocol=self.name, write=encode_answer, disconnected=disconnected, context=context
        )
        return 200, answer.value, [JSON, *headers_of(answer), context.header]

    async def _stream(self, name: str, version: str | None, body: bytes, exchange: Exchange) -> None:
        settings, seed = self.front.settings, None

        def read(task: AnyTask) -> Request:
            nonlocal seed
            request = parse_body(body, task, settings.max_rows)
            if task.generates:
                if request.is_list or request.parameters.texts > 1:
                    raise Unprocessable("stream is of one text: send one input, and ask for one text")
                seed = request.parameters.seed
                # every event has its token's score, as in text-generation-inference
                request = msgspec.structs.replace(request, parameters=request.parameters.with_scores())
            return request

        stream = await self.front.stream(
            name, version, read, protocol=self.name, disconnected=exchange.disconnected, context=exchange.context
        )
        async with stream:
            await stream.start()
            events = await exchange.begin_events(settings.timeout_seconds, version_header(stream.version))
            whole, count = "", 0
            async for delta in stream:
                whole += delta.text
                tokens = _tokens(delta)
                for place, token in enumerate(tokens, start=1):
                    count += 1
                    ended: JsonObject = {"generated_text": None, "details": None}
                    if delta.finish and place == len(tokens):
                        details = {
                            "finish_reason": delta.finish,
                            "generated_tokens": delta.generated_tokens,
                            "input_length": stream.prompt_tokens,
                            "seed": seed,
                        }
                        ended = {"generated_text": whole, "details": details}
                    await events.tell(encode_json({"index": count} | token | ended))
            await events.end()


def _tokens(delta: TextDelta) -> list[JsonObject]:
    """One event for each token of a delta. The last event has the delta's text, the others an empty text."""
    found: list[JsonObject] = []
    for place, token_id in enumerate(delta.token_ids, start=1):
        score = delta.logprobs[place - 1] if place <= len(delta.logprobs) else None
        text = delta.text if place == len(delta.token_ids) else ""
        token = (
            {"id": token_id, "text": "", "logprob": None, "special": False} if score is None else describe_token(score)
        )
        found.append({"token": token | {"text": text}})
        if score is not None and score.top:
            found[-1]["top_tokens"] = [
                {"id": other, "text": word, "logprob": value, "special": False} for other, word, value in score.top
            ]
    return found


def _take_stream(body: bytes, max_rows: int) -> tuple[bool, bytes]:
    """Whether a body asks for a stream, and the body without the field `stream`."""
    if b'"stream"' not in body:
        return False, body
    fields = read_json(body, max_rows)
    if "stream" not in fields:
        return False, body
    wanted = fields.pop("stream")
    if not isinstance(wanted, bool | None):
        raise Unprocessable(f"stream: expected true or false, got {type(wanted).__name__}")
    return bool(wanted), encode_json(fields)
