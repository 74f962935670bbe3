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
    """The best of each row's scores and their indices, best first, on the device. most: how many, at least 1.

    Of equal ones the one with the lowest index is first, and is taken: `topk` chooses by the size of the batch, by how
    many are taken and by the device. Scores that are no numbers are taken.
    """
    kept = None
    if most < scores.shape[-1]:
        kept = (_taken_on_cpu if scores.device.type == "cpu" else _taken)(scores, most).sort(dim=-1).values
        scores = scores.gather(-1, kept)
    best, order = scores.sort(dim=-1, descending=True, stable=True)
    return best, order if kept is None else kept.gather(-1, order)


def _taken(scores: "torch.Tensor", most: int) -> "torch.Tensor":
    """Indices of the best scores of each row, in any order. Does not wait for a GPU."""
    least = scores.topk(most).values[..., -1:]
    better, equal = ~(scores <= least), scores == least
    room = most - better.sum(-1, keepdim=True)
    return (better | (equal & (equal.cumsum(-1) <= room))).byte().topk(most).indices


def _taken_on_cpu(scores: "torch.Tensor", most: int) -> "torch.Tensor":
    """The same in less time: only rows whose next score equals the last one taken are looked at again."""
    best, indices = scores.topk(most + 1)
    least, taken = best[:, most - 1], indices[:, :most]
    for row in (least == best[:, most]).nonzero()[:, 0].tolist():
        equal = best[row, :most] == least[row]
        taken[row, equal] = (scores[row] == least[row]).nonzero()[: int(equal.sum()), 0]
    return taken


def best_labels(row: RowArrays, labels: Sequence[str], top_k: int | None) -> list[LabelScore]:
    """The best labels of a row's (scores, label indices), best first. top_k: how many; None for all in the row."""
    scores, indices = row
    best = zip(indices.tolist()[:top_k], scores.tolist()[:top_k], strict=True)
    return [{"label": labels[index], "score": score} for index, score in best]
