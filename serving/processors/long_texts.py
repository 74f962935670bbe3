"""Long texts: their tokens are counted part by part first, because a tokenizer takes memory for each.

Tokenizers (0.23) take up to 500 bytes for each token, and 80 for each byte of the text, until its row is made.
"""

from collections.abc import Callable, Sequence

from registry.contract import Side
from serving.processors.windows import parts_of

UNCOUNTED_BYTES = 1 << 17
"""Texts of up to this size are tokenized at once. They may have a few tokens for each byte, by their normalizers."""
MAX_TEXT_TOKENS = 1 << 17
"""Most tokens of one text or pair: a front may grow by 200 MiB for a body of 1 MB."""
MARGIN_TOKENS = 1024
"""Tokens that are kept beyond those of a row, as those at the end of a part may be others in the whole text."""

CountTokens = Callable[[str], int]
"""The tokens of a part of a text."""


def is_long(texts: Sequence[str]) -> bool:
    """Whether the tokens of texts are counted before they are tokenized."""
    most = UNCOUNTED_BYTES
    return 4 * sum(map(len, texts)) > most and sum(len(text.encode(errors="replace")) for text in texts) > most


def count_up_to(most: int, texts: Sequence[str], count: CountTokens) -> int:
    """The tokens of the texts' parts, counted until they are more than `most`. Each part may have a few of its own."""
    tokens = 0
    for text in texts:
        for part in parts_of(text):
            tokens += count(part)
            if tokens > most:
                return tokens
    return tokens


def are_too_many(most: int, texts: Sequence[str], count: CountTokens) -> bool:
    """Whether texts surely have more than `most` tokens: parts have a few more than the whole."""
    return is_long(texts) and count_up_to(most + most // 16, texts, count) > most + most // 16


def cut(text: str, characters: int, side: Side) -> str:
    """The first or last `characters` characters of a text. side: the end that is cut off."""
    return text[:characters] if side == "right" else text[-characters:]


def shorten(most: int, texts: Sequence[str], side: Side, count: CountTokens) -> list[str]:
    """The texts without most of what is cut off at `side` for a row of `most` tokens, the longer text first."""
    if not is_long(texts):
        return list(texts)
    if len(texts) > 1:  # the shorter one leaves the rest of the row to the other, or both have a half
        most = max(most - min(count_up_to(most, [text], count) for text in texts), (most + 1) // 2)
    return [_shortened(most + MARGIN_TOKENS, text, side, count) for text in texts]


def _shortened(most: int, text: str, side: Side, count: CountTokens) -> str:
    parts = list(parts_of(text))
    ordered = parts if side == "right" else parts[::-1]
    tokens = characters = 0
    for part in ordered:
        tokens, characters = tokens + count(part), characters + len(part)
        if tokens > most:
            break
    return cut(text, characters, side)
