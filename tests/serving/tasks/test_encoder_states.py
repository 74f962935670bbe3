"""feature-extraction of models with an encoder: the decoder's states where the text alone gives them, else the
encoder's.
"""

from pathlib import Path

import pytest
import torch
import transformers

from registry.staging import make_contract
from serving.engine.predictor import Predictor
from tests.alike import assert_alike
from tests.families import MAX_TOKENS, make_tokenizer, texts_of

pytestmark = pytest.mark.sweep

SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
PROPHETNET = {
    "hidden_size": 32,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_attention_heads": 2,
    "num_decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
ENCODERS = ("pegasus", "pegasus_x", "marian", "m2m_100", "blenderbot", "blenderbot-small", "prophetnet", "nllb-moe")
WHOLE = ("mbart", "plbart", "mvp", "fsmt")
TEXTS = texts_of(5, 3, 20)


@pytest.mark.parametrize("family", [*ENCODERS, *WHOLE])
def test_states_are_those_of_the_half_that_reads_the_text(tmp_path: Path, family: str) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer("t5")
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    sizes = PROPHETNET if family == "prophetnet" else SIZES
    vocabulary = {"src_vocab_size": len(tokenizer), "tgt_vocab_size": len(tokenizer)} if family == "fsmt" else {}
    config = transformers.AutoConfig.for_model(
        family,
        **(sizes | ids | vocabulary),
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        decoder_start_token_id=tokenizer.eos_token_id,
        init_std=0.2,
    )
    model = transformers.AutoModel.from_config(config).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    make_contract(tmp_path, model, tokenizer, "feature-extraction", origin=tmp_path / "model")
    answers = Predictor(tmp_path).answer(TEXTS)
    half = model.get_encoder() if family in ENCODERS else model
    for text, answer in zip(TEXTS, answers, strict=True):
        with torch.inference_mode():
            assert_alike(answer, half(**tokenizer(text, return_tensors="pt")).last_hidden_state[0])
