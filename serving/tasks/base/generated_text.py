"""A text that was written: from a row's arrays to tokens, scores and the answer, on the front's side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy

from serving.processors.detokenizer import TextReader
from serving.tasks.base.task import VersionContext
from serving.wire.messages import FINISH_REASONS, RowArrays, TokenDelta


def to_arrays(part: TokenDelta) -> RowArrays:
    """A whole text as a row's arrays, which `Text.read` reads: ids, scores, top ids, top scores, (finish,)."""
    ids = numpy.frombuffer(part.tokens, dtype=numpy.int32)
    shape = (len(ids), -1) if len(ids) else (0, 0)
    return [
        ids,
        numpy.frombuffer(part.logprobs, dtype=numpy.float32),
        numpy.frombuffer(part.top_ids, dtype=numpy.int32).reshape(shape),
        numpy.frombuffer(part.top_logprobs, dtype=numpy.float32).reshape(shape),
        numpy.asarray([FINISH_REASONS.index(part.finish) if part.finish else -1]),
    ]


@dataclass(frozen=True)
class TokenScore:
    """A token that was written. logprob: natural logarithm of its probability, before the request's settings change it.

    top: (id, text, logprob) of the likeliest tokens at its place, best first. is_special: whether texts leave it out.
    """

    id: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...] = ()
    is_special: bool = False


@dataclass(frozen=True)
class Text:
    """One text, whole. finish: a word of `messages.FINISH_REASONS`. tokens: all written, empty without scores.

    generated_tokens: how many were written, those of a stop string included.
    """

    text: str
    finish: str
    generated_tokens: int
    tokens: tuple[TokenScore, ...]

    @classmethod
    def read(cls, arrays: RowArrays, stops: Sequence[str], encoder: Any) -> Self:
        """From a row's arrays."""
        ids = arrays[0].tolist()
        text = TextReader(encoder, stops).push(ids, is_last=True)
        return cls(text, FINISH_REASONS[int(arrays[4][0])], len(ids), read_scores(arrays, encoder))


def read_scores(arrays: RowArrays, encoder: Any) -> tuple[TokenScore, ...]:
    """The tokens of a row's arrays with their scores; empty where none were asked for."""
    ids, scores, top_ids, top_scores = (array.tolist() for array in arrays[:4])
    if not scores:
        return ()
    tops: list[list[int]] = top_ids or [[]] * len(ids)
    found = []
    for index, (token, score) in enumerate(zip(ids, scores, strict=True)):
        top = tuple(
            (other, encoder.read([other], skip_special_tokens=False), value)
            for other, value in zip(tops[index], top_scores[index] if top_scores else [], strict=True)
        )
        text = encoder.read([token], skip_special_tokens=False)
        found.append(TokenScore(token, text, score, top, is_special=not encoder.read([token])))
    return tuple(found)


def answer(
    rows: Sequence[RowArrays], parameters: Any, version: VersionContext, field: str, before: str = ""
) -> list[Any]:
    """An input's texts as the Hugging Face inference API has them: `[{field: text, "details": …}, …]`.

    before: what stands before each text.
    """
    answers: list[dict[str, Any]] = []
    for arrays in rows:
        text = Text.read(arrays, parameters.stop or (), version.encoder)
        answers.append({field: before + text.text})
        if parameters.details:
            answers[-1]["details"] = describe(text, parameters.seed)
    return answers


def describe(text: Text, seed: int | None) -> dict[str, Any]:
    """The details of a text, as text-generation-inference has them."""
    details: dict[str, Any] = {
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


def describe_token(token: TokenScore) -> dict[str, Any]:
    """A token of the details."""
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "special": token.is_special}
