"""Translation in any direction: marks and first token of each language as transformers' tokenizers and `generate` have
them.
"""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import transformers

from registry.artifact import read_contract
from registry.errors import ContractError, IncompleteArtifact
from registry.fast_tokenizers import write_fast_form
from registry.staging import make_contract
from serving.engine.predictor import Predictor
from serving.errors import Unprocessable
from tests import families
from tests.families import MAX_TOKENS, texts_of
from tests.local import Local

pytestmark = [pytest.mark.processor, pytest.mark.sweep]

TEXTS = texts_of(4, 21, 14)
LANGUAGES = {
    "mbart50": ("en_XX", "fr_XX", "de_DE"),
    "mbart": ("en_XX", "fr_XX", "ro_RO"),
    "nllb": ("eng_Latn", "fra_Latn", "zho_Hans"),
    "nllb-legacy": ("eng_Latn", "fra_Latn", "zho_Hans"),
    "m2m_100": ("en", "fr", "zh"),
}
SIZES: dict[str, Any] = {
    "d_model": 32,
    **{f"{half}_{key}": value for half in ("encoder", "decoder") for key, value in (("layers", 2), ("ffn_dim", 64))},
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}


def pieces() -> list[tuple[str, float]]:
    """The scored pieces of a Unigram tokenizer of the words of the tests."""
    found = json.loads(families.make_tokenizer("t5").backend_tokenizer.to_str())["model"]["vocab"]
    special = [(token, 0.0) for token in ("<unk>", "<s>", "</s>")]
    return [*special, *((piece, score) for piece, score in found if piece not in families.SPECIAL)]


def make_tokenizer(kind: str, folder: Path) -> Any:
    """The family's own tokenizer class over a small vocabulary, with all of its languages."""
    if kind == "m2m_100":
        return make_m2m_100(folder)
    if kind in ("mbart", "mbart50"):
        cls = transformers.MBart50Tokenizer if kind == "mbart50" else transformers.MBartTokenizer
        return cls(vocab=pieces(), src_lang=LANGUAGES[kind][0], model_max_length=MAX_TOKENS)
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    letters = sorted({letter for text in texts_of(50, 0) for letter in text if letter != " "})
    for token in ("▁", *letters, *(f"w{number}" for number in range(1500))):  # most tokens are text, not languages
        vocabulary[token] = len(vocabulary)
    return transformers.NllbTokenizer(
        vocab=vocabulary, merges=[], legacy_behaviour=kind == "nllb-legacy", model_max_length=MAX_TOKENS
    )


def make_m2m_100(folder: Path, missing: int = 0) -> Any:
    """missing: pieces of the SentencePiece model that vocab.json lacks."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("\n".join(texts_of(200, 0)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"), model_prefix=str(folder / "sp"), vocab_size=50, minloglevel=2
    )
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sp.model"))
    own = [spm.id_to_piece(index) for index in range(3, spm.get_piece_size() - missing)]
    own += [f"w{number}" for number in range(300)]  # most tokens are text, not languages
    vocabulary = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *reversed(own)])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    return transformers.M2M100Tokenizer(
        vocab_file=str(folder / "vocab.json"),
        spm_file=str(folder / "sp.model"),
        model_max_length=MAX_TOKENS,
        additional_special_tokens=[
            f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]
        ],  # as published ones have
    )


@cache
def saved(kind: str) -> tuple[Path, Any, Any]:
    """An artifact, and the model and tokenizer as transformers loads them from the checkpoint."""
    root = Path(mkdtemp())
    torch.manual_seed(0)
    tokenizer = make_tokenizer(kind, root / "made")
    family = "mbart" if kind.startswith("mbart") else "m2m_100"
    config = transformers.AutoConfig.for_model(
        family,
        **SIZES,
        vocab_size=max(len(tokenizer), *getattr(tokenizer, "lang_code_to_id", {"": 0}).values()) + 1,
        max_position_embeddings=MAX_TOKENS,
        decoder_start_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        init_std=0.4,
    )
    model = transformers.AutoModelForSeq2SeqLM.from_config(config).eval()
    model.generation_config.max_new_tokens = 9
    model.save_pretrained(root / "checkpoint")
    tokenizer.save_pretrained(root / "checkpoint")
    return root, model, transformers.AutoTokenizer.from_pretrained(root / "checkpoint")


def artifact(kind: str, root: Path, **given: Any) -> Path:
    """What logging writes, without a registry."""
    checkpoint, model, tokenizer = saved(kind)
    model.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    write_fast_form(tokenizer, root / "model")
    make_contract(root, model, tokenizer, "translation", origin=checkpoint / "checkpoint", **given)
    return root


@torch.inference_mode()
def translate(kind: str, text: str, source: str | None, target: str | None, **given: Any) -> str:
    """The text of transformers."""
    _, model, tokenizer = saved(kind)
    before = tokenizer.src_lang
    tokenizer.src_lang = source or before
    inputs = tokenizer(text, return_tensors="pt")
    tokenizer.src_lang = before
    first = None if target is None else tokenizer.convert_tokens_to_ids(target)
    if target is not None and hasattr(tokenizer, "get_lang_id"):
        first = tokenizer.get_lang_id(target)
    (made,) = model.generate(**inputs, forced_bos_token_id=first, **given)
    return str(tokenizer.decode(made, skip_special_tokens=True))


@pytest.mark.parametrize("kind", LANGUAGES)
def test_any_direction_is_what_generate_writes(tmp_path: Path, kind: str) -> None:
    predictor = Predictor(artifact(kind, tmp_path))
    found = set()
    for source in LANGUAGES[kind]:
        for target in LANGUAGES[kind]:
            text = TEXTS[len(found) % len(TEXTS)]
            answer = predictor.answer(text, {"src_lang": source, "tgt_lang": target})[0]["translation_text"]
            assert answer == translate(kind, text, source, target)
            found.add(answer)
    assert len(found) > 1, "the languages make a difference"
    assert predictor.answer(TEXTS[0])[0]["translation_text"] == translate(kind, TEXTS[0], None, None)
    beams = {"src_lang": LANGUAGES[kind][1], "tgt_lang": LANGUAGES[kind][2], "num_beams": 3}
    assert predictor.answer(TEXTS[1], beams)[0]["translation_text"] == translate(
        kind, TEXTS[1], LANGUAGES[kind][1], LANGUAGES[kind][2], num_beams=3
    )


def test_requests_of_several_directions_share_batches(tmp_path: Path) -> None:
    root, run = artifact("nllb", tmp_path / "root"), tmp_path / "run"
    run.mkdir()
    directions = [(source, target) for source in LANGUAGES["nllb"] for target in LANGUAGES["nllb"]]
    asked = [(TEXTS[index % len(TEXTS)], *direction) for index, direction in enumerate(directions)]
    local = Local(root, run)
    answers = local.answers(
        [{"inputs": text, "parameters": {"src_lang": source, "tgt_lang": target}} for text, source, target in asked]
    )
    assert [answer[0]["translation_text"] for answer in answers] == [translate("nllb", *each) for each in asked]
    assert max(local.model.batches) > 1


def test_a_contract_holds_the_languages_and_their_marks(tmp_path: Path) -> None:
    marks = {}
    for kind in LANGUAGES:
        languages = read_contract(artifact(kind, tmp_path / kind)).processor.languages
        assert languages is not None
        tokenizer = saved(kind)[2]
        wanted = LANGUAGES[kind][1] if kind != "m2m_100" else "__fr__"
        assert languages.ids[LANGUAGES[kind][1]] == tokenizer.convert_tokens_to_ids(wanted)
        marks[kind] = (languages.before, languages.after)
    assert marks == {
        "mbart50": ((-1,), (2,)),
        "mbart": ((), (2, -1)),
        "nllb": ((-1,), (2,)),
        "nllb-legacy": ((), (2, -1)),
        "m2m_100": ((-1,), (2,)),
    }


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"src_lang": "english"}, r"src_lang is 'english'.* choose one of: eng_Latn, .* and \d+ more"),
        ({"tgt_lang": "xx"}, "tgt_lang is 'xx'.* choose one of: "),
        ({"tgt_lang": "fra_Latn", "forced_bos_token_id": 5}, "leave one out"),
        ({"forced_bos_token_id": 100_000}, "forced_bos_token_id is 100000"),
        ({"src_lang": "fra_Latn", "add_special_tokens": False}, "needs special tokens"),
    ],
)
def test_languages_that_the_tokenizer_lacks_are_refused(tmp_path: Path, parameters: dict[str, Any], said: str) -> None:
    predictor = Predictor(artifact("nllb", tmp_path))
    with pytest.raises(Unprocessable, match=said) as refused:
        predictor.answer(TEXTS[0], parameters)
    assert len(refused.value.message) < 500


def test_defaults_name_the_languages_of_requests_without(tmp_path: Path) -> None:
    chosen = {"src_lang": "fra_Latn", "tgt_lang": "zho_Hans"}
    predictor = Predictor(artifact("nllb", tmp_path / "a", defaults=chosen))
    expected = translate("nllb", TEXTS[0], "fra_Latn", "zho_Hans")
    assert predictor.answer(TEXTS[0])[0]["translation_text"] == expected
    forced = {"forced_bos_token_id": predictor.contract.processor.languages.ids["eng_Latn"]}  # type: ignore[union-attr]
    assert predictor.answer(TEXTS[0], forced)[0]["translation_text"] == translate(
        "nllb", TEXTS[0], "fra_Latn", "eng_Latn"
    )
    with pytest.raises(ContractError, match="default tgt_lang is 'fr'; the languages of the tokenizer: fra_Latn"):
        artifact("nllb", tmp_path / "b", defaults={"tgt_lang": "fr"})


def test_an_over_long_source_keeps_its_marks_when_it_is_cut(tmp_path: Path) -> None:
    predictor = Predictor(artifact("nllb", tmp_path, max_tokens=24, parameters={"truncate": True}))
    text, tokenizer = " ".join(TEXTS), saved("nllb")[2]
    found = predictor.answer(text, {"src_lang": "fra_Latn", "tgt_lang": "eng_Latn", "truncate": True})
    cut = tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:22])
    assert found[0]["translation_text"] == translate("nllb", cut, "fra_Latn", "eng_Latn")


def test_an_m2m_100_tokenizer_becomes_a_fast_one_that_reads_the_same(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = make_m2m_100(tmp_path)
    write_fast_form(tokenizer, tmp_path)
    fast = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = [
        *texts_of(200, 8),
        "  two  spaces ",
        "naïve café",
        "日本語 🙂",
        "a</s>b",
        "__fr__ the dog",
        "tabs\tand\nlines",
        "Ⅷ ﬁ",
    ]
    for text in texts:
        assert fast.encode(text).ids == tokenizer(text)["input_ids"], text
        ids = tokenizer(text)["input_ids"]
        assert fast.decode(ids).strip() == tokenizer.decode(ids, skip_special_tokens=True), text
    with pytest.raises(IncompleteArtifact, match=r"4 pieces .* are not in vocab\.json"):
        write_fast_form(make_m2m_100(tmp_path / "other", missing=4), tmp_path / "other")
