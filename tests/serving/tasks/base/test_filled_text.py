"""A text with another token at a place is what decoding all of its tokens gives, and takes less to make."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from serving.processors.tokenizer import TextEncoder
from serving.tasks.base.filled_text import FilledText
from serving.tasks.fill_mask import Defaults, FillMask, Masks, Parameters

SPECIAL = ["[CLS]", "[SEP]", "[MASK]"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
WORDS = ["a", "##b", "##", "##'", ".", "n't", "'", "do", "▁", "▁a", "▁▁", "a▁b", "é", "", "\ufffd", " ", "Ġa", "ĠÃ"]
BYTES = [f"<0x{byte:02X}>" for byte in (0x41, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xFF)]
DECODERS: dict[str, Any] = {
    "WordPiece": decoders.WordPiece(),
    "WordPiece without cleanup": decoders.WordPiece(cleanup=False),
    "Metaspace": decoders.Metaspace(),
    "Metaspace never": decoders.Metaspace(prepend_scheme="never"),
    "ByteLevel": decoders.ByteLevel(),
    "BPE": decoders.BPEDecoder(suffix="b"),
    "CTC": decoders.CTC(),
    "Fuse": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    ),
    "none": None,
}


class Reader:
    """Counts the tokens that are decoded."""

    read_tokens = 0
    cleans_up = False

    def __init__(self, name: str) -> None:
        vocabulary = dict.fromkeys([*WORDS, *BYTES, *ALPHABET])
        self.exact = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="a"))
        self.exact.add_special_tokens(SPECIAL)
        self.exact.add_tokens([AddedToken("added é", normalized=False)])
        if DECODERS[name] is not None:
            self.exact.decoder = DECODERS[name]
        self.size = self.exact.get_vocab_size()

    def read(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        self.read_tokens += len(ids)
        return TextEncoder.read(self, ids, skip_special_tokens=skip_special_tokens)  # type: ignore[arg-type]


READERS = {name: Reader(name) for name in DECODERS}
SIZE = READERS["none"].size
TOKENS = st.integers(0, len(WORDS) + len(BYTES)) | st.integers(0, SIZE + 2)  # some have no token
BROKEN = [READERS["none"].exact.token_to_id(each) for each in ("â", "Ĥ", "¬", "Ã", "©")]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("skips_special", [True, False])
def test_a_filled_text_is_that_of_all_tokens(name: str, skips_special: bool) -> None:
    reader = READERS[name]

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(st.lists(TOKENS | st.sampled_from(BROKEN), min_size=1, max_size=24), st.integers(0, 23), st.lists(TOKENS))
    @example([BROKEN[0], 0, BROKEN[2]], 1, BROKEN)
    @example([SIZE - 4, 0, SIZE - 3], 1, [0, 1, SIZE - 2])
    def run(ids: list[int], place: int, tokens: list[int]) -> None:
        place %= len(ids)
        filled = FilledText(reader, ids, place, skips_special=skips_special)
        for token in [*tokens, *BROKEN]:
            whole = [*ids[:place], token, *ids[place + 1 :]]
            assert filled.read(token) == reader.read(whole, skip_special_tokens=skips_special)

    run()


@pytest.mark.parametrize("name", ["WordPiece", "Metaspace", "ByteLevel"])
@pytest.mark.parametrize("place", [0, 500, 999])
def test_a_candidate_takes_no_more_for_a_longer_text(name: str, place: int) -> None:
    """70 masks in 512 tokens, with 100 candidates each, took 2 s."""
    reader = Reader(name)
    filled = FilledText(reader, [0] * 1000, place, skips_special=True)
    assert reader.read_tokens < 2500
    reader.read_tokens = 0
    filled.read(1)
    assert reader.read_tokens <= 3


def test_candidates_of_many_masks_are_those_of_whole_texts() -> None:
    reader = Reader("WordPiece")
    ids, places = [0, SIZE - 3] * 100, list(range(1, 200, 2))
    version: Any = SimpleNamespace(tokenizer=reader, defaults=Defaults())
    tokens = numpy.arange(2000, dtype=numpy.int32).reshape(100, 20) % SIZE
    rows = [[numpy.linspace(1, 0, 2000, dtype=numpy.float32).reshape(100, 20), tokens]]
    answer: Any = FillMask().decode(rows, Masks(ids, places, []), Parameters(top_k=20), version)
    assert reader.read_tokens < 100 * (2 * len(ids) + 20 * 10)
    for place, candidates, expected in zip(places, answer, tokens.tolist(), strict=True):
        assert [each["token"] for each in candidates] == expected
        for each in candidates[:3]:
            whole = [*ids[:place], each["token"], *ids[place + 1 :]]
            assert each["sequence"] == reader.read(whole, skip_special_tokens=False)
