"""`/rerank`, `/v1/rerank` and `/v2/rerank`: texts in the order in which they answer a query.

A body with `documents` has the form of Cohere and Jina, one with `texts` that of text-embeddings-inference; every route
takes both. As in these interfaces a score is a number from 0 to 1: the sigmoid of what the model gives.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import msgspec

from serving.errors import ServingError, Unprocessable
from serving.front.asgi import JSON, JsonObject, encode_answer
from serving.front.attempts import FrontAnswer
from serving.front.protocols.base import Exchange, Protocol, headers_of, no_route
from serving.front.protocols.forms import OTHER_TASK, named_model, read_form, read_json, renamed
from serving.tasks.base.answers import Ranked
from serving.tasks.base.fields import Name, drop_unsupported
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "max_chunks_per_doc": (1,),
    "max_tokens_per_doc": (),
    "priority": (0,),
    "rank_fields": (["text"],),
    "relevant_spans": ({"mode": "disabled"},),
    "return_embeddings": (False,),
}
"""Fields of Cohere and Jina that this server lacks, with the values that ask for nothing."""
NAME_ONE = "name a model in the field model, or ask /models/{name}/rerank"
Query = Annotated[str, msgspec.Meta(min_length=1)]


class DocumentsForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request of Cohere or Jina. documents: texts, or objects with a field `text`. top_n: length of the answer.

    return_documents: whether the answer has the documents. truncation: cut over-long texts instead of refusing them.
    """

    query: Query
    documents: Annotated[list[str | JsonObject], msgspec.Meta(min_length=1)]
    model: Name | None = None
    top_n: Annotated[int, msgspec.Meta(ge=1, lt=2**31)] | None = None
    return_documents: bool = False
    truncation: bool = True

    def texts(self) -> list[str]:
        """The texts of the documents. Raises Unprocessable for a document without one."""
        texts = [each if isinstance(each, str) else each.get("text") for each in self.documents]
        for at, text in enumerate(texts):
            if not isinstance(text, str):
                raise Unprocessable(f"documents[{at}]: expected a text or an object with text", field="documents")
        return [text for text in texts if isinstance(text, str)]

    def parameters(self) -> JsonObject:
        """The task's."""
        return {
            "top_k": self.top_n,
            "return_text": self.return_documents,
            "truncate": self.truncation,
            "function_to_apply": "sigmoid",
        }


class TextsForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request of text-embeddings-inference. raw_scores: the model's own numbers, not their sigmoid."""

    query: Query
    texts: Annotated[list[str], msgspec.Meta(min_length=1)]
    model: Name | None = None
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = False
    truncation_direction: Literal["left", "right", "Left", "Right"] | None = None

    def parameters(self) -> JsonObject:
        """The task's."""
        side = self.truncation_direction
        return {
            "return_text": self.return_text,
            "truncate": self.truncate,
            "truncation_direction": side.lower() if side else None,
            "function_to_apply": "none" if self.raw_scores else "sigmoid",
        }


class Rerank(Protocol):
    """The routes. The model is that of the path or of the body, or the only one that is served."""

    name = "rerank"

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Answer one request."""
        is_known = parts in (["rerank"], ["v1", "rerank"], ["v2", "rerank"])
        model = parts[1] if len(parts) == 3 and parts[0] == "models" and parts[2] == self.name else None
        if model is None and not is_known:
            raise no_route("POST /rerank, /v1/rerank, /v2/rerank or /models/{name}/rerank")
        exchange.expect("POST")
        settings = self.front.settings
        fields = read_json(await exchange.body(settings.max_body_bytes), settings.max_rows)
        await (self._texts if "texts" in fields else self._documents)(model, fields, exchange)

    def describe(self, error: ServingError) -> JsonObject:
        """The field of Cohere's errors, and those of text-embeddings-inference."""
        return {"message": error.message, "error": error.message, "error_type": error.reason}

    async def _texts(self, model: str | None, fields: JsonObject, exchange: Exchange) -> None:
        form = read_form(fields, TextsForm)
        asked = {"query": form.query, "texts": form.texts}
        name = model or form.model or self.only_model(NAME_ONE)
        answer = await self._rank(name, asked, form.parameters(), "texts", encode_answer, exchange)
        await exchange.respond(answer.value, JSON, *headers_of(answer))

    async def _documents(self, model: str | None, fields: JsonObject, exchange: Exchange) -> None:
        drop_unsupported(fields, UNSUPPORTED)
        form = read_form(fields, DocumentsForm)
        asked = {"query": form.query, "texts": form.texts()}

        def write(ranked: list[Ranked]) -> bytes:
            return encode_answer([_result(entry, form) for entry in ranked])

        name = model or form.model or self.only_model(NAME_ONE)
        answer = await self._rank(name, asked, form.parameters(), "documents", write, exchange)
        used = {"prompt_tokens": answer.stages.tokens, "total_tokens": answer.stages.tokens}
        head = {"id": exchange.context.request_id, "model": name, "usage": used}
        await exchange.respond_json(head | {"results": msgspec.Raw(answer.value)}, *headers_of(answer))

    async def _rank(
        self,
        model: str,
        asked: Mapping[str, object],
        parameters: JsonObject,
        field: str,
        write: Callable[[list[Ranked]], bytes],
        exchange: Exchange,
    ) -> FrontAnswer[bytes]:
        """The ranked texts, as `write` puts them. field: of the request, which has the texts."""
        name, version = named_model(model)

        def read(task: AnyTask) -> Request:
            if not task.ranks:
                raise Unprocessable(f"model {name!r} does {task.name} and ranks no texts: {OTHER_TASK}", field="model")
            return convert_request(asked, parameters, task, self.front.settings.max_rows)

        with renamed({"inputs": field, "top_k": "top_n"}):
            return await self.front.answer(
                name,
                version,
                read,
                protocol=self.name,
                write=write,
                disconnected=exchange.disconnected,
                context=exchange.context,
            )


def _result(entry: Ranked, form: DocumentsForm) -> JsonObject:
    result: JsonObject = {"index": entry["index"], "relevance_score": entry["score"]}
    if form.return_documents:
        document = form.documents[entry["index"]]
        result["document"] = {"text": document} if isinstance(document, str) else document
    return result
