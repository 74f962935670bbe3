"""From a row's arrays to an answer: the softmax, and labels with scores."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict, final

import numpy

from serving.wire.messages import AnyArray, RowArrays

if TYPE_CHECKING:
    import torch


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


def best_scores(scores: "torch.Tensor", most: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """The best scores of each row and their indices, best first, on the device. most: how many.

    Of equal ones the one with the lowest index is first, and is taken: `topk` chooses by the size of the batch and the
    device. Scores that are no numbers are taken.
    """
    kept = None
    if most < scores.shape[-1]:
        least = scores.topk(most).values[..., -1:]
        better, equal = ~(scores <= least), scores == least
        room = most - better.sum(-1, keepdim=True)
        kept = (better | (equal & (equal.cumsum(-1) <= room))).byte().topk(most).indices.sort(dim=-1).values
        scores = scores.gather(-1, kept)
    best, order = scores.sort(dim=-1, descending=True, stable=True)
    return best, order if kept is None else kept.gather(-1, order)


def best_labels(row: RowArrays, labels: Sequence[str], top_k: int | None) -> list[LabelScore]:
    """The best labels of a row's (scores, label indices), best first. top_k: how many; None for all in the row."""
    scores, indices = row
    best = zip(indices.tolist()[:top_k], scores.tolist()[:top_k], strict=True)
    return [{"label": labels[index], "score": score} for index, score in best]
