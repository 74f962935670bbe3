"""`POST /v1/completions`, and what it shares with `/v1/chat/completions` (`openai_chat`): texts, complete or streamed.

Both go through `Front.stream`, also for complete answers: a text may take longer than a request's deadline, as
long as its tokens come in time.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import ClassVar, Generic, TypeVar

from serving.errors import Unprocessable
from serving.front.asgi import JSON, JsonObject, encode_json
from serving.front.front import Front
from serving.front.protocols.base import Exchange, timing_header, version_header
from serving.front.protocols.forms import (
    OTHER_TASK,
    Texts,
    convert_texts,
    named_model,
    read_form,
    read_json,
    refuse_unknown,
    renamed,
)
from serving.front.protocols.openai_forms import (
    UNSUPPORTED,
    WITHOUT_EFFECT,
    GenerationForm,
    WholeText,
    gather,
    shown,
    to_parameters,
    usage,
)
from serving.front.text_stream import TextDelta, TextStream
from serving.front.turns import ANSWERS, Turns
from serving.front.waiter import deadline_in
from serving.tasks.base.fields import drop_unsupported
from serving.tasks.base.generated_text import TokenScore
from serving.tasks.base.request import Request
from serving.tasks.base.task import AnyTask

FormType = TypeVar("FormType", bound=GenerationForm)


class CompletionRoute(ABC, Generic[FormType]):
    """One of the two routes. Subclasses define the prompt and the shape of a choice."""

    form: type[FormType]
    prefix: ClassVar[str]
    """The prefix of an answer's id."""
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    names: ClassVar[dict[str, str]]
    """The task's field names → the route's, where they differ."""

    def __init__(self, front: Front) -> None:
        self._front = front

    @abstractmethod
    def read(
        self, form: FormType, fields: JsonObject, model: str, task: AnyTask
    ) -> Request | Callable[[Turns], Awaitable[Request]]:
        """Make the task's request, or return what makes it in turns. Raises Unprocessable, TooLarge."""

    @abstractmethod
    def choice(self, index: int, text: WholeText, form: FormType) -> JsonObject:
        """The choice of a complete text."""

    @abstractmethod
    def chunks(self, delta: TextDelta, form: FormType, told: dict[int, int]) -> Iterator[JsonObject]:
        """The choices of a delta's chunks. told: the texts that had a chunk, with the characters of their tokens so
        far; brought up to date here.
        """

    async def answer(self, model: str | None, exchange: Exchange) -> None:
        """Answer one request. `model` from the path overrides the body's."""
        fields = read_json(await exchange.body(self._front.settings.max_body_bytes), self._front.settings.max_rows)
        with renamed(self.names):
            form = read_form(fields, self.form)
            drop_unsupported(fields, UNSUPPORTED)
            stream = await self._open(model, form, fields, exchange)
            async with stream:
                if form.stream:
                    await self._tell(stream, form, model, exchange)
                    return
                texts = await gather(stream)
        head = self._head(stream, form, model, exchange) | {"object": self.kind, "usage": usage(stream)}

        def write() -> bytes:
            choices = [self.choice(index, text, form) for index, text in enumerate(texts)]
            return encode_json(head | {"choices": choices})

        has_scores = any(text.tokens for text in texts)  # which can be large
        if has_scores:
            with Turns(deadline_in(self._front.settings.timeout_seconds), exchange.disconnected) as turns:
                body = await turns.hand_over(ANSWERS, write)
        else:
            body = write()
        await exchange.respond(body, JSON, version_header(stream.version), timing_header(stream.stages))

    async def _open(self, model: str | None, form: FormType, fields: JsonObject, exchange: Exchange) -> TextStream:
        name, version = named_model(model or form.model)

        def read(task: AnyTask) -> Request | Callable[[Turns], Awaitable[Request]]:
            if not task.generates:
                raise Unprocessable(f"model {name!r} does {task.name} and writes no texts: {OTHER_TASK}")
            refuse_unknown(fields, self.form, task, *WITHOUT_EFFECT)
            return self.read(form, fields, model or form.model or "", task)

        return await self._front.stream(
            name, version, read, protocol="openai", disconnected=exchange.disconnected, context=exchange.context
        )

    async def _tell(self, stream: TextStream, form: FormType, model: str | None, exchange: Exchange) -> None:
        await stream.start()
        events = await exchange.begin_events(self._front.settings.timeout_seconds, version_header(stream.version))
        head = self._head(stream, form, model, exchange) | {"object": self.chunk_kind}
        more: dict[str, object] = {"usage": None} if form.has_usage else {}
        told: dict[int, int] = {}
        async for delta in stream:
            for choice in self.chunks(delta, form, told):
                await events.tell(encode_json(head | {"choices": [choice]} | more))
        if form.has_usage:
            await events.tell(encode_json(head | {"choices": [], "usage": usage(stream)}))
        await events.tell(b"[DONE]")
        await events.end()

    def _head(self, stream: TextStream, form: FormType, model: str | None, exchange: Exchange) -> dict[str, object]:
        """The fields that a complete answer and each chunk have in common."""
        return {
            "id": f"{self.prefix}-{exchange.context.request_id}",
            "created": int(time.time()),
            "model": form.model or model,
            "system_fingerprint": f"{model or form.model}/{stream.version}",
        }


class CompletionForm(GenerationForm, frozen=True, kw_only=True):
    """prompt: a text or several, or their token ids. logprobs: likeliest tokens per position.

    echo: whether the prompt comes first.
    """

    prompt: Texts
    logprobs: int | None = None
    echo: bool | None = None


class Completions(CompletionRoute[CompletionForm]):
    """Continuations of prompts; of a text2text model, the texts generated from prompts."""

    form = CompletionForm
    prefix = "cmpl"
    kind = chunk_kind = "text_completion"
    names = {"inputs": "prompt", "max_new_tokens": "max_tokens"}

    def read(self, form: CompletionForm, fields: JsonObject, model: str, task: AnyTask) -> Request:
        """One input per prompt."""
        prompts = [form.prompt] if isinstance(form.prompt, str) else form.prompt
        more: JsonObject = {"logprobs": form.logprobs}
        if form.echo:
            if form.logprobs is not None or "return_full_text" not in task.parameters_type.__struct_fields__:
                raise Unprocessable("echo goes with text-generation, and without logprobs: leave it out", field="echo")
            more["return_full_text"] = True
        parameters = to_parameters(form, fields, task, **more)
        return convert_texts(prompts, parameters, task, self._front.settings.max_rows, "prompt")

    def choice(self, index: int, text: WholeText, form: CompletionForm) -> JsonObject:
        """Text, finish reason, scores."""
        scores = None if form.logprobs is None else _completion_scores(text.tokens)
        return {"index": index, "text": text.text, "finish_reason": text.finish_reason, "logprobs": scores}

    def chunks(self, delta: TextDelta, form: CompletionForm, told: dict[int, int]) -> Iterator[JsonObject]:
        """One chunk, unless the delta is empty. Offsets go on from the text's chunk before."""
        tokens = shown(delta.logprobs)
        start = told.get(delta.index, 0)
        told[delta.index] = start + sum(len(token.text) for token in tokens)
        if delta.text or tokens or delta.finish:
            yield {
                "index": delta.index,
                "text": delta.text,
                "finish_reason": delta.finish_reason,
                "logprobs": None if form.logprobs is None else _completion_scores(tokens, start),
            }


def _completion_scores(tokens: Sequence[TokenScore], start: int = 0) -> JsonObject:
    """start: the characters of the text's tokens before these."""
    offsets, at = [], start
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{text: score for _, text, score in token.top} for token in tokens],
        "text_offset": offsets,
    }
