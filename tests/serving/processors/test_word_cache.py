import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from serving.processors import word_cache as module
from serving.processors.word_cache import WordCache
from tests.small_models import vocabulary

pytestmark = pytest.mark.slow


def tokenizer(*added: AddedToken) -> Tokenizer:
    found = Tokenizer.from_file(str(vocabulary() / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    found.add_tokens(list(added))
    return found


EXACT = tokenizer(AddedToken("<x>"), AddedToken("up", single_word=True), AddedToken("<y>", lstrip=True, rstrip=True))
WORDS = WordCache.of(EXACT)

characters = st.characters(exclude_categories=("Cs",))
pieces = st.sampled_from(
    [*["[MASK]", "[SEP]", "<x>", "<y>", "up", "é", "́", "ΑΣ", "中文", "don't"], " ", "  ", "\u00a0", "\t"]
)
texts = st.lists(pieces | st.text(characters, max_size=12), max_size=20).map("".join)


@given(texts, st.booleans())
@settings(deadline=None, max_examples=500)
def test_ids_are_those_of_the_tokenizer_however_often_a_word_was_met(text: str, again: bool) -> None:
    assert WORDS is not None
    for _ in range(1 + again):
        assert memoryview(WORDS.encode(text)).cast("i").tolist() == EXACT.encode(text).ids


def test_the_table_is_bounded_and_long_words_stay_out(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_WORDS", 10)
    words = WordCache.of(EXACT)
    assert words is not None
    for number in range(100):
        words.encode(f"word{number} {'x' * 1000}")
        assert len(words) <= 10


def test_a_tokenizer_whose_words_hold_spaces_has_no_table() -> None:
    assert WordCache.of(tokenizer(AddedToken("New York"))) is None
    parts = json.loads(EXACT.to_str())
    for key, other in (
        ("normalizer", {"type": "Replace", "pattern": {"String": "a b"}, "content": "c"}),
        ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}),
    ):
        assert WordCache.of(Tokenizer.from_str(json.dumps(parts | {key: other}))) is None


def test_a_long_word_is_tokenized_without_the_gil_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    words = WordCache.of(EXACT)
    assert words is not None
    for word in ("中文" * module.LONG_CHARACTERS, "a" * (module.LONG_CHARACTERS + 1)):
        assert words.encode(f"the {word}") == module._pack(EXACT.encode(f"the {word}").ids)
        assert word not in words
