"""A text that a tokenizer's normalizer makes far longer is refused before it is tokenized."""

import pytest

from serving.errors import Unprocessable
from serving.processors.normalized_length import PART_CHARACTERS, expands
from serving.processors.tokenizer import MAX_CHARACTERS, TextEncoder
from tests.serving.processors.test_word_cache import EXACT

PHRASE = "\ufdfa"
"""A ligature of 18 characters."""


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        ("é" * 10_000, 0, False),
        ("한국어 " * 10_000, 0, False),
        (PHRASE * 10, 17 * 10, False),
        (PHRASE * 10, 17 * 10 - 1, True),
        (PHRASE * (3 * PART_CHARACTERS), 17 * 3 * PART_CHARACTERS - 1, True),
        ("", 0, False),
    ],
)
def test_what_a_text_stands_for_is_counted(text: str, more: int, expected: bool) -> None:
    assert expands(text, more) == expected


def test_a_text_that_stands_for_far_more_is_not_tokenized() -> None:
    count = MAX_CHARACTERS // 17 + 1
    for text, pair in ((PHRASE * count, None), ("a" * 5000, PHRASE * count)):
        with pytest.raises(Unprocessable, match="stand for far more"):
            TextEncoder._tokenize(EXACT, text, pair)
    assert len(TextEncoder._tokenize(EXACT, PHRASE * 5000))
