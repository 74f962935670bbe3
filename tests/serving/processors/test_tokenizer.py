import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

from registry.contract import Processor, Side
from serving.errors import Unprocessable
from serving.processors import windows
from serving.processors.panics import NativePanic, contain_panics
from serving.processors.tokenizer import CHARACTERS_PER_TOKEN, MAX_CHARACTERS, TextEncoder, TextParameters, still_wanted
from tests.contracts import classifier
from tests.families import WORDS, make_tokenizer
from tests.small_models import vocabulary

pytestmark = pytest.mark.slow


CONTRACT = classifier(
    max_tokens=32,
    processor=Processor(
        class_name="BertTokenizer",
        inputs=("input_ids", "token_type_ids", "attention_mask"),
        pad_token_id=0,
        unk_token_id=100,
        vocabulary=30522,
    ),
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


def encoder_of(folder: Path, **changes: Any) -> tuple[TextEncoder, Any]:
    """An encoder of XLNet's kind, and transformers' tokenizer: padded on the left, single texts with token types."""
    make_tokenizer("xlnet").save_pretrained(folder)
    reference = AutoTokenizer.from_pretrained(folder)
    processor = msgspec.structs.replace(
        CONTRACT.processor,
        inputs=tuple(reference.model_input_names),
        padding_side=reference.padding_side,
        **changes,
    )
    return TextEncoder(folder, msgspec.structs.replace(CONTRACT, processor=processor)), reference


def test_a_single_text_has_the_types_that_its_tokenizer_gives(tmp_path: Path) -> None:
    encoder, reference = encoder_of(tmp_path)
    for texts in (("the quick fox",), ("the quick fox", "a dog")):
        assert list(encoder.row(*texts).types) == reference(*texts)["token_type_ids"]


def test_words_of_texts_with_types_are_not_cached(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    said = json.loads((vocabulary() / path.name).read_text())
    opening = {"SpecialToken": {"id": "[CLS]", "type_id": 2}}
    said["post_processor"]["single"][0] = opening
    path.write_text(json.dumps(said))
    assert list(TextEncoder(tmp_path, CONTRACT).row("one two").types) == [2, 0, 0, 0]


@pytest.mark.parametrize("side", ["left", "right"])
def test_an_over_long_text_is_cut_where_its_tokenizer_cuts(tmp_path: Path, side: Side) -> None:
    encoder, reference = encoder_of(tmp_path, truncation_side=side)
    reference.truncation_side = side
    text = " ".join(WORDS * 4)
    expected = reference(text, truncation=True, max_length=32)["input_ids"]
    assert memoryview(encoder.row(text, parameters=TextParameters(truncate=True)).tokens).cast("i").tolist() == expected
    for asked in ("left", "right"):
        reference.truncation_side = asked
        expected = reference(text, truncation=True, max_length=32)["input_ids"]
        row = encoder.row(text, parameters=TextParameters(truncate=True, truncation_direction=asked))
        assert memoryview(row.tokens).cast("i").tolist() == expected


def test_the_context_stands_before_the_question_where_padding_is_left(tmp_path: Path) -> None:
    encoder, reference = encoder_of(tmp_path)
    text, question = " ".join(WORDS * 4), "who jumps"
    windows = encoder.windows(text, question, stride=4)
    expected = reference(
        text, question, truncation="only_first", max_length=32, stride=4, return_overflowing_tokens=True
    )
    assert [encoding.ids for _, encoding in windows] == expected["input_ids"]
    assert [list(row.types) for row, _ in windows] == expected["token_type_ids"]
    assert encoder.text_sequence == 0


def test_a_frame_is_what_a_row_has_beside_its_texts(tmp_path: Path) -> None:
    encoder, reference = encoder_of(tmp_path)
    sep, cls = reference.sep_token_id, reference.cls_token_id
    assert encoder.frame(is_pair=False) == [(None, 0), (sep, 0), (cls, 2)]
    assert encoder.frame(is_pair=True) == [(None, 0), (sep, 0), (None, 1), (sep, 1), (cls, 2)]


def test_the_tokens_of_all_windows_are_bounded_before_they_are_made() -> None:
    question, text = "q " * 10, "a " * 600
    assert len(ENCODER.windows(text, question, stride=0)) * 32 == 1024
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(windows, "MAX_WINDOW_TOKENS", 500)
        patched.setattr(ENCODER._file, "cutter", None)  # no window is made
        with pytest.raises(Unprocessable, match="have 1,024 or more tokens together, at most 500"):
            ENCODER.windows(text, question, stride=0)


def test_of_a_text_with_too_many_windows_only_as_many_parts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer takes some hundred bytes for each token of what it is given at once."""
    given: list[str] = []
    tokenize = TextEncoder._tokenize
    monkeypatch.setattr(
        TextEncoder, "_tokenize", staticmethod(lambda *args, **how: given.append(args[1]) or tokenize(*args, **how))
    )
    encoder = TextEncoder(vocabulary(), msgspec.structs.replace(CONTRACT, max_tokens=512))
    with pytest.raises(Unprocessable, match="or more tokens together"):
        encoder.windows("!" * MAX_CHARACTERS, stride=128)
    assert len(given) < 8
    assert max(map(len, given)) == windows.PART_CHARACTERS


def test_parts_are_the_text_and_end_before_spaces() -> None:
    text = "word " * (windows.PART_CHARACTERS // 2) + "x" * (2 * windows.PART_CHARACTERS)
    parts = list(windows.parts_of(text))
    assert "".join(parts) == text
    assert all(0 < len(part) <= windows.PART_CHARACTERS for part in parts)
    assert all(part.startswith(" word") for part in parts[1:2])


def test_texts_of_any_model_have_a_most_of_characters() -> None:
    for tokens, most in ((32, 32 * 64), (8192, MAX_CHARACTERS), (32_768, MAX_CHARACTERS), (131_072, 8 * 131_072)):
        assert TextEncoder(vocabulary(), msgspec.structs.replace(CONTRACT, max_tokens=tokens)).max_characters == most


def test_a_row_whose_words_are_too_many_is_not_tokenized_again() -> None:
    with pytest.MonkeyPatch.context() as patched:
        assert ENCODER.row("a " * 20).length == 22  # the words are known
        patched.setattr(ENCODER, "exact", None)
        with pytest.raises(Unprocessable, match="inputs has 102 tokens, this model takes at most 32"):
            ENCODER.row("a " * 99 + "a")


def test_the_longest_text_is_tokenized_within_200_mib() -> None:
    """In a process of its own, as memory that was freed before would be used again."""
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(growth_by_longest_text) < 200 << 20


def growth_by_longest_text() -> int:
    """Bytes that this process is larger while it tokenizes a text of which each character is a token."""
    encoder = TextEncoder(vocabulary(), msgspec.structs.replace(CONTRACT, max_tokens=8192))
    encoder.row("a text")
    before = memory_peak()
    with pytest.raises(Unprocessable, match="this model takes at most 8,192 tokens"):
        encoder.row("!" * encoder.max_characters)
    return memory_peak() - before


def memory_peak() -> int:
    """The most bytes that this process has had in memory."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def test_a_row_that_nobody_waits_for_is_not_tokenized() -> None:
    def refuse() -> None:
        raise Unprocessable("nobody waits")

    def work() -> None:
        still_wanted.set(refuse)
        with pytest.raises(Unprocessable, match="nobody waits"):
            ENCODER.row("a", "b")

    copy_context().run(work)
    assert ENCODER.row("a", "b").length == 5


def test_a_tokenizer_that_panics_costs_the_text_and_nothing_else(tmp_path: Path) -> None:
    """PyO3's panic is a BaseException, which would pass everything that keeps a front going."""
    found = Tokenizer.from_file(str(vocabulary() / "tokenizer.json"))
    found.pre_tokenizer = pre_tokenizers.Split(Regex("(x+)+$"), "isolated")  # takes time without end on some texts
    found.save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder(tmp_path, CONTRACT)
    for ask in (encoder.row, encoder.encode, encoder.tokenize):
        with pytest.raises(NativePanic, match="retry-limit"):
            ask("x" * 30 + "y")
    assert encoder.row("a b").length > 0


def test_what_ends_a_program_is_no_panic() -> None:
    @contain_panics
    class Ending:
        def end(self, error: type[BaseException]) -> None:
            raise error

    for error in (KeyboardInterrupt, SystemExit, GeneratorExit, ValueError):
        with pytest.raises(error):
            Ending().end(error)
    with pytest.raises(NativePanic):
        Ending().end(BaseException)


def test_threads_that_cut_differently_do_not_disturb_each_other() -> None:
    text = "a " * 60
    sides: list[Side] = ["left", "right"]

    def cut(number: int) -> tuple[int, int]:
        given = TextParameters(truncate=10 + number % 7, truncation_direction=sides[number % 2])
        return given.max_tokens or 0, ENCODER.row(text + "b", parameters=given).length

    with ThreadPoolExecutor(4) as pool:
        lengths = list(pool.map(cut, range(400)))
    assert [length for _, length in lengths] == [wanted for wanted, _ in lengths]
