"""Tokenizing a text of a body of 1 MB takes less than 200 MiB, whatever the tokenizer makes of it."""

from multiprocessing import get_context
from pathlib import Path
from tempfile import mkdtemp

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from registry.contract import Side
from serving.errors import Unprocessable
from serving.processors import long_texts, windows
from serving.processors.long_texts import MAX_TEXT_TOKENS, UNCOUNTED_BYTES, are_too_many, shorten
from serving.processors.tokenizer import TextEncoder, TextParameters
from tests.serving.processors.test_tokenizer import CONTRACT, memory_peak
from tests.small_models import vocabulary

pytestmark = pytest.mark.slow

BODY_BYTES = 1_000_000
FACE = "\N{GRINNING FACE}"
CUT = TextParameters(truncate=True)


def make(kind: str) -> Tokenizer:
    if kind == "words":
        return Tokenizer.from_file(str(vocabulary() / "tokenizer.json"))
    pieces = ["<unk>", "a", *(f"<0x{byte:02X}>" for byte in range(256))]
    if kind == "byte-level":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        found = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.post_processor = processors.ByteLevel()
    elif kind == "byte-fallback":
        ids = {piece: number for number, piece in enumerate(pieces)}
        found = Tokenizer(models.BPE(ids, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        found.normalizer = normalizers.Replace(" ", "▁")
    elif kind == "unigram":
        found = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 0, True))
        found.normalizer, found.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    else:
        found = Tokenizer(models.BPE({"a": 0}, []))
        found.add_tokens([AddedToken("!"), *(AddedToken(f"<{number}>") for number in range(256))])
    return found


def encoder_of(kind: str, max_tokens: int) -> TextEncoder:
    folder = Path(mkdtemp())
    make(kind).save(str(folder / "tokenizer.json"))
    return TextEncoder(folder, msgspec.structs.replace(CONTRACT, max_tokens=max_tokens))


def growth(kind: str, max_tokens: int, texts: list[str], parameters: TextParameters | None) -> int:
    """Bytes that this process is larger while it encodes a text or pair."""
    encoder = encoder_of(kind, max_tokens)
    encoder.row("a a", parameters=parameters)
    before = memory_peak()
    try:
        row = encoder.row(*texts, parameters=parameters)
    except Unprocessable as error:
        assert "this model takes at most" in error.message
    else:
        assert row.length <= max_tokens
    return memory_peak() - before


@pytest.mark.parametrize(("max_tokens", "parameters"), [(32_768, CUT), (131_072, CUT), (131_072, None)])
@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        ("words", "!"),
        ("words", "extraordinary "),
        ("byte-level", FACE),
        ("unigram", "a "),
        ("added", "!a"),
    ],
)
def test_no_text_of_a_body_of_1_mb_takes_200_mib(
    kind: str, unit: str, max_tokens: int, parameters: TextParameters | None
) -> None:
    text = unit * (BODY_BYTES // len(unit.encode()))
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(growth, (kind, max_tokens, [text], parameters)) < 200 << 20


def test_no_pair_of_a_body_of_1_mb_takes_200_mib() -> None:
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(growth, ("words", 131_072, ["!" * (BODY_BYTES // 2)] * 2, CUT)) < 200 << 20


def test_a_text_with_more_tokens_than_any_may_have_is_not_tokenized_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, given = encoder_of("byte-level", 1_048_576), []
    tokenize = TextEncoder._tokenize
    monkeypatch.setattr(
        TextEncoder, "_tokenize", staticmethod(lambda *args, **how: given.append(args[1]) or tokenize(*args, **how))
    )
    text = "a!" * (MAX_TEXT_TOKENS + 1)
    with pytest.raises(Unprocessable, match="has more than 131,072 tokens, this model takes at most 131,072 tokens"):
        encoder.row(text)
    with pytest.raises(Unprocessable, match="the text has more than 131,072 tokens: send it in parts"):
        encoder.split(text + "a")
    with pytest.raises(Unprocessable, match="left for the text"):
        encoder.windows("a", text[: encoder.max_characters], stride=0, max_tokens=512)
    assert max(map(len, given)) < len(text) // 2
    assert encoder.row(text, parameters=CUT).length == MAX_TEXT_TOKENS


@pytest.mark.parametrize("kind", ["words", "byte-level", "byte-fallback", "unigram", "added"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("lengths", [(400,), (400, 400), (400, 30), (30, 400)])
def test_a_shortened_text_has_the_row_of_the_whole(
    kind: str, side: Side, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(kind, 40_000)
    parameters = TextParameters(truncate=200, truncation_direction=side)
    texts = [(f"a!{FACE} aa a, extraordinary {number} " * length)[:-1] for number, length in enumerate(lengths)]
    expected = encoder.row(*texts, parameters=parameters)
    for module, name in ((long_texts, "UNCOUNTED_BYTES"), (long_texts, "MARGIN_TOKENS"), (windows, "PART_CHARACTERS")):
        monkeypatch.setattr(module, name, 256)
    assert sum(map(len, shorten(200, texts, side, encoder._count))) < sum(map(len, texts))
    assert encoder.row(*texts, parameters=parameters) == expected


def test_a_text_that_is_short_enough_is_not_counted() -> None:
    def count(part: str) -> int:
        raise AssertionError(part)

    assert not are_too_many(1, ["a" * UNCOUNTED_BYTES], count)
    assert shorten(1, ["a" * UNCOUNTED_BYTES], "right", count) == ["a" * UNCOUNTED_BYTES]
    assert not are_too_many(1, [FACE * (UNCOUNTED_BYTES // 4)], count)
    assert are_too_many(1, [FACE * (UNCOUNTED_BYTES // 4 + 1)], len)
