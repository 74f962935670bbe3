"""The copies of a tokenizer that truncate: they share its vocabulary, and have its tokens and ids."""

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from serving.processors.tokenizer_file import TokenizerFile
from tests.families import FAMILIES, make_tokenizer
from tests.small_models import vocabulary

TEXT_FAMILIES = [family for family in FAMILIES if family != "vit"]


def test_a_copy_shares_the_vocabulary() -> None:
    """Reading it again holds the GIL for as long as reading the file took."""
    file = TokenizerFile(vocabulary() / "tokenizer.json")
    file.cutter(8).model.continuing_subword_prefix = "++"
    assert file.exact.model.continuing_subword_prefix == "++"


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_copy_is_the_tokenizer_of_its_file(family: str, tmp_path: Path) -> None:
    make_tokenizer(family).save_pretrained(tmp_path)
    file = TokenizerFile(tmp_path / "tokenizer.json")
    copied = file.cutter(8)
    copied.no_truncation()
    assert copied.to_str() == file.exact.to_str()


def test_added_tokens_keep_their_ids_and_rules(tmp_path: Path) -> None:
    found = Tokenizer.from_file(str(vocabulary() / "tokenizer.json"))
    size = found.get_vocab_size()
    found.add_tokens([AddedToken("<b>", lstrip=True), "the", AddedToken("<a>", special=True), AddedToken("Über c")])
    found.save(str(tmp_path / "tokenizer.json"))
    file = TokenizerFile(tmp_path / "tokenizer.json")
    copied = file.cutter(64)
    text = "one  <b> the <a> über c two [MASK]"
    assert copied.encode(text).ids == file.exact.encode(text).ids
    assert copied.encode(text).offsets == file.exact.encode(text).offsets
    assert {size, size + 1} <= set(copied.encode(text).ids)
    copied.no_truncation()
    assert copied.to_str() == file.exact.to_str()


def test_a_copy_cuts_as_it_is_told_and_the_tokenizer_does_not() -> None:
    file = TokenizerFile(vocabulary() / "tokenizer.json")
    assert len(file.cutter(8).encode("a " * 20)) == 8
    assert len(file.cutter(6, direction="left").encode("a " * 20)) == 6
    assert len(file.exact.encode("a " * 20)) == 22
