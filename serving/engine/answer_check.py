"""Whether two answers agree: the check of a loaded model against the example that its contract recorded."""

from collections.abc import Iterable, Sequence
from math import isfinite, sqrt
from typing import Any, TypeGuard


def find_difference(expected: object, found: object, tolerance: float, where: str = "answer") -> str | None:
    """The first difference in words, or None.

    Text and whole numbers must be equal. Other numbers may differ by `tolerance`, a vector by `tolerance` times its
    length or 1, whichever is larger. Labelled scores must have the same best label; the others may be in any order.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return f"{where} has fields {sorted(found)}, expected {sorted(expected)}"
        return _first(find_difference(expected[key], found[key], tolerance, f"{where}.{key}") for key in expected)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return _lists(expected, found, tolerance, where)
    pair = [expected, found]
    if _are_measured(pair):
        return _numbers(pair[:1], pair[1:], tolerance, where)
    return None if expected == found else f"{where} is {found!r}, expected {expected!r}"


def _lists(expected: Sequence[Any], found: Sequence[Any], tolerance: float, where: str) -> str | None:
    if len(expected) != len(found):
        return f"{where} has {len(found)} entries, expected {len(expected)}"
    if _are_measured([*expected, *found]):
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


def _first(differences: Iterable[str | None]) -> str | None:
    return next((difference for difference in differences if difference is not None), None)


def _are_measured(values: Sequence[object]) -> TypeGuard[Sequence[float]]:
    """Whether all are numbers and one is not whole. Positions and counts are whole and compared exactly."""
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return is_number and any(isinstance(value, float) for value in values)


def _is_labelled(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"label", "score"}
