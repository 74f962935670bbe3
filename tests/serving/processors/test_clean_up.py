"""Cleaned up texts are transformers', whole and in parts, and only where its tokenizer cleans them up."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.staging import stage
from serving.engine.predictor import Predictor
from serving.errors import Unprocessable
from serving.processors.clean_up import REPLACED, Cleaner, clean_up
from tests.families import build

pytestmark = pytest.mark.slow


PIECES = st.sampled_from([" ", "'", "n", "t", "a", "dog", *(found for found, _ in REPLACED), *"msve.,!?"])


MAX_HELD = sum(len(found) - 1 for found, _ in REPLACED)


@given(st.lists(PIECES, max_size=24))
def test_a_text_in_parts_is_the_same_as_in_one(parts: list[str]) -> None:
    text, cleaner, given = "".join(parts), Cleaner(), ""
    expected: str = transformers.PreTrainedTokenizerBase.clean_up_tokenization(None, text)  # type: ignore[arg-type]
    assert clean_up(text) == expected
    for count, part in enumerate(parts, 1):
        given += cleaner.push(part)
        assert len(clean_up("".join(parts[:count]))) - len(given) <= MAX_HELD
    assert given + cleaner.push("", is_last=True) == expected


@given(st.text(" .?!,'ntmsvrea", max_size=40), st.lists(st.integers(1, 5), min_size=40, max_size=40))
@settings(max_examples=500)
def test_a_text_cut_anywhere_is_the_same_as_in_one(text: str, sizes: list[int]) -> None:
    cleaner, given, rest = Cleaner(), "", text
    for size in sizes:
        given += cleaner.push(rest[:size])
        rest = rest[size:]
    assert given + cleaner.push("", is_last=True) == clean_up(text)


def test_little_is_held_back() -> None:
    cleaner = Cleaner()
    assert cleaner.push("a text without spaces".replace(" ", "")) == "atextwithoutspaces"
    assert cleaner.push(" it") == " it"
    assert cleaner.push(" n'") == ""
    assert cleaner.push("s ") == " n's"
    assert cleaner.push("", is_last=True) == " "


def test_single_letters_are_not_held_back() -> None:
    cleaner = Cleaner()
    assert [cleaner.push(" a") for _ in range(2048)] == [" a"] * 2048


@pytest.mark.parametrize(("family", "cleans"), [("albert", True), ("roberta", None)])
def test_a_masked_text_is_the_pipelines(tmp_path: Path, family: str, cleans: bool | None) -> None:
    """Byte-pair encodings are left alone, whatever tokenizer_config.json says."""
    folder = build(tmp_path / "saved", family, "AutoModelForMaskedLM")
    set_clean_up(folder)
    contract = stage(tmp_path / "root", folder, None, "fill-mask")
    assert (contract.processor.cleans_up is True) is bool(cleans)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    text = f"the dog 's fox {tokenizer.mask_token} ."
    pipeline = transformers.pipeline("fill-mask", model=str(folder), tokenizer=tokenizer)
    expected = [entry["sequence"] for entry in pipeline(text)]
    answer = Predictor(tmp_path / "root").answer(text)
    assert [entry["sequence"] for entry in answer] == expected


def test_a_generated_text_is_the_tokenizers(tmp_path: Path) -> None:
    folder = build(tmp_path / "saved", "t5", "AutoModelForSeq2SeqLM")
    set_clean_up(folder)
    stage(tmp_path / "root", folder, None, "summarization")
    predictor, tokenizer = Predictor(tmp_path / "root"), transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    for text in ("the dog", "a fox again"):
        (made,) = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=12)
        expected = tokenizer.decode(made, skip_special_tokens=True)
        assert predictor.answer(text, {"max_new_tokens": 12}) == [{"summary_text": expected}]
    with pytest.raises(Unprocessable, match="clean_up_tokenization_spaces is true for this model's tokenizer"):
        predictor.answer("the dog", {"clean_up_tokenization_spaces": False})


def set_clean_up(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"clean_up_tokenization_spaces": True}))
