"""token-classification: labelled spans of a text, with their offsets into it.

The rules are those of transformers' `TokenClassificationPipeline` (5.23): what is a subword, how the tokens of a word
agree ("first", "average", "max"), and how neighbours of one label become a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired, TypedDict, assert_never

import msgspec
import numpy
from numpy.typing import NDArray

from registry.contract import Contract
from serving.processors.tokenizer import TextParameters
from serving.tasks.base.agreement import Agreement, distance, overlap
from serving.tasks.base.cost import OBJECT_BYTES
from serving.tasks.base.fields import Name, Natural
from serving.tasks.base.scoring import LabelledSpan, Scoring, f1_micro, precision, recall
from serving.tasks.base.task import Batch, Task
from serving.tasks.base.version_context import VersionContext
from serving.wire.messages import Encoded, RowArrays

if TYPE_CHECKING:
    import torch
    from tokenizers import Encoding
    from transformers import PreTrainedModel

MAX_IGNORED = 1024
"""The most labels that a request may leave out. Untuned: more than models have."""
SCORE_BYTES = 8
"""Memory of a label's score of a token: float32 in the engine's message and in the array that is read from it."""

Strategy = Literal["none", "simple", "first", "average", "max"]
Scores = NDArray[numpy.float32]
STRIDE_TOKENS = 64
"""Default of the tokens that neighbouring windows of a long text share. Untuned: a few sentences."""


class Parameters(TextParameters, frozen=True):
    """aggregation_strategy: instead of the contract's. ignore_labels: labels to leave out of the answer.

    stride: tokens that neighbouring windows of a long text share, at most half a window.
    """

    aggregation_strategy: Strategy | None = None
    ignore_labels: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_IGNORED)] | None = None
    stride: Natural = STRIDE_TOKENS


class Defaults(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a request without parameters gets."""

    aggregation_strategy: Strategy = "simple"
    ignore_labels: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True)
class Windows:
    """A text and the encodings of its windows, for the offsets."""

    text: str
    encodings: "Sequence[Encoding]"


@dataclass(frozen=True)
class Token:
    """A token or word. scores: (labels,) float32, sum 1. start, end: characters. index: position in the row."""

    word: str
    scores: Scores
    start: int
    end: int
    index: int
    is_subword: bool


@dataclass(frozen=True)
class Entity:
    """A token or word with its label."""

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int


class LabelledEntity(TypedDict):
    """A span of an answer: `entity_group`, or `entity` and `index` of a token by itself."""

    entity: NotRequired[str]
    entity_group: NotRequired[str]
    index: NotRequired[int]
    score: float
    word: str
    start: int
    end: int


class TokenClassification(Task[str, Parameters, Windows]):
    """(rows, tokens, labels) logits → softmax over labels, float32, cut to each row's tokens."""

    name = "token-classification"
    parameters_type = Parameters
    defaults_type = Defaults
    example = (
        "My name is Wolfgang and I live in Berlin.",
        "Angela flew from Paris to New York with Air France, and wrote to the United Nations from there.",
    )

    def has_tokens(self, batch_key: str) -> bool:
        """Always."""
        return True

    def predictions(self, answer: list[LabelledEntity]) -> Sequence[tuple[str, float]]:
        """Every span."""
        return [(entry.get("entity_group") or entry["entity"], entry["score"]) for entry in answer]

    def agreement(self, one: list[LabelledEntity], other: list[LabelledEntity], contract: Contract) -> Agreement:
        """F1 over spans, of which label and characters must be the same."""
        found = [
            {
                (entry["start"], entry["end"], entry.get("entity_group") or entry["entity"]): entry["score"]
                for entry in answer
            }
            for answer in (one, other)
        ]
        return Agreement(overlap(found[0].keys(), found[1].keys()), distance(*found))

    def scoring(self, contract: Contract) -> Scoring:
        """By whole entities: both label and characters must be right."""
        is_split = contract.defaults.get("aggregation_strategy") == "none"
        return Scoring(
            list[LabelledSpan],
            'a list of {"start": …, "end": …, "label": …}, in characters',
            lambda answer: frozenset((entry["start"], entry["end"], entry["entity_group"]) for entry in answer),
            {"f1": f1_micro, "precision": precision, "recall": recall},
            settle=lambda spans: frozenset((span.start, span.end, span.label) for span in spans),
            parameters={"aggregation_strategy": "simple"} if is_split else {},
        )

    def answer_bytes(self, encoded: Encoded[Windows], parameters: Parameters, version: VersionContext) -> int:
        """Every token may be an object, and has a score for each label until then."""
        tokens = sum([row.length for row in encoded.rows])
        return tokens * (OBJECT_BYTES + SCORE_BYTES * len(version.contract.labels))

    def encode(self, item: str, parameters: Parameters, version: VersionContext) -> Encoded[Windows]:
        """One row per text, or one per window of a text longer than the model's limit."""
        if parameters.truncate:
            found = [version.tokenizer.encode(item, parameters=parameters)]
        else:
            found = version.tokenizer.windows(item, stride=parameters.stride)
        return Encoded([row for row, _ in found], Windows(item, [encoding for _, encoding in found]))

    def forward(self, model: "PreTrainedModel", batch: Batch) -> tuple["torch.Tensor", ...]:
        """Scores of every label for every token."""
        return (model(**batch.inputs).logits.float().softmax(-1),)

    def decode(
        self, rows: Sequence[RowArrays], windows: Windows, parameters: Parameters, version: VersionContext
    ) -> list[LabelledEntity]:
        """`[{"entity_group" or "entity", "score", "word", "start", "end"}, …]` in the order of the text."""
        strategy = parameters.aggregation_strategy or version.defaults.aggregation_strategy
        ignored = version.defaults.ignore_labels if parameters.ignore_labels is None else parameters.ignore_labels
        ignored = frozenset(("O",) if ignored is msgspec.UNSET else ignored)
        answer: list[LabelledEntity] = []
        for encoding, (scores,) in zip(windows.encodings, rows, strict=True):
            tokens = _tokens(windows.text, encoding, scores, version)
            answer += [
                entry
                for entry in _entries(tokens, strategy, version)
                if entry.get("entity", entry.get("entity_group")) not in ignored
            ]
        return answer if len(windows.encodings) == 1 else _settle(answer)


def _entries(tokens: Sequence[Token], strategy: Strategy, version: VersionContext) -> list[LabelledEntity]:
    labels = version.contract.labels
    match strategy:
        case "none":
            return [_describe(_judge(token, token.scores, labels)) for token in tokens]
        case "simple":
            entities = [_judge(token, token.scores, labels) for token in tokens]
        case "first" | "average" | "max":
            entities = [_agree(word, strategy, labels, version) for word in _words(tokens)]
        case other:
            assert_never(other)
    return [_merge(group, version) for group in _groups(entities)]


def _settle(entries: list[LabelledEntity]) -> list[LabelledEntity]:
    """Of overlapping spans of neighbouring windows keep the longer one, or of equally long ones the more probable.

    The rule is `TokenClassificationPipeline.aggregate_overlapping_entities` of transformers 5.23.
    """
    settled: list[LabelledEntity] = []
    for entry in sorted(entries, key=lambda entry: entry["start"]):
        if settled and settled[-1]["start"] <= entry["start"] < settled[-1]["end"]:
            lengths = [found["end"] - found["start"] for found in (entry, settled[-1])]
            if lengths[0] > lengths[1] or (lengths[0] == lengths[1] and entry["score"] > settled[-1]["score"]):
                settled[-1] = entry
        else:
            settled.append(entry)
    return settled


def _describe(entity: Entity) -> LabelledEntity:
    return {
        "entity": entity.label,
        "score": entity.score,
        "index": entity.index,
        "word": entity.word,
        "start": entity.start,
        "end": entity.end,
    }


def _tokens(text: str, encoding: "Encoding", scores: Scores, version: VersionContext) -> list[Token]:
    found = []
    parts = zip(encoding.special_tokens_mask, encoding.offsets, encoding.tokens, encoding.ids, strict=True)
    for index, (special, (start, end), word, token_id) in enumerate(parts):
        if special:
            continue
        characters = text[start:end]
        if version.tokenizer.subword_prefix:
            is_subword = len(word) != len(characters)
        else:
            is_subword = start > 0 and " " not in text[start - 1 : start + 1]
        if token_id == version.contract.processor.unk_token_id:
            word, is_subword = characters, False
        found.append(Token(word, scores[index], start, end, index, is_subword))
    return found


def _judge(token: Token, scores: Scores, labels: Sequence[str]) -> Entity:
    best = int(scores.argmax())
    return Entity(labels[best], float(scores[best]), token.word, token.start, token.end, token.index)


def _words(tokens: Sequence[Token]) -> list[list[Token]]:
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.is_subword:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _agree(
    word: list[Token], strategy: Literal["first", "average", "max"], labels: Sequence[str], version: VersionContext
) -> Entity:
    match strategy:
        case "first":
            scores = word[0].scores
        case "max":
            scores = max(word, key=lambda token: token.scores.max()).scores
        case "average":
            scores = numpy.stack([token.scores for token in word]).mean(axis=0)
        case other:
            assert_never(other)
    text = version.tokenizer.join([token.word for token in word])
    whole = Token(text, scores, word[0].start, word[-1].end, word[0].index, False)
    return _judge(whole, scores, labels)


def _groups(entities: Sequence[Entity]) -> list[list[Entity]]:
    groups = [[entity] for entity in entities[:1]]
    for before, entity in pairwise(entities):
        begins, label = _tag(entity.label)
        if label == _tag(before.label)[1] and not begins:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    return groups


def _tag(label: str) -> tuple[bool, str]:
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def _merge(group: Sequence[Entity], version: VersionContext) -> LabelledEntity:
    return {
        "entity_group": group[0].label.split("-", 1)[-1],
        "score": float(numpy.mean([entity.score for entity in group])),
        "word": version.tokenizer.join([entity.word for entity in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }


TASK = TokenClassification()
