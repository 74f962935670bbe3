"""`/tokenize` and `/detokenize`: what a model's tokenizer makes of texts and of token ids. No engine is asked.

A body with `prompt` has the form of vLLM, one with `inputs` that of text-embeddings-inference.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, ParamSpec, TypeVar

import msgspec
from tokenizers import Encoding

from serving.errors import ServingError, Unprocessable
from serving.front.asgi import JSON, JsonObject, encode_json
from serving.front.attempts import FrontAnswer
from serving.front.loaded_version import LoadedVersion
from serving.front.protocols.base import Exchange, Protocol, headers_of, no_route
from serving.front.protocols.forms import named_model, read_form, read_json
from serving.front.turns import TEXTS, Turns
from serving.processors.clean_up import clean_up
from serving.processors.tokenizer import LONG_CHARACTERS, TextEncoder
from serving.tasks.base.bounds import RequestBounds
from serving.tasks.base.cost import NUMBER_BYTES, OBJECT_BYTES, ItemCost, answer_text
from serving.tasks.base.fields import Name

NAME_ONE = "name a model in the field model, or ask /models/{name}/tokenize"
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
VersionWork = Callable[[LoadedVersion, Turns], Awaitable[bytes]]
"""Makes the body of an answer."""


class PromptForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text to tokenize, in vLLM's form. return_token_strs: whether the answer has the vocabulary's texts, too."""

    prompt: str
    model: Name | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class TokenizeForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text or several to tokenize, in the form of text-embeddings-inference."""

    inputs: str | list[str]
    model: Name | None = None
    add_special_tokens: bool = True


class IdsForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Token ids that become a text, in vLLM's form."""

    tokens: list[Annotated[int, msgspec.Meta(ge=0, lt=2**31)]]
    model: Name | None = None
    skip_special_tokens: bool = False


class Tokens(Protocol):
    """The two routes. The model is that of the path or of the body, or the only one that is served."""

    name = "tokenize"

    async def route(self, parts: list[str], exchange: Exchange) -> None:
        """Answer one request."""
        model, (last, *more) = (parts[1], parts[2:]) if parts[0] == "models" else (None, parts)
        if more:
            raise no_route("POST /tokenize, /detokenize, /models/{name}/tokenize or /models/{name}/detokenize")
        exchange.expect("POST")
        settings = self.front.settings
        fields = read_json(await exchange.body(settings.max_body_bytes), settings.max_rows)
        if last == "detokenize":
            answer = await self._detokenize(model, read_form(fields, IdsForm), exchange)
        elif "inputs" in fields:
            answer = await self._list(model, read_form(fields, TokenizeForm), exchange)
        else:
            answer = await self._tokenize(model, read_form(fields, PromptForm), exchange)
        await exchange.respond(answer.value, JSON, *headers_of(answer))

    def describe(self, error: ServingError) -> JsonObject:
        """As in text-embeddings-inference."""
        return {"error": error.message, "error_type": error.reason}

    async def _tokenize(self, model: str | None, form: PromptForm, exchange: Exchange) -> FrontAnswer[bytes]:
        async def work(loaded: LoadedVersion, turns: Turns) -> bytes:
            self.front.bounds.check(ItemCost(1, len(form.prompt)))
            encoder = _encoder_of(loaded)
            found = await _do(turns, len(form.prompt), encoder.split, form.prompt, special=form.add_special_tokens)
            self.front.bounds.check_answer(2 * NUMBER_BYTES * len(found))
            return await _do(turns, len(form.prompt), _describe_prompt, found, encoder, form.return_token_strs)

        return await self._answer(model or form.model, work, exchange)

    async def _list(self, model: str | None, form: TokenizeForm, exchange: Exchange) -> FrontAnswer[bytes]:
        texts = [form.inputs] if isinstance(form.inputs, str) else form.inputs

        async def work(loaded: LoadedVersion, turns: Turns) -> bytes:
            self.front.bounds.check(ItemCost(len(texts), sum(map(len, texts))))
            encoder, answers, count = _encoder_of(loaded), [], 0
            for text in texts:
                if turns.is_over():
                    await turns.give()
                found = await _do(turns, len(text), encoder.split, text, special=form.add_special_tokens)
                count += len(found)
                self.front.bounds.check_answer(OBJECT_BYTES * count)
                answers.append(await _do(turns, len(text), _describe, text, found, encoder))
            return b"[" + b",".join(answers) + b"]"

        return await self._answer(model or form.model, work, exchange)

    async def _detokenize(self, model: str | None, form: IdsForm, exchange: Exchange) -> FrontAnswer[bytes]:
        async def work(loaded: LoadedVersion, turns: Turns) -> bytes:
            return await _do(turns, len(form.tokens), _join, form, _encoder_of(loaded), self.front.bounds)

        return await self._answer(model or form.model, work, exchange)

    async def _answer(self, model: str | None, work: VersionWork, exchange: Exchange) -> FrontAnswer[bytes]:
        name, version = named_model(model or self.only_model(NAME_ONE))
        context, left = exchange.context, exchange.disconnected
        return await self.front.prepare(name, version, work, protocol=self.name, disconnected=left, context=context)


def _encoder_of(loaded: LoadedVersion) -> TextEncoder:
    """The version's tokenizer. Raises Unprocessable for a model of images."""
    if loaded.contract.processor.image:
        raise Unprocessable(f"model {loaded.model!r} reads images and has no tokenizer: choose one that reads texts")
    return loaded.version_context.tokenizer


async def _do(
    turns: Turns, size: int, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Result:
    """The result of `work`, in a thread where much is to be read. size: in characters or tokens."""
    if size > LONG_CHARACTERS:
        return await turns.hand_over(TEXTS, work, *args, **kwargs)
    return work(*args, **kwargs)


def _describe_prompt(found: Encoding, encoder: TextEncoder, with_texts: bool) -> bytes:
    """A prompt's tokens as JSON. with_texts: whether with the vocabulary's texts."""
    words = [encoder.token_of(each) for each in found.ids] if with_texts else None
    head = {"count": len(found), "max_model_len": encoder.max_tokens}
    return encode_json({**head, "tokens": found.ids, "token_strs": words})


def _join(form: IdsForm, encoder: TextEncoder, bounds: RequestBounds) -> bytes:
    """The text of token ids as JSON.

    Raises Unprocessable for an id that the vocabulary does not have, and TooLarge for a text over the bound.
    """
    unknown = next((each for each in form.tokens if not encoder.has_id(each)), None)
    if unknown is not None:
        raise Unprocessable(
            f"tokens has the id {unknown}, which this model's tokenizer does not have: send ids of its vocabulary"
        )
    bounds.check_answer(answer_text(sum(len(encoder.token_of(each)) + 1 for each in form.tokens)))  # 1: a space
    text = encoder.read(form.tokens, skip_special_tokens=form.skip_special_tokens)
    return encode_json({"prompt": clean_up(text) if encoder.cleans_up else text})


def _describe(text: str, found: Encoding, encoder: TextEncoder) -> bytes:
    """A text's tokens as JSON. start, stop: of a token in the text, in characters; special tokens have none."""
    tokens: list[JsonObject] = []
    for token, (start, stop), special in zip(found.ids, found.offsets, found.special_tokens_mask, strict=True):
        place = {"start": None, "stop": None} if special else {"start": start, "stop": stop}
        shown = encoder.token_of(token) if special else text[start:stop]
        tokens.append({"id": token, "text": shown, "special": bool(special), **place})
    return encode_json(tokens)
