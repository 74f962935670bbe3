"""A generated text: from a row's arrays to tokens, scores and the answer. Front side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy

from serving.processors.detokenizer import TextReader
from serving.processors.tokenizer import TextEncoder
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import FINISH_REASONS, FinishReason, RowArrays, TokenDelta

if TYPE_CHECKING:
    from serving.tasks.base.generation import GenerationParameters

GeneratedText = dict[str, object]
"""The answer's entry of a text: the text, by a field of the task's own, and "details" where they were requested."""


def to_arrays(delta: TokenDelta) -> RowArrays:
    """A delta as a row's arrays, which `Text.read` reads: ids, scores, top ids, top scores, (finish,)."""
    ids = numpy.frombuffer(delta.tokens, dtype=numpy.int32)
    shape = (len(ids), -1) if len(ids) else (0, 0)
    return [
        ids,
        numpy.frombuffer(delta.logprobs, dtype=numpy.float32),
        numpy.frombuffer(delta.top_ids, dtype=numpy.int32).reshape(shape),
        numpy.frombuffer(delta.top_logprobs, dtype=numpy.float32).reshape(shape),
        numpy.asarray([FINISH_REASONS.index(delta.finish) if delta.finish else -1]),
    ]


@dataclass(frozen=True)
class TokenScore:
    """A generated token. logprob: natural logarithm of its probability, before the request's settings change it.

    top: (id, text, logprob) of the likeliest tokens at its position, best first. is_special: whether texts omit it.
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    is_special: bool = False


@dataclass(frozen=True)
class Text:
    """One complete text. tokens: all generated tokens with their scores, empty where none were requested.

    generated_tokens: their number, those of a stop string included.
    """

    text: str
    finish: FinishReason
    generated_tokens: int
    tokens: tuple[TokenScore, ...]

    @classmethod
    def read(cls, arrays: RowArrays, stops: Sequence[str], encoder: TextEncoder) -> Self:
        """From a row's arrays."""
        ids = arrays[0].tolist()
        text = TextReader(encoder, stops, cleans_up=encoder.cleans_up).push(ids, is_last=True)
        return cls(text, FINISH_REASONS[int(arrays[4][0])], len(ids), read_scores(arrays, encoder))


def read_scores(arrays: RowArrays, encoder: TextEncoder, *, is_begin: bool = True) -> tuple[TokenScore, ...]:
    """The tokens of a row's arrays with their scores; empty where none were requested.

    is_begin: whether the text begins with these tokens.
    """
    ids, scores, top_ids, top_scores = (array.tolist() for array in arrays[:4])
    if not scores:
        return ()
    tops: list[list[int]] = top_ids or [[]] * len(ids)
    found = []
    for index, (token, score) in enumerate(zip(ids, scores, strict=True)):
        top = tuple(
            (other, _read_token(other, encoder, is_first=is_begin and not index), value)
            for other, value in zip(tops[index], top_scores[index] if top_scores else [], strict=True)
        )
        text = _read_token(token, encoder, is_first=is_begin and not index)
        found.append(TokenScore(token, text, score, top, is_special=not encoder.read([token])))
    return tuple(found)


def _read_token(token: int, encoder: TextEncoder, *, is_first: bool) -> str:
    """What a token adds to a text. Decoders begin a text otherwise: without a space, or with WordPiece's `##`."""
    alone = encoder.read([token], skip_special_tokens=False)
    if is_first:
        return alone
    twice = encoder.read([token, token], skip_special_tokens=False)
    return (twice.startswith(alone) and twice[len(alone) :]) or alone


def answer(
    rows: Sequence[RowArrays], parameters: "GenerationParameters", version: VersionContext, field: str, before: str = ""
) -> list[GeneratedText]:
    """An input's texts as the Hugging Face inference API has them: `[{field: text, "details": …}, …]`.

    before: prefix of each text.
    """
    answers: list[GeneratedText] = []
    for arrays in rows:
        text = Text.read(arrays, parameters.stop or (), version.tokenizer)
        answers.append({field: before + text.text})
        if parameters.details:
            answers[-1]["details"] = describe(text, parameters.seed)
    return answers


def describe(text: Text, seed: int | None) -> dict[str, object]:
    """The details of a text, as text-generation-inference has them."""
    details: dict[str, object] = {
        "finish_reason": text.finish,
        "generated_tokens": text.generated_tokens,
        "seed": seed,
        "prefill": [],
        "tokens": [describe_token(token) for token in text.tokens],
    }
    if any(token.top for token in text.tokens):
        details["top_tokens"] = [
            [{"id": other, "text": word, "logprob": score, "special": False} for other, word, score in token.top]
            for token in text.tokens
        ]
    return details


def describe_token(token: TokenScore) -> dict[str, object]:
    """A token of the details."""
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.is_special}
