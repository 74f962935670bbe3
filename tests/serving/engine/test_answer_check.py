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
    assert find_difference(expected, found, "bfloat16") is None


@pytest.mark.parametrize(
    ("expected", "found", "match"),
    [
        (labelled(a=0.51, b=0.49), labelled(b=0.51, a=0.49), "has label 'b' first, expected 'a'"),
        (labelled(a=0.9, b=0.1), labelled(a=0.8, b=0.2), "score is off by"),
        ({"word": "x"}, {"word": "y"}, "is 'y', expected 'x'"),
        ([1.0, 2.0], [1.0], "has 1 entries, expected 2"),
        ([3.0, 4.0], [3.0, 4.4], "off by 0.4 at a size of 5, allowed 0.15"),
        ([1.0], [float("nan")], "not finite"),
        ({"a": 1}, {"b": 1}, "has fields"),
        (1.0, "1.0", "expected 1.0"),
        ({"start": 1500}, {"start": 1501}, "start is 1501, expected 1500"),
        ([1500, 7], [1501, 7], "is 1501, expected 1500"),
    ],
)
def test_another_answer_is_told_in_words(expected: Any, found: Any, match: str) -> None:
    difference = find_difference(expected, found, "bfloat16")
    assert difference is not None
    assert match in difference


@pytest.mark.parametrize(
    ("dtype", "score", "same", "other"),
    [
        ("float32", 0.5, 0.5009, 0.502),
        ("float32", 0.01, 0.01009, 0.0105),
        ("float32", 1e-4, 1.05e-4, 2e-4),
        ("float32", 0.0, 1e-6, 1e-4),
        ("bfloat16", 0.5, 0.529, 0.54),
        ("bfloat16", 0.01, 0.016, 0.02),
        ("bfloat16", 0.001, 0.002, 0.004),
        ("float16", 0.0, 1e-3, 5e-3),
    ],
)
def test_a_small_score_may_not_be_off_by_a_factor(dtype: str, score: float, same: float, other: float) -> None:
    labels = [labelled(a=0.9, b=each) for each in (score, same, other)]
    vectors = [[[each]] for each in (score, same, other)]
    for expected, alike, different in (labels, vectors):
        assert find_difference(expected, alike, dtype) is None
        assert "is off by" in str(find_difference(expected, different, dtype))
