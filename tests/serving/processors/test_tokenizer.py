from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from registry.contract import Contract, Processor
from serving.errors import Unprocessable
from serving.processors.tokenizer import CHARACTERS_PER_TOKEN, TextEncoder, TextParameters
from tests.small_models import vocabulary

CONTRACT = Contract(
    format=1,
    task="text-classification",
    auto_class="AutoModelForSequenceClassification",
    model_class="BertForSequenceClassification",
    model_type="bert",
    problem_type=None,
    labels=("a", "b"),
    max_tokens=32,
    dtype="auto",
    processor=Processor(
        class_name="BertTokenizer",
        inputs=("input_ids", "token_type_ids", "attention_mask"),
        pad_token_id=0,
        unk_token_id=100,
        vocabulary=30522,
    ),
    defaults={},
    transformers="5",
    torch="2",
    files={},
)
ENCODER = TextEncoder(vocabulary(), CONTRACT)
REFERENCE = AutoTokenizer.from_pretrained(vocabulary())

words = st.text(min_size=1, max_size=300).filter(lambda text: not any(0xD800 <= ord(char) < 0xE000 for char in text))


def ids_of(text: str, pair: str | None = None, **options: object) -> list[int]:
    row, _ = ENCODER.encode(text, pair, **options)  # type: ignore[arg-type]
    return memoryview(row.tokens).cast("i").tolist()


@given(words, st.none() | words)
@settings(deadline=None)
def test_rows_are_those_of_transformers_also_when_cut(text: str, pair: str | None) -> None:
    for side in ("right", "left"):
        REFERENCE.truncation_side = side
        expected = REFERENCE(text, pair, truncation=True, max_length=32)["input_ids"]
        assert ids_of(text, pair, parameters=TextParameters(truncate=True, truncation_direction=side)) == expected


@given(words, st.none() | words, st.booleans())
@settings(deadline=None)
def test_the_row_alone_is_the_row_that_comes_with_an_encoding(text: str, pair: str | None, cut: bool) -> None:
    def outcome(encode: Callable[..., Any]) -> Any:
        try:
            return encode(text, pair, parameters=TextParameters(truncate=cut), batch_key="k")
        except Unprocessable as error:
            return error.message

    assert outcome(ENCODER.row) == outcome(lambda *pair, **options: ENCODER.encode(*pair, **options)[0])


def test_a_pair_carries_its_types_and_a_single_text_none() -> None:
    row, _ = ENCODER.encode("one two", "three")
    assert list(row.types) == REFERENCE("one two", "three")["token_type_ids"]
    assert ENCODER.encode("one two")[0].types == b""
    without = msgspec.structs.replace(
        CONTRACT, processor=msgspec.structs.replace(CONTRACT.processor, inputs=("input_ids", "attention_mask"))
    )
    assert TextEncoder(vocabulary(), without).encode("one", "two")[0].types == b""


def test_an_over_long_text_is_refused_with_the_limit_unless_it_may_be_cut() -> None:
    with pytest.raises(Unprocessable, match=r"has 42 tokens, this model takes at most 32 tokens.*truncate"):
        ENCODER.encode("word " * 40)
    assert len(ids_of("word " * 40, parameters=TextParameters(truncate=True))) == 32


@given(words, st.none() | words, st.integers(4, 40), st.sampled_from([None, "left", "right"]))
@settings(deadline=None)
def test_a_number_cuts_to_that_many_tokens_at_the_left(text: str, pair: str | None, most: int, side: Any) -> None:
    REFERENCE.truncation_side = side or "left"
    expected = REFERENCE(text, pair, truncation=True, max_length=min(most, 32))["input_ids"]
    parameters = TextParameters(truncate=most, truncation_direction=side)
    assert ids_of(text, pair, parameters=parameters) == expected
    assert ENCODER.row(text, pair, parameters=parameters) == ENCODER.encode(text, pair, parameters=parameters)[0]


def test_a_number_leaves_a_token_beside_the_special_ones() -> None:
    assert len(ids_of("one two", parameters=TextParameters(truncate=3))) == 3
    assert len(ids_of("one two", parameters=TextParameters(truncate=1), special=False)) == 1
    with pytest.raises(Unprocessable, match=r"parameters.truncate leaves 2 tokens, of which 2 are special"):
        ENCODER.encode("one two", parameters=TextParameters(truncate=2))


def test_a_huge_text_is_refused_before_it_is_tokenized_and_cut_before_it_too() -> None:
    with pytest.raises(Unprocessable, match="has 1,000,000 characters"):
        ENCODER.encode("a" * 1_000_000)
    assert len(ids_of("word " * 200_000, parameters=TextParameters(truncate=True))) == 32
    assert ENCODER.max_characters == CHARACTERS_PER_TOKEN * 32


@pytest.mark.parametrize("pair", [("", None), ("a", "")])
def test_an_empty_text_is_refused(pair: tuple[str, str | None]) -> None:
    with pytest.raises(Unprocessable, match="empty text"):
        ENCODER.encode(*pair)


@pytest.mark.parametrize("text", ["\x00", "\x07\x1b[31m", "\u200b", "a\x00b", " "])
def test_control_characters_are_text(text: str) -> None:
    assert ids_of(text) == REFERENCE(text)["input_ids"]
