"""The texts of a row's tokens, one after the other, are its text."""

from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from serving.tasks.base.generated_text import read_scores

WORDS = ["a", "##b", "do", "▁", "▁a", "▁▁", "Ġa", "Ġ", "é"]
DECODERS: dict[str, Any] = {
    "WordPiece": decoders.WordPiece(cleanup=False),
    "Metaspace": decoders.Metaspace(),
    "ByteLevel": decoders.ByteLevel(),
    "Llama": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "none": None,
}


class Reader:
    """As `TextEncoder`."""

    def __init__(self, name: str) -> None:
        self.exact = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="a"))
        if DECODERS[name] is not None:
            self.exact.decoder = DECODERS[name]

    def read(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return str(self.exact.decode(ids, skip_special_tokens=skip_special_tokens))


def texts(reader: Any, ids: list[int], *, is_begin: bool) -> list[tuple[str, str]]:
    """Of each token, and of the likeliest one at its place, which is the same."""
    arrays = [numpy.asarray(each) for each in (ids, [-1.0] * len(ids), [[token] for token in ids], [[-1.0]] * len(ids))]
    return [(found.text, found.top[0][1]) for found in read_scores(arrays, reader, is_begin=is_begin)]


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(ids=st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=12), parts=st.integers(1, 12))
def test_the_texts_of_tokens_are_together_the_text(name: str, ids: list[int], parts: int) -> None:
    reader = Reader(name)
    if name == "ByteLevel":
        ids = [token for token in ids if WORDS[token] not in ("é", "▁", "▁a", "▁▁")] or [0]
    found = [
        pair
        for at in range(0, len(ids), parts)  # as a stream gives them
        for pair in texts(reader, ids[at : at + parts], is_begin=not at)
    ]
    assert all(text == top for text, top in found)
    if name == "Llama" or (name == "WordPiece" and WORDS[ids[0]].startswith("##")):
        return  # what is stripped may be all of the first token, and the text's beginning is in the next one
    assert "".join(text for text, _ in found) == reader.read(ids)


def test_a_word_keeps_its_space() -> None:
    for name, words in (("Llama", ["▁a", "▁a", "a"]), ("WordPiece", ["a", "a", "##b"])):
        found = texts(Reader(name), [WORDS.index(word) for word in words], is_begin=True)
        assert [text for text, _ in found] == (["a", " a", "a"] if name == "Llama" else ["a", " a", "b"])
