"""`POST /v1/embeddings`: one vector per text, from a model whose task makes embeddings."""

import base64
from typing import Any, Literal

import msgspec
import numpy

from serving.errors import Unprocessable
from serving.front.asgi import JSON, JsonObject, encode_answer, encode_json
from serving.front.front import Front
from serving.front.protocols.base import Exchange, headers_of
from serving.front.protocols.forms import (
    Texts,
    named_model,
    pick_parameters,
    read_form,
    read_json,
    refuse_unknown,
    renamed,
)
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask


class EmbeddingForm(msgspec.Struct, frozen=True):
    """input: a text or a list of texts. encoding_format: of the vectors; base64 encodes little-endian float32."""

    input: Texts
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"


class Embeddings:
    """The route. The task's parameters, such as `dimensions`, are fields beside `input`."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def answer(self, model: str | None, exchange: Exchange) -> None:
        """Answer one request. `model` from the path overrides the body's."""
        settings = self._front.settings
        fields = read_json(await exchange.body(settings.max_body_bytes), settings.max_rows)
        form = read_form(fields, EmbeddingForm)
        if _holds_ids(form.input):
            raise Unprocessable("input holds token ids: send text; the server tokenizes it itself", field="input")

        def read(task: AnyTask) -> Request:
            if not task.embeds:
                raise Unprocessable(f"model {name!r} does {task.name}: it makes no embeddings")
            refuse_unknown(fields, EmbeddingForm, task, "user")
            request = convert_request(form.input, pick_parameters(fields, task), task, settings.max_rows)
            if not all(isinstance(item, str) for item in request.items):
                raise Unprocessable("input: expected a text or a list of texts", field="input")
            return request

        def write(vectors: Any) -> msgspec.Raw:
            vectors = vectors if isinstance(form.input, list) else [vectors]
            if isinstance(vectors[0][0], list):
                raise Unprocessable(
                    "the model's contract pools nothing, so a text has a vector for each token: pass "
                    '"pooling": "mean", or log the model with --default pooling=mean'
                )
            return msgspec.Raw(encode_answer([_entry(index, vector, form) for index, vector in enumerate(vectors)]))

        name, version = named_model(model or form.model)
        with renamed({"inputs": "input"}):
            answer = await self._front.answer(
                name,
                version,
                read,
                protocol="openai",
                write=write,
                disconnected=exchange.disconnected,
                context=exchange.context,
            )
        usage = {"prompt_tokens": answer.stages.tokens, "total_tokens": answer.stages.tokens}
        body = {"object": "list", "data": answer.value, "model": form.model or model, "usage": usage}
        await exchange.respond(encode_json(body), JSON, *headers_of(answer))


def _entry(index: int, vector: list[float], form: EmbeddingForm) -> JsonObject:
    embedding: object = vector
    if form.encoding_format == "base64":
        embedding = base64.b64encode(numpy.asarray(vector, dtype="<f4").tobytes()).decode()
    return {"object": "embedding", "index": index, "embedding": embedding}


def _holds_ids(given: object) -> bool:
    return isinstance(given, list) and bool(given) and isinstance(given[0], int | list)
