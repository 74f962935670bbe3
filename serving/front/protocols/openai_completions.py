"""`POST /v1/completions` and `/v1/chat/completions`: texts, whole or as they are written.

Both go through `Front.stream`, also where the answer is whole: then a text may take longer than a request's deadline,
as long as its tokens come in time, and a client that leaves frees its rows at once.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from serving.errors import EngineLost, Unprocessable
from serving.front.asgi import encode_json
from serving.front.front import Front
from serving.front.protocols.base import Exchange, timing_header, version_header
from serving.front.protocols.forms import named_model, read_form, read_json, renamed
from serving.front.protocols.openai_forms import (
    Form,
    WholeText,
    gather,
    refuse_unsupported,
    shown,
    to_parameters,
    usage,
)
from serving.front.text_stream import Piece, TextStream
from serving.tasks.base.generated_text import TokenScore
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask


class Writer(ABC):
    """One of the two routes. Subclasses say what a prompt is and how a choice looks."""

    form: ClassVar[type[Form]]
    prefix: ClassVar[str]
    """Of an answer's id."""
    kind: ClassVar[str]
    chunk_kind: ClassVar[str]
    names: ClassVar[dict[str, str]]
    """The task's fields as the route's clients call them."""

    def __init__(self, front: Front) -> None:
        self._front = front

    @abstractmethod
    def read(self, form: Any, fields: dict[str, Any], model: str, task: AnyTask) -> Request:
        """The task's request; raises Unprocessable."""

    @abstractmethod
    def choice(self, index: int, text: WholeText, form: Any) -> dict[str, Any]:
        """A whole text."""

    @abstractmethod
    def chunks(self, piece: Piece, form: Any, begun: set[int]) -> Iterator[dict[str, Any]]:
        """The choices of the chunks that a piece makes. begun: the texts that had one; is added to."""

    async def answer(self, model: str | None, exchange: Exchange) -> None:
        """model: where the path names it."""
        fields = read_json(await exchange.body(self._front.settings.max_body_bytes))
        with renamed(self.names):
            form = read_form(fields, self.form)
            refuse_unsupported(fields)
            stream = await self._open(model, form, fields, exchange)
            head = {
                "id": f"{self.prefix}-{exchange.trail.request_id}",
                "created": int(time.time()),
                "model": form.model or model,
                "system_fingerprint": f"{model or form.model}/{stream.version}",
            }
            async with stream:
                if form.stream:
                    await self._tell(stream, form, head, exchange)
                    return
                try:
                    texts = await gather(stream)
                except EngineLost:  # once more, as nothing has left yet
                    stream = await self._open(model, form, fields, exchange)
                    texts = await gather(stream)
        choices = [self.choice(index, text, form) for index, text in enumerate(texts)]
        body = head | {"object": self.kind, "choices": choices, "usage": usage(stream)}
        await exchange.respond_json(body, version_header(stream.version), timing_header(stream.stages))

    async def _open(self, model: str | None, form: Form, fields: dict[str, Any], exchange: Exchange) -> TextStream:
        name, version = named_model(model or form.model)

        def read(task: AnyTask) -> Request:
            if not task.generates:
                raise Unprocessable(f"model {name!r} does {task.name}: it writes no texts")
            return self.read(form, fields, model or form.model or "", task)

        return await self._front.stream(
            name, version, read, protocol="openai", gone=exchange.gone, trail=exchange.trail
        )

    async def _tell(self, stream: TextStream, form: Form, head: dict[str, Any], exchange: Exchange) -> None:
        events = await exchange.begin_events(self._front.settings.timeout_seconds, version_header(stream.version))
        head |= {"object": self.chunk_kind}
        more: dict[str, Any] = {"usage": None} if form.has_usage else {}
        begun: set[int] = set()
        async for piece in stream:
            for choice in self.chunks(piece, form, begun):
                await events.tell(encode_json(head | {"choices": [choice]} | more))
        if form.has_usage:
            await events.tell(encode_json(head | {"choices": [], "usage": usage(stream)}))
        await events.tell(b"[DONE]")
        await events.end()


class CompletionForm(Form, frozen=True, kw_only=True):
    """prompt: a text or several. logprobs: likeliest tokens told for each place. echo: the prompt comes first."""

    prompt: Any
    logprobs: int | None = None
    echo: bool | None = None


class Completions(Writer):
    """Texts that go on from prompts; of a text2text model, texts made from them."""

    form = CompletionForm
    prefix = "cmpl"
    kind = chunk_kind = "text_completion"
    names = {"inputs": "prompt", "max_new_tokens": "max_tokens"}

    def read(self, form: Any, fields: dict[str, Any], model: str, task: AnyTask) -> Request:
        """One input a prompt."""
        prompts = form.prompt if isinstance(form.prompt, list) else [form.prompt]
        if prompts and not isinstance(prompts[0], str):
            raise Unprocessable("prompt: send a text or texts; the server tokenizes them itself", field="prompt")
        more: dict[str, Any] = {"logprobs": form.logprobs}
        if form.echo:
            if form.logprobs is not None or "return_full_text" not in task.parameters_type.__struct_fields__:
                raise Unprocessable("echo is of prompts without logprobs, and of text-generation", field="echo")
            more["return_full_text"] = True
        return convert_request(prompts, to_parameters(form, fields, task, **more), task, self._front.settings.max_rows)

    def choice(self, index: int, text: WholeText, form: Any) -> dict[str, Any]:
        """Its text and why it ended."""
        scores = None if form.logprobs is None else _completion_scores(text.tokens)
        return {"index": index, "text": text.text, "finish_reason": text.finish_reason, "logprobs": scores}

    def chunks(self, piece: Piece, form: Any, begun: set[int]) -> Iterator[dict[str, Any]]:
        """One, unless nothing is new."""
        tokens = shown(piece.logprobs)
        if piece.text or tokens or piece.finish:
            yield {
                "index": piece.index,
                "text": piece.text,
                "finish_reason": piece.finish_reason,
                "logprobs": None if form.logprobs is None else _completion_scores(tokens),
            }


class ChatForm(Form, frozen=True, kw_only=True):
    """messages: see `_messages`. chat_template_kwargs: more variables for the template, as `enable_thinking`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: dict[str, Any] = {}


class Chat(Writer):
    """The assistant's next message."""

    form = ChatForm
    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    names = {"inputs": "messages", "max_new_tokens": "max_completion_tokens", "logprobs": "top_logprobs"}

    def read(self, form: Any, fields: dict[str, Any], model: str, task: AnyTask) -> Request:
        """One input, the rendered chat."""
        # nothing else runs between the front's own look at the table and this one, so it is the same version
        template = self._front.routes.find(*named_model(model)).served.chat
        if template is None:
            raise Unprocessable(
                f"model {model!r} has no chat template: ask /v1/completions, or log a tokenizer that has one",
                field="messages",
            )
        prompt = template.render(_messages(form.messages), **form.chat_template_kwargs)
        if form.top_logprobs is not None and not form.logprobs:
            raise Unprocessable("top_logprobs needs logprobs to be true", field="top_logprobs")
        more = {
            "max_new_tokens": form.max_completion_tokens or form.max_tokens,
            "logprobs": (form.top_logprobs or 0) if form.logprobs else None,
            "add_special_tokens": False,
        }
        return convert_request([prompt], to_parameters(form, fields, task, **more), task, self._front.settings.max_rows)

    def choice(self, index: int, text: WholeText, form: Any) -> dict[str, Any]:
        """The message and why it ended."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": text.text},
            "finish_reason": text.finish_reason,
            "logprobs": _chat_scores(text.tokens) if form.logprobs else None,
        }

    def chunks(self, piece: Piece, form: Any, begun: set[int]) -> Iterator[dict[str, Any]]:
        """First the role, then what is new, and why it ended by itself."""
        if piece.index not in begun:
            begun.add(piece.index)
            yield _delta(piece.index, {"role": "assistant", "content": ""})
        tokens = shown(piece.logprobs)
        if piece.text or tokens:
            yield _delta(piece.index, {"content": piece.text}, _chat_scores(tokens) if form.logprobs else None)
        if piece.finish:
            yield _delta(piece.index, {}, None, piece.finish_reason)


def _delta(index: int, delta: dict[str, str], scores: Any = None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": scores}


def _messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with their text parts joined by line ends; raises Unprocessable for what is not text."""
    if not messages:
        raise Unprocessable("messages is an empty list: it needs at least one message", field="messages")
    return [message | {"content": _content(message, f"messages[{at}]")} for at, message in enumerate(messages)]


def _content(message: dict[str, Any], where: str) -> str | None:
    if not isinstance(message.get("role"), str):
        raise Unprocessable(f"{where}.role: expected a text, as user, assistant or system", field="messages")
    content = message.get("content")
    if content is None and message["role"] == "assistant":
        return ""
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, dict) else type(part).__name__
                raise Unprocessable(f"{where}.content has a part of type {kind}: only text is read", field="messages")
        return "\n".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Unprocessable(f"{where}.content: expected a text or a list of text parts", field="messages")
    return content


def _completion_scores(tokens: Sequence[TokenScore]) -> dict[str, Any]:
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{text: score for _, text, score in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _chat_scores(tokens: Sequence[TokenScore]) -> dict[str, Any]:
    return {
        "content": [
            _scored(token.text, token.logprob)
            | {"top_logprobs": [_scored(text, score) for _, text, score in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _scored(text: str, logprob: float) -> dict[str, Any]:
    is_whole = "\ufffd" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if is_whole else None}
