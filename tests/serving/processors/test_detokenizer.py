"""Text as tokens come: whole characters, each once; nothing of a stop string."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers.convert_slow_tokenizer import bytes_to_unicode

from serving.processors.detokenizer import MAX_NEWEST_TOKENS, MAX_UNFINISHED, Detokenizer, StopFilter
from tests.families import make_tokenizer

pytestmark = pytest.mark.slow


HARD = st.sampled_from(["👩‍👩‍👧", "é", "é", "日本", "🇫🇷", " ", "  ", "naïve", "fox", "\n", "ß", "𝔘", "．", "a"])
TEXT = st.lists(HARD, min_size=1, max_size=20).map("".join) | st.text(min_size=1, max_size=20)


class Encoder:
    """What a TextEncoder reads with."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = {token_id for token_id, token in added.items() if token.special}

    def read(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))


def byte_fallback() -> Tokenizer:
    """As Llama's first tokenizers: pieces, and a token for each byte of what no piece has."""
    vocabulary = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), ("▁", -3.0), ("fox", -2.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


TOKENIZERS = {
    "byte-level": lambda: make_tokenizer("gpt2").backend_tokenizer,
    "unigram": lambda: make_tokenizer("llama").backend_tokenizer,
    "wordpiece": lambda: make_tokenizer("bert").backend_tokenizer,
    "byte-fallback": byte_fallback,
}


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(Encoder(tokenizer))
    return [*(detokenizer.push([token]) for token in ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_pieces_are_whole_characters_and_together_the_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    found = pieces(tokenizer, ids)
    assert "".join(found) == tokenizer.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in found)


@pytest.mark.parametrize("kind", ["byte-level", "unigram", "wordpiece"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_tokens_come_to_the_same_text_one_by_one_or_at_once(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]()
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=3 * MAX_NEWEST_TOKENS))
    whole = Detokenizer(Encoder(tokenizer))
    joined = "".join(pieces(tokenizer, ids))
    assert joined == whole.push(ids) + whole.finish() == tokenizer.decode(ids)


def test_bytes_that_are_no_character_are_given_before_the_end() -> None:
    """Here `tokenizers.decoders.DecodeStream` gives nothing, or raises."""
    tokenizer = byte_fallback()
    found = pieces(tokenizer, [tokenizer.token_to_id("<0xE6>")] * 40)
    assert "".join(found) == "\ufffd" * 40
    assert len("".join(found[:-1])) >= 40 - MAX_UNFINISHED


@pytest.mark.parametrize("kind", ["byte-level", "unigram", "wordpiece"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_special_tokens_leave_the_text_as_it_is_without_them(kind: str, data: st.DataObject) -> None:
    """Many of them in a row, too: what is decoded next looks at the last token that has a text."""
    tokenizer = TOKENIZERS[kind]()
    special = sorted(Encoder(tokenizer).special_ids)
    some = st.integers(0, tokenizer.get_vocab_size() - 1).map(lambda token: [token])
    run = st.sampled_from(special).map(lambda token: [token] * (MAX_NEWEST_TOKENS + 8))
    ids = [token for part in data.draw(st.lists(some | run, max_size=12)) for token in part]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("unfinished", [[0xE6], [0xF0, 0x9F, 0x98], [0x80], [0xC3, 0x28]])
def test_bytes_that_are_no_character_for_long_are_those_of_the_whole_text(unfinished: list[int]) -> None:
    tokenizer = TOKENIZERS["byte-level"]()
    letters = bytes_to_unicode()
    numbers = [*unfinished * 2 * MAX_NEWEST_TOKENS, *"fox 日本".encode()]
    ids = [tokenizer.token_to_id(letters[number]) for number in numbers]
    assert None not in ids
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("token", ["<0xE6>", "<s>"])
def test_what_tokens_without_text_cost_grows_with_their_number_alone(token: str) -> None:
    """One that is special, or never completes a character, is not decoded again with every later one."""
    tokenizer = byte_fallback()
    tokenizer.add_special_tokens(["<s>"])
    encoder, count = Encoder(tokenizer), 1_000
    read: list[int] = []
    detokenizer = Detokenizer(encoder)
    encoder.read = lambda ids, **_: read.append(len(ids)) or tokenizer.decode(ids)  # type: ignore[method-assign]
    for _ in range(count):
        detokenizer.push([tokenizer.token_to_id(token)])
    assert sum(read) < 4 * MAX_NEWEST_TOKENS * count


@given(
    parts=st.lists(st.text("abc", min_size=1, max_size=3), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_nothing_of_the_first_stop_string_or_after_it_comes_through(parts: list[str], stops: list[str]) -> None:
    text = "".join(parts)
    cut, grown = len(text), ""
    for part in parts:  # the first end of a part at which a stop string is there decides
        grown += part
        found = [place for stop in stops if (place := grown.find(stop)) >= 0]
        if found:
            cut = min(found)
            break
    stopping = StopFilter(stops)
    through = "".join(stopping.push(part) for part in parts)
    assert text[:cut].startswith(through)
    assert through + stopping.finish() == text[:cut]
    assert stopping.has_stopped == (cut < len(text) or any(stop in text for stop in stops))


class Compared(str):
    """A stop string that counts how often it is compared with a text."""

    __slots__ = ()
    count = Counter[str]()

    def startswith(self, *given: Any) -> bool:
        self.count["all"] += 1
        return super().startswith(*given)

    def __getitem__(self, place: Any) -> str:
        self.count["all"] += 1
        return super().__getitem__(place)


def test_a_character_is_looked_at_once_however_much_is_held_back_and_however_many_stops_there_are() -> None:
    stops = [Compared("a" * 255 + "b"), *(Compared(chr(ord("c") + number) * 256) for number in range(15))]
    stopping, through, Compared.count["all"] = StopFilter(stops), "", 0
    for _ in range(1000):
        through += stopping.push("a")
    assert through + stopping.finish() == "a" * 1000
    assert Compared.count["all"] < 2 * 1000 + 16
