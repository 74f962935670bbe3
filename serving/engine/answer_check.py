"""Whether two answers say the same: the check of a loaded model against the example that its contract recorded."""

from collections.abc import Sequence
from math import isfinite, sqrt
from typing import Any

FLOAT32_TOLERANCE = 1e-3
LOW_PRECISION_TOLERANCE = 0.03


def find_difference(expected: Any, found: Any, tolerance: float, where: str = "answer") -> str | None:
    """The first difference in words, or None.

    Text must be equal; numbers within `tolerance`; a vector within `tolerance` times its length (or 1). Labelled scores
    must have the same best label, and each label's score within `tolerance`, whatever their order further down.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return f"{where} has fields {sorted(found)}, expected {sorted(expected)}"
        return _first(find_difference(expected[key], found[key], tolerance, f"{where}.{key}") for key in expected)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return _lists(expected, found, tolerance, where)
    if _is_number(expected) and _is_number(found):
        return _numbers([expected], [found], tolerance, where)
    return None if expected == found else f"{where} is {found!r}, expected {expected!r}"


def _lists(expected: Sequence[Any], found: Sequence[Any], tolerance: float, where: str) -> str | None:
    if len(expected) != len(found):
        return f"{where} has {len(found)} entries, expected {len(expected)}"
    if expected and all(map(_is_number, expected)) and all(map(_is_number, found)):
        return _numbers(expected, found, tolerance, where)
    if expected and all(map(_is_labelled, expected)) and all(map(_is_labelled, found)):
        if expected[0]["label"] != found[0]["label"]:
            return f"{where} has label {found[0]['label']!r} first, expected {expected[0]['label']!r}"
        expected, found = (sorted(entries, key=lambda entry: str(entry["label"])) for entries in (expected, found))
    pairs = enumerate(zip(expected, found, strict=True))
    return _first(find_difference(one, other, tolerance, f"{where}[{index}]") for index, (one, other) in pairs)


def _numbers(expected: Sequence[float], found: Sequence[float], tolerance: float, where: str) -> str | None:
    if not all(map(isfinite, found)):
        return f"{where} is not finite"
    distance = sqrt(sum((one - other) ** 2 for one, other in zip(expected, found, strict=True)))
    length = max(1.0, sqrt(sum(value * value for value in expected)))
    if distance <= tolerance * length:
        return None
    return f"{where} is off by {distance / length:.2g} of its size, allowed {tolerance:.2g}"


def _first(differences: Any) -> str | None:
    return next((difference for difference in differences if difference is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_labelled(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"label", "score"}
