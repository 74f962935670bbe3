"""`POST /v1/chat/completions`: messages → the assistant's next one, complete or streamed."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Annotated

import msgspec

from serving.errors import Unprocessable
from serving.front.asgi import JsonObject
from serving.front.protocols.forms import named_model
from serving.front.protocols.openai_completions import CompletionRoute
from serving.front.protocols.openai_forms import GenerationForm, WholeText, shown, to_parameters
from serving.front.text_stream import TextDelta
from serving.front.turns import CHATS, Turns
from serving.tasks.base.generated_text import TokenScore
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

MAX_MESSAGES = 10_000
"""Of a chat. Untuned: more than fit any model's limit of tokens, with the marks around each."""
ChatTurn = Annotated[
    JsonObject,
    msgspec.Meta(
        extra_json_schema={
            "properties": {"role": {"type": "string"}, "content": {"type": ["string", "array", "null"]}},
            "required": ["role"],
        }
    ),
]
"""Only the document says what a message has: see `_messages`."""


class ChatForm(GenerationForm, frozen=True, kw_only=True):
    """messages: see `_messages`. chat_template_kwargs: further variables of the template, such as `enable_thinking`."""

    messages: Annotated[list[ChatTurn], msgspec.Meta(max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    chat_template_kwargs: JsonObject = {}


class Chat(CompletionRoute[ChatForm]):
    """The assistant's next message in a chat."""

    form = ChatForm
    prefix = "chatcmpl"
    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    names = {"inputs": "messages", "max_new_tokens": "max_completion_tokens", "logprobs": "top_logprobs"}

    def read(
        self, form: ChatForm, fields: JsonObject, model: str, task: AnyTask
    ) -> Callable[[Turns], Awaitable[Request]]:
        """One input: the chat, rendered with the model's template in a thread."""
        # the front found the version in this same turn of the event loop, so this is the same one
        template = self._front.models.find(*named_model(model)).version_context.chat
        if template is None:
            raise Unprocessable(
                f"model {model!r} has no chat template: ask /v1/completions, or log a tokenizer that has one",
                field="messages",
            )
        render = partial(template.render, max_characters=self._front.bounds.characters)
        render = partial(render, _messages(form.messages), form.chat_template_kwargs)

        async def work(turns: Turns) -> Request:
            prompt = await turns.hand_over(CHATS, render)
            return self._convert(prompt, form, fields, task)

        return work

    def _convert(self, prompt: str, form: ChatForm, fields: JsonObject, task: AnyTask) -> Request:
        """The request for a rendered chat."""
        if form.top_logprobs is not None and not form.logprobs:
            raise Unprocessable("top_logprobs needs logprobs to be true", field="top_logprobs")
        most = form.max_tokens if form.max_completion_tokens is None else form.max_completion_tokens
        more = {
            "max_new_tokens": most,
            "logprobs": (form.top_logprobs or 0) if form.logprobs else None,
            "add_special_tokens": False,
        }
        return convert_request([prompt], to_parameters(form, fields, task, **more), task, self._front.settings.max_rows)

    def choice(self, index: int, text: WholeText, form: ChatForm) -> JsonObject:
        """Message, finish reason, scores."""
        return {
            "index": index,
            "message": {"role": "assistant", "content": text.text, "refusal": None},
            "finish_reason": text.finish_reason,
            "logprobs": _chat_scores(text.tokens) if form.logprobs else None,
        }

    def chunks(self, delta: TextDelta, form: ChatForm, told: dict[int, int]) -> Iterator[JsonObject]:
        """First a chunk with the role, then the text, then a chunk with the finish reason."""
        if delta.index not in told:
            told[delta.index] = 0
            yield _delta(delta.index, {"role": "assistant", "content": ""})
        tokens = shown(delta.logprobs)
        if delta.text or tokens:
            yield _delta(delta.index, {"content": delta.text}, _chat_scores(tokens) if form.logprobs else None)
        if delta.finish:
            yield _delta(delta.index, {}, None, delta.finish_reason)


def _delta(
    index: int, delta: dict[str, str], scores: JsonObject | None = None, finish_reason: str | None = None
) -> JsonObject:
    return {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": scores}


def _messages(messages: Sequence[JsonObject]) -> list[JsonObject]:
    """Messages whose text parts are joined by line breaks. Raises Unprocessable for parts that are not text."""
    if not messages:
        raise Unprocessable("messages is an empty list: it needs at least one message", field="messages")
    return [message | {"content": _content(message, f"messages[{at}]")} for at, message in enumerate(messages)]


def _content(message: JsonObject, where: str) -> str | None:
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


def _chat_scores(tokens: Sequence[TokenScore]) -> JsonObject:
    return {
        "content": [
            _scored(token.text, token.logprob)
            | {"top_logprobs": [_scored(text, score) for _, text, score in token.top]}
            for token in tokens
        ],
        "refusal": None,
    }


def _scored(text: str, logprob: float) -> JsonObject:
    is_whole = "\ufffd" not in text
    return {"token": text, "logprob": logprob, "bytes": list(text.encode()) if is_whole else None}
