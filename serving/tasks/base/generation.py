"""What the generating tasks share on the front's side: the request's settings, checked, and the answer of a text.

A text is a row; its settings travel in `Row.extra`. Settings that a request leaves open are the checkpoint's own
(`generation_config.json`). The engine's side is `serving.decoding`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NoReturn, Self

import msgspec
import numpy

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.processors.detokenizer import TextReader
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.task import Batch, Served, Task, probe_text
from serving.wire.messages import FINISHES, EncodedRow, Part, RowArrays, SamplingSettings

MOST_TEXTS = 16
"""Texts that may be asked for one input; ours."""
MOST_LOGPROBS = 20
"""Likeliest tokens that may be asked for each place; as OpenAI has it."""

PROBE_TOKENS = 16
"""New tokens of a measured row; ours."""

Positive = Annotated[int, msgspec.Meta(ge=1)]
PositiveNumber = Annotated[float, msgspec.Meta(gt=0.0, le=100.0)]
Share = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
Count = Annotated[int, msgspec.Meta(ge=1, le=MOST_TEXTS)]
Top = Annotated[int, msgspec.Meta(ge=0, le=MOST_LOGPROBS)]
Stop = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class GenerationParameters(TextParameters, frozen=True):
    """max_new_tokens: at most this many; default: the contract's. do_sample: draw tokens, do not take the likeliest.

    temperature, top_k, top_p, seed: of the draw; any of them implies it. repetition_penalty: above 1 discourages.
    stop: strings that end a text and do not show in it. n, num_return_sequences: texts for each input. logprobs,
    top_n_tokens: how many of the likeliest tokens are told for each place, beside the one that was taken. details:
    whether the answer tells tokens and why it ended. add_special_tokens: whether the tokenizer adds its own; a chat
    template has them already.
    """

    max_new_tokens: Positive | None = None
    do_sample: bool | None = None
    temperature: PositiveNumber | None = None
    top_k: Positive | None = None
    top_p: Share | None = None
    repetition_penalty: PositiveNumber | None = None
    seed: Seed | None = None
    stop: Annotated[list[Stop], msgspec.Meta(max_length=16)] | None = None
    n: Count | None = None
    num_return_sequences: Count | None = None
    logprobs: Top | None = None
    top_n_tokens: Top | None = None
    details: bool = False
    add_special_tokens: bool = True

    @property
    def texts(self) -> int:
        """How many texts an input gets."""
        return self.n or self.num_return_sequences or 1

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are told; None for no scores at all."""
        wanted = self.top_n_tokens if self.logprobs is None else self.logprobs
        return 0 if wanted is None and self.details else wanted


class GenerationDefaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """max_new_tokens: of a request that names no number. limit_new_tokens: the most that one may ask for."""

    max_new_tokens: Positive = 64
    limit_new_tokens: Positive = 2048


class GeneratingTask(Task):
    """A task whose rows are written token by token; the engine does it, not a forward pass of the task's own."""

    generates = True
    example_parameters: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 8, "do_sample": False}

    def probe(self, contract: Contract, length: int) -> EncodedRow:
        """A text and some tokens after it, `length` together."""
        new = min(PROBE_TOKENS, length // 2)
        row = probe_text(contract, length - new, extra=SamplingSettings(max(1, new), do_sample=False).pack())
        return msgspec.structs.replace(row, new_tokens=max(1, new))

    def prepare(self, model: Any, contract: Contract) -> None:
        """Finished rows are filled with the contract's padding; the request's number of tokens is the only limit."""
        model.generation_config.pad_token_id = contract.processor.pad_token_id
        model.generation_config.max_length = None

    def forward(self, model: Any, batch: Batch) -> NoReturn:
        """Never called."""
        raise TypeError(f"{self.name} is written token by token: serving.decoding does it")


def count_new_tokens(parameters: GenerationParameters, defaults: GenerationDefaults) -> int:
    """The most tokens that the request lets a text have; raises Unprocessable past the contract's bound."""
    count = parameters.max_new_tokens or min(defaults.max_new_tokens, defaults.limit_new_tokens)
    if count > defaults.limit_new_tokens:
        raise Unprocessable(
            f"parameters.max_new_tokens is {count:,}, this model writes at most {defaults.limit_new_tokens:,} a request"
        )
    return count


def make_rows(row: EncodedRow, parameters: GenerationParameters, count: int, **search: Any) -> list[EncodedRow]:
    """The rows of an input's texts: `row` with its settings, once for each. Raises Unprocessable.

    search: `SamplingSettings` of a beam search. With a seed the texts have the seeds after it, one each.
    """
    drawn = {name: getattr(parameters, name) for name in ("temperature", "top_k", "top_p", "seed")}
    given = next((name for name, value in drawn.items() if value is not None), None)
    if given and parameters.do_sample is False:
        raise Unprocessable(f"parameters.{given} needs do_sample: leave it out, or let do_sample be true")
    if None not in (parameters.n, parameters.num_return_sequences) and parameters.n != parameters.num_return_sequences:
        raise Unprocessable("parameters.n and num_return_sequences are two names of one number: leave one out")
    seed = drawn.pop("seed")
    settings = SamplingSettings(
        max_new_tokens=count,
        do_sample=True if given else parameters.do_sample,
        repetition_penalty=parameters.repetition_penalty,
        stop=tuple(parameters.stop or ()),
        top=parameters.top,
        **drawn,
        **search,
    )
    rows = []
    for index in range(parameters.texts):
        own = settings if seed is None else msgspec.structs.replace(settings, seed=(seed + index) % 2**63)
        rows.append(EncodedRow(row.length, row.tokens, kind=row.kind, extra=own.pack(), new_tokens=count))
    return rows


def to_arrays(part: Part) -> RowArrays:
    """A whole text as a row's arrays, which `Text.read` reads: ids, scores, top ids, top scores, (finish,)."""
    ids = numpy.frombuffer(part.tokens, dtype=numpy.int32)
    shape = (len(ids), -1) if len(ids) else (0, 0)
    return [
        ids,
        numpy.frombuffer(part.logprobs, dtype=numpy.float32),
        numpy.frombuffer(part.top_ids, dtype=numpy.int32).reshape(shape),
        numpy.frombuffer(part.top_logprobs, dtype=numpy.float32).reshape(shape),
        numpy.asarray([FINISHES.index(part.finish) if part.finish else -1]),
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
    """One text, whole. finish: a word of `messages.FINISHES`. tokens: all that were written, empty without scores.

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
        return cls(text, FINISHES[int(arrays[4][0])], len(ids), read_scores(arrays, encoder))


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


def answer(rows: Sequence[RowArrays], parameters: Any, served: Served, field: str, before: str = "") -> list[Any]:
    """An input's texts as the Hugging Face inference API has them: `[{field: text, "details": …}, …]`.

    before: what stands before each text.
    """
    answers: list[dict[str, Any]] = []
    for arrays in rows:
        text = Text.read(arrays, parameters.stop or (), served.encoder)
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
