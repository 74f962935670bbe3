from typing import Any

import pytest

from serving.engine.answer_check import find_difference


def labelled(**scores: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in scores.items()]


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ([labelled(a=0.6, b=0.21, c=0.19)], [labelled(a=0.59, c=0.21, b=0.2)]),
        ([[0.5] * 16], [[0.501] * 16]),
        ({"score": 0.5, "word": "x", "start": 1}, {"score": 0.51, "word": "x", "start": 1}),
        ([], []),
        ({"start": 1}, {"start": 1.0}),
    ],
)
def test_the_same_answer_within_tolerance_agrees(expected: Any, found: Any) -> None:
    assert find_difference(expected, found, 0.03) is None


@pytest.mark.parametrize(
    ("expected", "found", "match"),
    [
        (labelled(a=0.51, b=0.49), labelled(b=0.51, a=0.49), "has label 'b' first, expected 'a'"),
        (labelled(a=0.9, b=0.1), labelled(a=0.8, b=0.2), "score is off by"),
        ({"word": "x"}, {"word": "y"}, "is 'y', expected 'x'"),
        ([1.0, 2.0], [1.0], "has 1 entries, expected 2"),
        ([3.0, 4.0], [3.0, 4.4], "off by 0.08 of its size"),
        ([1.0], [float("nan")], "not finite"),
        ({"a": 1}, {"b": 1}, "has fields"),
        (1.0, "1.0", "expected 1.0"),
        ({"start": 1500}, {"start": 1501}, "start is 1501, expected 1500"),
        ([1500, 7], [1501, 7], "is 1501, expected 1500"),
    ],
)
def test_another_answer_is_told_in_words(expected: Any, found: Any, match: str) -> None:
    difference = find_difference(expected, found, 0.03)
    assert difference is not None
    assert match in difference
