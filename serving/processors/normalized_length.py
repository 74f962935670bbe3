"""Texts of which a tokenizer's normalizer makes far longer ones."""

from unicodedata import normalize

PART_CHARACTERS = 4096
"""That are normalized at a time, because `normalize` holds the GIL."""


def expands(text: str, more: int) -> bool:
    """Whether compatibility normalization (NFKC) makes a text longer by more than `more` characters.

    Many tokenizers begin with it. A character may stand for 18, and a tokenizer may take seconds and a GB for as many
    as a body can have of it.
    """
    left = more + len(text)
    for start in range(0, len(text), PART_CHARACTERS):
        left -= len(normalize("NFKC", text[start : start + PART_CHARACTERS]))
        if left < 0:
            return True
    return False
