"""Prompts for a model that generates: words of the tests' list, the same ones every time."""

import random
from collections.abc import Sequence

MIN_WORDS, MAX_WORDS = 8, 48
"""Words of a prompt."""


def make_prompts(count: int, words: Sequence[str]) -> list[str]:
    """`count` prompts of MIN_WORDS to MAX_WORDS words."""
    rng = random.Random(11)
    return [" ".join(rng.choices(words, k=rng.randint(MIN_WORDS, MAX_WORDS))) for _ in range(count)]
