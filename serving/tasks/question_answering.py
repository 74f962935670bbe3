"""question-answering: the span of a context that answers a question, with its place in the context.

The rules are those of transformers' former `QuestionAnsweringPipeline` (last in 4.57): the question stands before each
window of the context, or behind it where the tokenizer pads on the left; windows overlap by `doc_stride` tokens; the
softmax of each window runs over its context (and the first token, which means "no answer"); a span's score is the
product of its ends' probabilities; and spans snap to words. Spans that two windows both find are one answer, with the
better score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypedDict

import msgspec
import numpy

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.tasks.base.agreement import Agreement
from serving.tasks.base.answers import softmax
from serving.tasks.base.cost import OBJECT_BYTES, answer_text
from serving.tasks.base.fields import Natural, Positive
from serving.tasks.base.scoring import Scoring, exact_match, f1_words
from serving.tasks.base.task import Batch, Task
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import AnyArray, Encoded, RowArrays

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding
    from transformers import PreTrainedModel

MASKED = -10_000.0
TOKEN_BYTES = 128
"""Memory of a token of a window: in the tokenizer's encoding, the row, and the two arrays of its logits."""
MAX_ANSWER_TOKENS = 512
"""Bounds the spans of a window that are compared. Untuned: answers are spans of a few words, 15 tokens by default."""


class Question(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A question and the text that may hold its answer."""

    question: str
    context: str


class Parameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """top_k: answers, best first; a single answer is not in a list. max_answer_len: tokens of an answer.

    max_seq_len: tokens of a window, at most the model's. doc_stride: tokens that neighbouring windows share, at most
    half a window. handle_impossible_answer: whether the empty answer is a candidate. align_to_words: whether answers
    begin and end at words. max_question_len: most tokens of the question.
    """

    top_k: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    max_answer_len: Annotated[int, msgspec.Meta(ge=1, le=MAX_ANSWER_TOKENS)] = 15
    max_seq_len: Positive = 384
    doc_stride: Natural = 128
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    max_question_len: Positive | None = None


@dataclass(frozen=True)
class Windows:
    """A context and the encodings of its windows, for the offsets."""

    context: str
    encodings: "Sequence[Encoding]"


@dataclass(frozen=True)
class Span:
    """A candidate answer: characters of the context, score in 0..1."""

    score: float
    start: int
    end: int


class Answer(TypedDict):
    """A span of the context. start, end: its characters, `end` not included. score: 0..1."""

    score: float
    start: int
    end: int
    answer: str


class QuestionAnswering(Task[Question, Parameters, Windows]):
    """(rows, tokens) start and end logits → themselves, float32, cut to each row's tokens."""

    name = "question-answering"
    takes_pairs = True
    item_type = Question
    parameters_type = Parameters
    item_hint = 'send {"question": …, "context": …}'
    example = (
        {"question": "Where do I live?", "context": "My name is Wolfgang and I live in Berlin."},
        {
            "question": "Who flew to New York?",
            "context": "Angela flew from Paris to New York with Air France, and wrote to the UN from there.",
        },
    )

    def has_tokens(self, batch_key: str) -> bool:
        """Always."""
        return True

    def scoring(self, contract: Contract) -> Scoring:
        """By SQuAD's metrics; several answers may be accepted."""
        return Scoring(
            str | Annotated[list[str], msgspec.Meta(min_length=1)],
            "the right answer, or a list of those that are accepted",
            lambda answer: answer["answer"],
            {"exact_match": exact_match, "f1": f1_words},
            settle=lambda accepted: [accepted] if isinstance(accepted, str) else accepted,
        )

    def agreement(self, one: Answer | list[Answer], other: Answer | list[Answer], contract: Contract) -> Agreement:
        """F1 over the characters of the best answers' spans."""
        first, second = (answer[0] if isinstance(answer, list) else answer for answer in (one, other))
        spans = [range(answer["start"], answer["end"]) for answer in (first, second)]
        both = len(range(max(span.start for span in spans), min(span.stop for span in spans)))
        total = sum(map(len, spans))
        return Agreement(2 * both / total if total else 1.0, abs(first["score"] - second["score"]))

    def answer_bytes(self, encoded: Encoded[Windows], parameters: Parameters, version: VersionContext) -> int:
        """Answers with texts of the context, chosen among those of each window; the windows are kept until then."""
        windows = TOKEN_BYTES * sum([row.length for row in encoded.rows])
        candidates = parameters.top_k * len(encoded.rows)
        answers = parameters.top_k * answer_text(len(encoded.decode_context.context))
        return windows + OBJECT_BYTES * candidates + answers

    def encode(self, item: Question, parameters: Parameters, version: VersionContext) -> Encoded[Windows]:
        """One row per window."""
        if parameters.max_question_len is not None:
            tokens = len(version.tokenizer.tokenize(item.question))
            if tokens > parameters.max_question_len:
                raise Unprocessable(
                    f"inputs.question has {tokens} tokens, parameters.max_question_len is "
                    f"{parameters.max_question_len}: shorten the question, or raise max_question_len"
                )
        found = version.tokenizer.windows(
            item.context, item.question, stride=parameters.doc_stride, max_tokens=parameters.max_seq_len
        )
        return Encoded([row for row, _ in found], Windows(item.context, [encoding for _, encoding in found]))

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """Start and end logits."""
        output = model(**batch.inputs)
        return output.start_logits.float(), output.end_logits.float()

    def decode(
        self, rows: Sequence[RowArrays], windows: Windows, parameters: Parameters, version: VersionContext
    ) -> Answer | list[Answer]:
        """`{"score", "start", "end", "answer"}`, or a list of them."""
        context = windows.context
        spans: dict[tuple[int, int], Span] = {}
        nothing = 1.0
        for encoding, (starts, ends) in zip(windows.encodings, rows, strict=True):
            found, none = _read_window(encoding, starts, ends, parameters, version)
            nothing = min(nothing, none)
            for span in found:
                known = spans.get((span.start, span.end))
                if known is None or known.score < span.score:
                    spans[span.start, span.end] = span
        if parameters.handle_impossible_answer:
            spans[0, 0] = Span(nothing, 0, 0)
        best = sorted(spans.values(), key=lambda span: -span.score)[: parameters.top_k]
        answers: list[Answer] = [
            {"score": span.score, "start": span.start, "end": span.end, "answer": context[span.start : span.end]}
            for span in best
        ] or [{"score": 0.0, "start": 0, "end": 0, "answer": ""}]
        return answers[0] if parameters.top_k == 1 else answers


def _read_window(
    encoding: "Encoding", starts: AnyArray, ends: AnyArray, parameters: Parameters, version: VersionContext
) -> tuple[list[Span], float]:
    """A window's best spans, and the probability that it has no answer."""
    cls_token_id, context = version.contract.processor.cls_token_id, version.tokenizer.text_sequence
    in_context = numpy.asarray([sequence == context for sequence in encoding.sequence_ids])
    counted = in_context | (numpy.asarray(encoding.ids) == (-1 if cls_token_id is None else cls_token_id))
    first, last = (softmax(numpy.where(counted, logits, MASKED)) for logits in (starts, ends))
    nothing = float(first[0] * last[0])
    first, last = numpy.where(in_context, first, 0.0), numpy.where(in_context, last, 0.0)
    offsets, word_ids = encoding.offsets, encoding.word_ids
    spans = []
    for start, end, score in best_spans(first, last, parameters.max_answer_len, parameters.top_k):
        where = _characters(encoding, offsets, word_ids, start, end, parameters.align_to_words)
        spans.append(Span(score, *where))
    return spans, nothing


def best_spans(first: AnyArray, last: AnyArray, max_tokens: int, top_k: int) -> list[tuple[int, int, float]]:
    """The first and last token and the score of the best spans of at most `max_tokens`, best first; none of score 0.

    first, last: (tokens,) float32, the probability that a span begins and ends at each token.
    """
    width = min(max_tokens, len(last))
    followed = numpy.concatenate([last, numpy.zeros(width - 1, last.dtype)])
    flat = (first[:, None] * numpy.lib.stride_tricks.sliding_window_view(followed, width)).ravel()  # start, length - 1
    count = min(top_k, flat.size)
    places = numpy.argpartition(-flat, count - 1)[:count] if count < flat.size else numpy.arange(flat.size)
    order = places[numpy.argsort(-flat[places], kind="stable")].tolist()
    spans = [(place // width, place // width + place % width, float(flat[place])) for place in order]
    return [span for span in spans if span[2] > 0.0]


def _characters(
    encoding: "Encoding",
    offsets: Sequence[tuple[int, int]],
    word_ids: Sequence[int | None],
    start: int,
    end: int,
    align_to_words: bool,
) -> tuple[int, int]:
    """The characters of the tokens from `start` to `end`. offsets, word_ids: of the encoding, which copies them."""
    first, last = offsets[start][0], offsets[end][1]
    opening, closing = word_ids[start], word_ids[end]
    if align_to_words and opening is not None and closing is not None:
        words = encoding.word_to_chars(opening, 1), encoding.word_to_chars(closing, 1)
        if words[0] is not None and words[1] is not None:
            return int(words[0][0]), int(words[1][1])
    return first, last


TASK = QuestionAnswering()
