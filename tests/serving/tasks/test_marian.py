"""Marian (opus-mt): its tokenizer, which transformers has in Python only, becomes a fast one that reads the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from registry.errors import IncompleteArtifact
from registry.fast_tokenizers import write_fast_form
from registry.staging import stage
from serving.engine.predictor import Predictor
from tests.families import MAX_TOKENS, texts_of

pytestmark = [
    pytest.mark.processor,
    pytest.mark.sweep,
    pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses"),  # tokenizing does not use it (5.23)
]

CODES = (">>fra<<", ">>deu<<")
HALVES: dict[str, int] = {
    f"{half}_{key}": value
    for half in ("encoder", "decoder")
    for key, value in (("layers", 2), ("ffn_dim", 64), ("attention_heads", 2))
}


def make_marian(folder: Path, *, missing: int = 0, **settings: Any) -> Any:
    """A tokenizer of the published kind. missing: pieces of the SentencePiece model that vocab.json lacks."""
    import sentencepiece

    kind = settings.pop("model_type", "unigram")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text("\n".join(texts_of(200, 0)))
    for side in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "texts.txt"),
            model_prefix=str(folder / side),
            vocab_size=50,
            minloglevel=2,
            model_type=kind,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    own = [spm.id_to_piece(index) for index in range(3, spm.get_piece_size() - missing)]
    names = ["</s>", "<unk>", *reversed(own), *CODES, *(f"w{number}" for number in range(20)), "<pad>"]
    vocabulary = {token: index for index, token in enumerate(names)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    return transformers.MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        model_max_length=MAX_TOKENS,
        **settings,
    )


def test_the_fast_tokenizer_reads_the_same(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = make_marian(tmp_path)
    write_fast_form(tokenizer, tmp_path)
    fast = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    odd = ["  two  spaces ", "naïve café", "日本語 🙂", "a</s>b", "<pad>", "a <unk> b", "tabs\tand\nlines", "Ⅷ ﬁ"]
    for text in [*texts_of(100, 8), *odd, ">>fra<< the dog", ">>deu<<a dog", ">>fra<<"]:
        ids = tokenizer(text)["input_ids"]
        assert fast.encode(text).ids == ids, text
        assert fast.decode(ids).strip() == tokenizer.decode(ids, skip_special_tokens=True), text


@torch.inference_mode()
def test_a_translation_is_what_generate_writes(tmp_path: Path) -> None:
    tokenizer = make_marian(tmp_path / "made")
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        **HALVES,
        max_position_embeddings=MAX_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=0,
        decoder_start_token_id=tokenizer.pad_token_id,
        init_std=0.4,
    )
    model = transformers.MarianMTModel(config).eval()
    model.generation_config.update(max_length=20, num_beams=3, bad_words_ids=[[tokenizer.pad_token_id]])
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    stage(tmp_path / "root", tmp_path / "saved", None, "translation")
    predictor = Predictor(tmp_path / "root")
    for text in [*texts_of(3, 3, 10), f"{CODES[0]} {texts_of(1, 4)[0]}"]:
        (made,) = model.generate(**tokenizer(text, return_tensors="pt"))
        expected = tokenizer.decode(made, skip_special_tokens=True)
        assert predictor.answer(text) == [{"translation_text": expected}]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"missing": 4}, r"4 pieces .* are not in vocab\.json: save"),
        ({"model_type": "bpe"}, "of another kind .*: choose a checkpoint"),
    ],
)
def test_what_cannot_be_converted_exactly_is_refused(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(IncompleteArtifact, match=said):
        write_fast_form(make_marian(tmp_path, **settings), tmp_path)


def test_two_vocabularies_are_refused(tmp_path: Path) -> None:
    tokenizer = make_marian(tmp_path)
    tokenizer.separate_vocabs = True
    with pytest.raises(IncompleteArtifact, match="says separate_vocabs"):
        write_fast_form(tokenizer, tmp_path)
