"""From a row's arrays to an answer: the softmax, and labels with scores."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict, final

import numpy

from serving.wire.messages import AnyArray, RowArrays


@final
class LabelScore(TypedDict):
    """A label of an answer. score: in 0..1; of a regression any number."""

    label: str
    score: float


@final
class Ranked(TypedDict):
    """A ranked text. index: its place in the request."""

    index: int
    score: float
    text: NotRequired[str]


def softmax(logits: AnyArray, axis: int = -1) -> AnyArray:
    """Normalized exponentials along an axis, in the logits' precision."""
    exponents = numpy.exp(logits - logits.max(axis=axis, keepdims=True))
    return numpy.asarray(exponents / exponents.sum(axis=axis, keepdims=True))


def best_labels(row: RowArrays, labels: Sequence[str], top_k: int | None) -> list[LabelScore]:
    """The best labels of a row's (scores, label indices), best first. top_k: how many; None for all in the row."""
    scores, indices = row
    best = zip(indices.tolist()[:top_k], scores.tolist()[:top_k], strict=True)
    return [{"label": labels[index], "score": score} for index, score in best]
