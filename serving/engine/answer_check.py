"""Whether two answers agree: the check of a loaded model against the example that its contract recorded."""

from collections.abc import Iterable, Sequence
from math import isfinite, sqrt
from typing import Any, TypeGuard

from serving.engine.tolerances import allowed_error


def find_difference(expected: object, found: object, dtype: object, where: str = "answer") -> str | None:
    """The first difference in words, or None.

    Text and whole numbers must be equal. Other numbers and vectors may differ by `allowed_error` of their size or
    length. Labelled scores must have the same best label; the others may be in any order. dtype: of the model that
    gave `found`, torch's or by name.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.keys() != found.keys():
            return f"{where} has fields {sorted(found)}, expected {sorted(expected)}"
        return _first(find_difference(expected[key], found[key], dtype, f"{where}.{key}") for key in expected)
    if isinstance(expected, list | tuple) and isinstance(found, list | tuple):
        return _lists(expected, found, dtype, where)
    pair = [expected, found]
    if _are_measured(pair):
        return _numbers(pair[:1], pair[1:], dtype, where)
    return None if expected == found else f"{where} is {found!r}, expected {expected!r}"


def _lists(expected: Sequence[Any], found: Sequence[Any], dtype: object, where: str) -> str | None:
    if len(expected) != len(found):
        return f"{where} has {len(found)} entries, expected {len(expected)}"
    if _are_measured([*expected, *found]):
        return _numbers(expected, found, dtype, where)
    if expected and all(map(_is_labelled, expected)) and all(map(_is_labelled, found)):
        if expected[0]["label"] != found[0]["label"]:
            return f"{where} has label {found[0]['label']!r} first, expected {expected[0]['label']!r}"
        expected, found = (
            sorted(entries, key=lambda entry: (str(entry["label"]), entry["score"])) for entries in (expected, found)
        )
    pairs = enumerate(zip(expected, found, strict=True))
    return _first(find_difference(one, other, dtype, f"{where}[{index}]") for index, (one, other) in pairs)


def _numbers(expected: Sequence[float], found: Sequence[float], dtype: object, where: str) -> str | None:
    if not all(map(isfinite, found)):
        return f"{where} is not finite"
    distance = sqrt(sum((one - other) ** 2 for one, other in zip(expected, found, strict=True)))
    length = sqrt(sum(value * value for value in expected))
    allowed = allowed_error(length, dtype)
    if distance <= allowed:
        return None
    return f"{where} is off by {distance:.2g} at a size of {length:.2g}, allowed {allowed:.2g}"


def _first(differences: Iterable[str | None]) -> str | None:
    return next((difference for difference in differences if difference is not None), None)


def _are_measured(values: Sequence[object]) -> TypeGuard[Sequence[float]]:
    """Whether all are numbers and one is not whole. Positions and counts are whole and compared exactly."""
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return is_number and any(isinstance(value, float) for value in values)


def _is_labelled(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"label", "score"}
