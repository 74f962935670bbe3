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
    OTHER_TASK,
    Texts,
    convert_texts,
    named_model,
    pick_parameters,
    read_form,
    read_json,
    refuse_unknown,
    renamed,
)
from serving.tasks.base.fields import Name
from serving.tasks.base.request import Request
from serving.tasks.base.task import AnyTask
from serving.wire.messages import AnyArray

OutputDtype = Literal["float", "int8", "uint8", "binary", "ubinary"]
"""As the field is called and has its values in Mistral's and Voyage's interfaces."""


class EmbeddingForm(msgspec.Struct, frozen=True):
    """input: a text or several, or their token ids. encoding_format: numbers, or their bytes in base64.

    output_dtype: of the numbers, see `quantize`; float is little-endian float32.
    """

    input: Texts
    model: Name | None = None
    encoding_format: Literal["float", "base64"] = "float"
    output_dtype: OutputDtype = "float"


class Embeddings:
    """The route. The task's parameters, such as `dimensions`, are fields beside `input`."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def answer(self, model: str | None, exchange: Exchange) -> None:
        """Answer one request. `model` from the path overrides the body's."""
        settings = self._front.settings
        fields = read_json(await exchange.body(settings.max_body_bytes), settings.max_rows)
        form = read_form(fields, EmbeddingForm)

        def read(task: AnyTask) -> Request:
            if not task.embeds:
                raise Unprocessable(f"model {name!r} does {task.name} and makes no embeddings: {OTHER_TASK}")
            refuse_unknown(fields, EmbeddingForm, task, "user")
            return convert_texts(form.input, pick_parameters(fields, task), task, settings.max_rows, "input")

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
    if (form.encoding_format, form.output_dtype) != ("float", "float"):
        numbers = quantize(vector, form.output_dtype)
        is_text = form.encoding_format == "base64"
        embedding = base64.b64encode(numbers.tobytes()).decode() if is_text else numbers.tolist()
    return {"object": "embedding", "index": index, "embedding": embedding}


def quantize(vector: list[float], dtype: OutputDtype) -> AnyArray:
    """The vector's numbers in a smaller form.

    int8: each vector is scaled so that its largest number is 127 or -127, which keeps cosines. uint8: that plus 128.
    binary, ubinary: one bit a number, 1 where it is above 0, eight in a number with the first one highest, as
    sentence-transformers packs them (`quantize_embeddings`); binary is ubinary minus 128.
    """
    numbers = numpy.asarray(vector, dtype="<f4")
    if dtype == "float":
        return numbers
    if dtype in ("binary", "ubinary"):
        whole, shift = numpy.packbits(numbers > 0).astype(numpy.int16), 128 if dtype == "binary" else 0
        return (whole - shift).astype(numpy.int8 if dtype == "binary" else numpy.uint8)
    scaled = numpy.rint(numbers * (127 / max(float(numpy.abs(numbers).max()), 1e-12))).astype(numpy.int16)
    return scaled.astype(numpy.int8) if dtype == "int8" else (scaled + 128).astype(numpy.uint8)
