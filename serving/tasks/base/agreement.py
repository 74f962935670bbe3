"""How far two versions' answers to one input agree. Each task says so in its own file, mostly by these functions.

All of them are symmetric, and an answer agrees with itself wholly: (1, 0).
"""

from collections.abc import Callable, Mapping, Sequence, Set
from math import hypot, isclose
from typing import Any

import msgspec


class Agreement(msgspec.Struct, frozen=True):
    """share: 0..1, how much of the answer is the same. distance: 0..1, how far the scores of that are apart."""

    share: float
    distance: float = 0.0


NONE = Agreement(0.0, 1.0)


def of_labels(
    one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], read: Callable[[Any], object]
) -> Agreement:
    """Of `[{"label", "score"}, …]`. read: from such an answer to its label, its set of labels, or its number."""
    scores = [{str(entry["label"]): float(entry["score"]) for entry in answer} for answer in (one, other)]
    return Agreement(_same(read(one), read(other)), distance(*scores))


def distance(one: Mapping[Any, float], other: Mapping[Any, float]) -> float:
    """The mean difference of the scores that both answers have, each counted as at most 1; 0 where none is."""
    both = one.keys() & other.keys()
    return sum(min(1.0, abs(one[key] - other[key])) for key in sorted(both)) / len(both) if both else 0.0


def overlap(one: Set[object], other: Set[object]) -> float:
    """F1 of two sets, which is symmetric; 1 for two empty ones."""
    total = len(one) + len(other)
    return 2 * len(one & other) / total if total else 1.0


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """The cosine of two vectors, negative ones as 0; 1 for two of zeros, 0 for vectors of two lengths."""
    if len(one) != len(other):
        return 0.0
    lengths = [hypot(*vector) for vector in (one, other)]  # which no small or large number spoils
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    product = sum((a / lengths[0]) * (b / lengths[1]) for a, b in zip(one, other, strict=True))
    return 1.0 if isclose(product, 1.0, abs_tol=1e-9) else max(0.0, min(1.0, product))


def of_vectors(one: Sequence[Any], other: Sequence[Any]) -> Agreement:
    """Of two vectors their cosine; of lists of vectors the mean, and none of lists of two lengths."""
    if len(one) != len(other):
        return NONE
    if one and isinstance(one[0], list):
        return mean([of_vectors(*pair) for pair in zip(one, other, strict=True)])
    found = cosine(one, other)
    return Agreement(found, 1.0 - found)


def tokens(one: Sequence[object], other: Sequence[object]) -> float:
    """The share of positions with the same token, of the longer sequence; 1 for two empty ones."""
    longest = max(len(one), len(other))
    same = sum(a == b for a, b in zip(one, other, strict=False))
    return same / longest if longest else 1.0


def mean(parts: Sequence[Agreement]) -> Agreement:
    """Of an answer that has parts of equal weight."""
    if not parts:
        return Agreement(1.0)
    return Agreement(sum(part.share for part in parts) / len(parts), sum(part.distance for part in parts) / len(parts))


def _same(one: object, other: object) -> float:
    if isinstance(one, Set) and isinstance(other, Set):
        return overlap(one, other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return 1.0 - min(1.0, abs(one - other) / max(1.0, abs(one), abs(other)))
    return float(one == other)
