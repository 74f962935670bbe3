"""The standard metrics of each kind of task, over predictions and labels in order.

A task states the type of its labels and its metrics (`Task.scoring`); `serving.evaluation` applies them. The
definitions are those of scikit-learn (accuracy, F1, mean absolute error), of SQuAD's evaluation script (exact match, F1
over words) and of CoNLL's (F1 over whole entities).
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec

from registry.contract import Contract

Activation = Literal["softmax", "sigmoid", "none"]
"""The activation that turns a classifier's logits into scores."""

ScoreFunction = Callable[[Sequence[Any], Sequence[Any]], float]
"""(predictions, labels), both in order and of one length → the score."""

LOWER_IS_BETTER = frozenset({"mae", "rmse"})
"""Metrics for which a requirement is an upper bound."""


@dataclass(frozen=True)
class Scoring:
    """How a version's answers are compared with labels.

    label: msgspec type of an example's label. hint: how to write one. read: from an item's answer to what is
    compared. settle: from a label to what is compared. metrics: name → metric. choices: the allowed labels, empty for
    any. parameters: of the requests, where the example has none of its own.
    """

    label: object
    hint: str
    read: Callable[[Any], object]
    metrics: Mapping[str, ScoreFunction]
    settle: Callable[[Any], object] = lambda label: label
    choices: Sequence[str] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)


class LabelledSpan(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A labelled span of a text: characters from `start` to before `end`."""

    start: Annotated[int, msgspec.Meta(ge=0)]
    end: Annotated[int, msgspec.Meta(ge=1)]
    label: str


def accuracy(predictions: Sequence[object], labels: Sequence[object]) -> float:
    """The share of predictions that equal their label."""
    right = [bool(one == other) for one, other in zip(predictions, labels, strict=True)]
    return sum(right) / len(right)


def f1_macro(predictions: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """The mean of the F1 of every label that occurs in a prediction or a label; of sets of labels, too."""
    pairs = [(_as_set(one), _as_set(other)) for one, other in zip(predictions, labels, strict=True)]
    names = {name for pair in pairs for side in pair for name in side}
    if not names:
        return 1.0
    return sum(_f1([({name} & one, {name} & other) for one, other in pairs]) for name in names) / len(names)


def f1_micro(predictions: Sequence[Hashable], labels: Sequence[Hashable]) -> float:
    """F1 over the members of all sets together. Over entities it is CoNLL's metric."""
    return _f1([(_as_set(one), _as_set(other)) for one, other in zip(predictions, labels, strict=True)])


def precision(predictions: Sequence[frozenset[Hashable]], labels: Sequence[frozenset[Hashable]]) -> float:
    """The share of all predicted members that are right; 1 where none is predicted."""
    right = sum(len(one & other) for one, other in zip(predictions, labels, strict=True))
    total = sum(map(len, predictions))
    return right / total if total else 1.0


def recall(predictions: Sequence[frozenset[Hashable]], labels: Sequence[frozenset[Hashable]]) -> float:
    """The share of all right members that are predicted; 1 where there are none."""
    return precision(labels, predictions)


def mae(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """The mean absolute error."""
    return sum(abs(one - other) for one, other in zip(predictions, labels, strict=True)) / len(labels)


def rmse(predictions: Sequence[float], labels: Sequence[float]) -> float:
    """The root of the mean squared error."""
    squares = [(one - other) ** 2 for one, other in zip(predictions, labels, strict=True)]
    return float((sum(squares) / len(squares)) ** 0.5)


def exact_match(predictions: Sequence[str], labels: Sequence[Sequence[str]]) -> float:
    """The share of answers that are one of the accepted ones, as SQuAD's script compares them."""
    pairs = zip(predictions, labels, strict=True)
    right = [_words(one) in [_words(other) for other in accepted] for one, accepted in pairs]
    return sum(right) / len(right)


def f1_words(predictions: Sequence[str], labels: Sequence[Sequence[str]]) -> float:
    """The mean of SQuAD's F1 over words, between each answer and its nearest accepted answer."""
    pairs = zip(predictions, labels, strict=True)
    return sum(max(_overlap(_words(one), _words(other)) for other in accepted) for one, accepted in pairs) / len(labels)


def of_classes(contract: Contract, activation: Activation) -> Scoring:
    """The scoring of a classifier whose answer is `[{"label", "score"}, …]`, by its activation."""
    if activation == "none" or len(contract.labels) == 1:
        metrics: dict[str, ScoreFunction] = {"mae": mae, "rmse": rmse}
        only = contract.labels[0]
        return Scoring(
            int | float, "a number", lambda answer: {entry["label"]: entry["score"] for entry in answer}[only], metrics
        )
    if activation == "sigmoid":
        return Scoring(
            list[str],
            "a list of labels, empty for none",
            lambda answer: frozenset(entry["label"] for entry in answer if entry["score"] >= 0.5),
            {"accuracy": accuracy, "f1_macro": f1_macro, "f1_micro": f1_micro},
            settle=frozenset,
            choices=contract.labels,
        )
    return Scoring(
        str,
        "a label",
        lambda answer: answer[0]["label"],
        {"accuracy": accuracy, "f1_macro": f1_macro},
        choices=contract.labels,
    )


def _as_set(value: Hashable) -> frozenset[Hashable]:
    return value if isinstance(value, frozenset) else frozenset((value,))


def _f1(pairs: Sequence[tuple[Set[Hashable], Set[Hashable]]]) -> float:
    right = sum(len(one & other) for one, other in pairs)
    total = sum(len(one) + len(other) for one, other in pairs)
    return 2 * right / total if total else 1.0


def _words(text: str) -> list[str]:
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _overlap(one: list[str], other: list[str]) -> float:
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))
