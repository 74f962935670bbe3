"""Inputs in the form of a contract's example, with other words of the vocabulary, where there is no sample."""

import random
from collections.abc import Sequence
from typing import Any

from registry.contract import Contract
from serving.processors.tokenizer import TextEncoder

MAX_WORDS = 48
"""Of a text; the lengths of texts are spread evenly by their logarithm from 2 words on."""
MIN_WORD_LETTERS = 3
TOKENS_OF_WORD = 4
"""Room for a word in a row: a text has at most the model's longest row divided by this many words."""
MARKS = "▁Ġ"
"""What SentencePiece and byte-level BPE write before the first piece of a word."""


def generate_inputs(contract: Contract, tokenizer: TextEncoder, count: int) -> list[Any]:
    """`count` inputs, the same each time: the example's items in turns, each of their texts replaced.

    A mask token stays in a text that has one. Empty for a contract without an example.
    """
    if contract.example is None:
        return []
    draw = random.Random(0)  # noqa: S311  # not for secrets
    words = _words(contract, tokenizer)
    mask_id = contract.processor.mask_token_id
    mask = "" if mask_id is None else tokenizer.token_of(mask_id)
    max_words = max(2, min(MAX_WORDS, contract.max_tokens // TOKENS_OF_WORD))
    given = contract.example.inputs
    items = given if isinstance(given, list) else [given]
    return [
        _replace(items[number % len(items)], words, mask, max_words, draw) for number in range(count if words else 0)
    ]


def _words(contract: Contract, tokenizer: TextEncoder) -> list[str]:
    ids = range(contract.processor.vocabulary)
    tokens = (tokenizer.token_of(each).lstrip(MARKS) for each in ids if tokenizer.has_id(each))
    return [token for token in tokens if len(token) >= MIN_WORD_LETTERS and token.isalpha()]


def _replace(item: Any, words: Sequence[str], mask: str, max_words: int, draw: random.Random) -> Any:
    """The item with other words in each of its texts."""
    if isinstance(item, dict):
        return {name: _replace(part, words, mask, max_words, draw) for name, part in item.items()}
    if isinstance(item, list):
        return [_replace(part, words, mask, max_words, draw) for part in item]
    if not isinstance(item, str):
        return item
    text = draw.choices(words, k=round(2 * (max_words / 2) ** draw.random()))
    if mask and mask in item:
        text[draw.randrange(len(text))] = mask
    return " ".join(text)
